"""TokenHPE v1: a head's rotation by a vision transformer and nine orientation tokens.

Mirrors `TokenHPEv1` of zc2023/TokenHPE (ViT-B/16, three decoder layers, eight heads, sine position). Maths: Zhang et al.,
"TokenHPE: Learning Orientation Tokens for Efficient Head Pose Estimation via Transformers", CVPR 2023; six numbers to a
rotation: Zhou et al., "On the Continuity of Rotation Representations in Neural Networks", CVPR 2019.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fexport.checkpoints import Checkpoint
from fexport.networks.preprocess import Preprocess
from fexport.recipe import Recipe, StandIn
from fexruntime.contracts import Crop, Network
from fexruntime.contracts.labels import ORIENTATIONS

WIDTH, DEPTH, HEADS, PATCH, GRID = 768, 12, 12, 16, 14
"""ViT-B/16 on 224 pixels."""
TOKEN, LAYERS, TOKEN_HEADS, HIDDEN = 128, 3, 8, 384
"""The decoder ("lyr3"). Its class's defaults, of twelve layers and heads, are another network's."""
_IDENTITY_6D = np.array([1, 0, 0, 0, 1, 0], np.float32)


def rotations(six: Tensor) -> Tensor:
    """Six numbers [N,6] -> rotations [N,3,3] by Gram-Schmidt: columns x, y, z, of x = a, z = x × b, y = z × x.

    Norms are kept from 1e-8 up, so zero or parallel vectors give zero columns and no rotation, as in the reference.
    """
    x = _unit(six[:, 0:1], six[:, 1:2], six[:, 2:3])
    z = _unit(*_cross(x, (six[:, 3:4], six[:, 4:5], six[:, 5:6])))
    y = _cross(z, x)
    return torch.stack([torch.cat([x[k], y[k], z[k]], dim=1) for k in range(3)], dim=1)


def _unit(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    length = (a * a + b * b + c * c).sqrt().clamp_min(1e-8)
    return a / length, b / length, c / length


def _cross(u: tuple[Tensor, Tensor, Tensor], v: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    return u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]


def _attend(qkv: Tensor, heads: int, scale: float) -> Tensor:
    """[B,T,3·C] -> [B,T,C]: q, k and v in a row, heads contiguous in each."""
    batch, count, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    q, k, v = qkv.view(batch, count, 3, heads, width // heads).permute(2, 0, 3, 1, 4).unbind(0)
    weights = ((q @ k.transpose(-2, -1)) * scale).softmax(dim=-1)
    mixed: Tensor = (weights @ v).transpose(1, 2).reshape(batch, count, width)
    return mixed


class Attention(nn.Module):
    """ViT's self-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.proj(_attend(self.qkv(x), HEADS, (WIDTH // HEADS) ** -0.5))
        return y


class Mlp(nn.Module):
    """ViT's two linear layers, with the exact GELU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(WIDTH, 4 * WIDTH)
        self.fc2 = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(nn.functional.gelu(self.fc1(x)))
        return y


class ViTBlock(nn.Module):
    """x + attention, x + MLP, each of a layer norm of x."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH, eps=1e-6)
        self.attn = Attention()
        self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6)
        self.mlp = Mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class PatchEmbed(nn.Module):
    """[N,3,224,224] -> patches [N,196,768]."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, WIDTH, PATCH, PATCH)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return y


class ViT(nn.Module):
    """ViT-B/16: features of the patches, [N,196,768]; the class token is dropped, `head` is in the file and unused."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, GRID * GRID + 1, WIDTH))
        self.patch_embed = PatchEmbed()
        self.blocks = nn.Sequential(*(ViTBlock() for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.head = nn.Linear(WIDTH, 6)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch_embed(x)
        tokens = torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1)
        y: Tensor = self.norm(self.blocks(tokens + self.pos_embed))[:, 1:]
        return y


class TokenAttention(nn.Module):
    """The decoder's self-attention: scaled by its whole width, not by a head's, as the reference has it."""

    def __init__(self) -> None:
        super().__init__()
        self.to_qkv = nn.Linear(TOKEN, 3 * TOKEN, bias=False)
        self.to_out = nn.Sequential(nn.Linear(TOKEN, TOKEN), nn.Dropout())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.to_out(_attend(self.to_qkv(x), TOKEN_HEADS, TOKEN**-0.5))
        return y


class FeedForward(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(TOKEN, HIDDEN), nn.GELU(), nn.Dropout(), nn.Linear(HIDDEN, TOKEN), nn.Dropout()
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        return y


class PreNorm(nn.Module):
    """A function of a layer norm."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(TOKEN)
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fn(self.norm(x))
        return y


class Residual(nn.Module):
    """A function added to what it is given."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fn(x) + x
        return y


class TokenTransformer(nn.Module):
    """The decoder's layers, without a norm at their end."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList([Residual(PreNorm(TokenAttention())), Residual(PreNorm(FeedForward()))])
            for _ in range(LAYERS)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleList)
            for part in layer:
                x = part(x)
        return x


class OrientationBlocks(nn.Module):
    """Features [N,196,768] -> the rotation of each orientation token, [9·N,3,3]; the tokens have no position."""

    def __init__(self) -> None:
        super().__init__()
        self.ori_tokens = nn.Parameter(torch.zeros(1, ORIENTATIONS, TOKEN))
        self.pos_embedding = nn.Parameter(torch.zeros(1, GRID * GRID, TOKEN))
        self.patch_to_embedding = nn.Linear(WIDTH, TOKEN)
        self.transformer = TokenTransformer()
        self.to_dir_6_d = nn.Sequential(nn.Linear(TOKEN, 6))

    def forward(self, features: Tensor) -> Tensor:
        patches = self.patch_to_embedding(features) + self.pos_embedding
        tokens = self.ori_tokens.expand(patches.shape[0], -1, -1)
        seen = self.transformer(torch.cat([tokens, patches], dim=1))[:, :ORIENTATIONS]
        return rotations(self.to_dir_6_d(seen).reshape(-1, 6))


class TokenHPE(nn.Module):
    """chips [N,3,224,224] RGB in [0,1] -> (rotation [N,3,3], rotations of the tokens [N,9,3,3])."""

    def __init__(self, preprocess: nn.Module) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.feature_extractor = ViT()
        self.Ori_blocks = OrientationBlocks()
        self.mlp_head = nn.Sequential(nn.Linear(9 * ORIENTATIONS, 243), nn.Tanh(), nn.Linear(243, 6))

    def forward(self, chips: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.Ori_blocks(self.feature_extractor(self.preprocess(chips)))
        rotation = rotations(self.mlp_head(tokens.reshape(-1, 9 * ORIENTATIONS)))
        return rotation, tokens.reshape(-1, ORIENTATIONS, 3, 3)


def sine_table() -> NDArray[np.float32]:
    """The fixed position table [1,196,128] that every published checkpoint holds: half its channels y, half x."""
    half = TOKEN // 2
    period = (np.float32(10000.0) ** (2 * (np.arange(half) // 2) / half)).astype(np.float32)
    at = np.arange(1, GRID + 1, dtype=np.float32)
    at = at / (at[-1] + np.float32(1e-6)) * np.float32(2 * np.pi)
    angle = at[:, None] / period
    axis = np.where(np.arange(half) % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)
    return np.concatenate([np.repeat(axis, GRID, 0), np.tile(axis, (GRID, 1))], axis=1)[None]


def _well_conditioned(made: dict[str, NDArray[Any]]) -> None:
    """The position table is no random tensor; and random sixes are moved by the identity's, away from parallel pairs."""
    made["Ori_blocks.pos_embedding"] = sine_table()
    for key in ("Ori_blocks.to_dir_6_d.0.bias", "mlp_head.2.bias"):
        made[key] = made[key] + _IDENTITY_6D


def _make(network: Network, checkpoint: Checkpoint, crop: Crop | None) -> tuple[nn.Module, None]:
    assert crop is not None
    return TokenHPE(Preprocess(network, crop)), None


RECIPE = Recipe(_make, StandIn(adjust=_well_conditioned))

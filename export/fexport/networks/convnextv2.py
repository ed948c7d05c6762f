"""ConvNeXt V2 Tiny trunk, with timm's names (`features_only`), kept in NHWC between its depthwise convolutions.

Mirrors timm's `convnextv2_tiny`. Maths: Woo et al., "ConvNeXt V2: Co-designing and Scaling ConvNets with Masked
Autoencoders", 2023 (global response normalisation, section 3.2).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

DEPTHS = (3, 3, 9, 3)
WIDTHS = (96, 192, 384, 768)
EPS = 1e-6


class GRN(nn.Module):
    """Global response normalisation of [B,H,W,C]: x + bias + weight * x * g / mean_c(g), g the norm over H and W."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(Tensor(width).fill_(0.0))
        self.bias = nn.Parameter(Tensor(width).fill_(0.0))

    def forward(self, x: Tensor) -> Tensor:
        g = x.norm(p=2, dim=(1, 2), keepdim=True)
        n = g / (g.mean(dim=-1, keepdim=True) + EPS)
        y: Tensor = x * (self.weight * n + 1.0) + self.bias
        return y


class GlobalResponseMLP(nn.Module):
    """fc1 -> GELU -> GRN -> fc2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.grn = GRN(4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(self.grn(F.gelu(self.fc1(x))))
        return y


class Block(nn.Module):
    """x + mlp(norm(depthwise 7x7(x))), [B,H,W,C] in and out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.mlp = GlobalResponseMLP(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_dw(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        z: Tensor = x + self.mlp(self.norm(y))
        return z


class Stage(nn.Module):
    """LayerNorm and 2x2 stride-2 convolution (but for the first stage), then blocks; NHWC."""

    def __init__(self, in_width: int, width: int, depth: int, first: bool) -> None:
        super().__init__()
        self.downsample: nn.Sequential | None = None
        if not first:
            self.downsample = nn.Sequential(nn.LayerNorm(in_width, eps=EPS), nn.Conv2d(in_width, width, 2, 2))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        if self.downsample is not None:
            norm, conv = self.downsample
            x = conv(norm(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        y: Tensor = self.blocks(x)
        return y


class ConvNeXtV2Tiny(nn.Module):
    """image [B,3,224,224] -> (stride-16 map [B,384,14,14], stride-32 map [B,768,7,7])."""

    def __init__(self) -> None:
        super().__init__()
        self.stem_0 = nn.Conv2d(3, WIDTHS[0], 4, 4)
        self.stem_1 = nn.LayerNorm(WIDTHS[0], eps=EPS)
        for k, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True)):
            setattr(self, f"stages_{k}", Stage(WIDTHS[max(k - 1, 0)], width, depth, first=k == 0))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem_1(self.stem_0(image).permute(0, 2, 3, 1))
        stages = [self.get_submodule(f"stages_{k}") for k in range(len(WIDTHS))]
        c4 = stages[2](stages[1](stages[0](x)))
        c5 = stages[3](c4)
        return c4.permute(0, 3, 1, 2), c5.permute(0, 3, 1, 2)

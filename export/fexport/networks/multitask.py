"""Detectorv2's multitask network: AUs, emotion, valence and arousal, gaze, pose, 478-point mesh, blendshapes.

Mirrors `feat/multitask/model_v2.py`, `heads_v3.py` and `heads_v26.py`. The action-unit graph is that of Luo et al.,
"Learning Multi-dimensional Edge Feature-based AU Relation Graph" (ME-GraphAU), 2022, without its edge features.
Which heads a checkpoint has is said by its own configuration: see `MultitaskConfig`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fexport.networks.convnextv2 import WIDTHS, ConvNeXtV2Tiny
from fexport.networks.gaze import EyeEncoder, GazeHead, rotation
from fexruntime.contracts.labels import AUS, BLENDSHAPES, EMOTIONS_V2, MESH_POINTS
from fexruntime.errors import CheckpointError

IMAGE_SIZE = 224
BACKBONE = "convnextv2_tiny.fcmae_ft_in22k_in1k"


@dataclasses.dataclass(frozen=True, slots=True)
class MultitaskConfig:
    """The flags of a checkpoint that shape its graph, with py-feat's defaults (`ModelV2Config`)."""

    backbone: str = BACKBONE
    image_size: int = IMAGE_SIZE
    n_au: int = 24
    n_emotion: int = 8
    n_mesh: int = MESH_POINTS
    n_blendshape: int = 0
    mesh_normalized: bool = False
    unified_mesh_normalized: bool | None = None
    """What the emotion and gaze heads take `mesh_normalized` for; None is the same. Not a checkpoint's: a contract's."""
    bs_use_mesh: bool = True
    knn_k: int = 4
    afg_channels: int = 512
    mefl_channels: int = 512
    unified_lmk_dim: int = 256
    drop_mefl: bool = False
    use_head_v2: bool = False
    use_head_v3: bool = False
    emotion_use_au_prob: bool = False
    gaze_eye_roi: bool = False
    gaze_eye_dim: int = 256
    gaze_eye_roi_size: int = 4
    gaze_eye_box_frac: float = 0.18
    gaze_pose_6d: bool = False
    gaze_head_frame: bool = False
    gaze_hidden: int = 0
    gaze_bins: int = 0
    gaze_bin_lo_deg: float = -180.0
    gaze_bin_hi_deg: float = 180.0

    @classmethod
    def from_metadata(cls, config: Mapping[str, Any]) -> MultitaskConfig:
        """Read a checkpoint's configuration; training-only keys are passed over, unsupported values are errors."""
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            if field.name not in config:
                continue
            value = config[field.name]
            kinds = (bool, type(None)) if field.default is None else (type(field.default),)
            if kinds == (float,) and type(value) is int:
                value = float(value)
            if type(value) not in kinds:
                raise CheckpointError(
                    f"the checkpoint's configuration has {field.name}={value!r}, not a {kinds[0].__name__}"
                )
            values[field.name] = value
        self = cls(**values)
        self._check()
        return self

    def _check(self) -> None:
        required: dict[str, Any] = {
            "backbone": BACKBONE,
            "image_size": IMAGE_SIZE,
            "n_mesh": MESH_POINTS,
            "n_au": len(AUS),
            "n_emotion": len(EMOTIONS_V2),
            "drop_mefl": True,
            "use_head_v3": True,
        }
        for flag, value in required.items():
            if getattr(self, flag) != value:
                raise CheckpointError(
                    f"the checkpoint's configuration has {flag}={getattr(self, flag)!r}; fexport exports {value!r} "
                    "(the published face_multitask_v2 checkpoints, v2.4 and later)"
                )
        if self.n_blendshape not in (0, len(BLENDSHAPES)):
            raise CheckpointError(
                f"the checkpoint has {self.n_blendshape} blendshapes; py-feat's Fex has 0 or {len(BLENDSHAPES)}"
            )
        if self.gaze_bins and self.gaze_head_frame:
            raise CheckpointError("the checkpoint sets both gaze_bins and gaze_head_frame, which exclude each other")


def unit(x: Tensor, eps: float = 1e-12) -> Tensor:
    """x over its L2 norm along the last axis, which is at least `eps` (torch's F.normalize)."""
    return x / x.square().sum(dim=-1, keepdim=True).sqrt().clamp_min(eps)


class AFG(nn.Module):
    """Action-unit features: a 1x1 convolution, batch norm and ReLU for each AU, averaged over the map."""

    def __init__(self, width: int, n_au: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()) for _ in range(n_au)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([head(x).mean(dim=(2, 3)) for head in self.heads], dim=1)


class FGG(nn.Module):
    """One graph convolution over each AU's k nearest neighbours by cosine.

    The neighbours are a hard top-k: near-ties flip under round-off, so this part stays in fp32 in every precision.
    """

    def __init__(self, width: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.W = nn.Linear(width, width, bias=False)
        self.W_self = nn.Linear(width, width, bias=False)

    def forward(self, v: Tensor) -> Tensor:
        n = v.shape[1]
        v_unit = unit(v)
        nearest = v_unit.matmul(v_unit.transpose(1, 2)).topk(self.k + 1, dim=-1).indices
        chosen = nearest.unsqueeze(-1) == torch.arange(n, device=v.device)
        others = chosen.to(v.dtype).sum(dim=2) * (1.0 - torch.eye(n, dtype=v.dtype, device=v.device))
        weights = others / others.sum(dim=-1, keepdim=True).clamp_min(1.0)
        return F.relu(self.W_self(v) + weights.matmul(self.W(v)))


class SC(nn.Module):
    """Cosine to each AU's prototype, clamped to [0,1]: these are the AU probabilities."""

    def __init__(self, width: int, n_au: int) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.zeros(n_au, width))

    def forward(self, h: Tensor) -> Tensor:
        return (unit(F.relu(h)) * unit(F.relu(self.s))).sum(dim=-1).clamp(0.0, 1.0)


class MLPHead(nn.Module):
    """Three linear layers with GELU between, keys `mlp.{0,2,4}`."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, out)
        )

    def forward(self, z: Tensor) -> Tensor:
        y: Tensor = self.mlp(z)
        return y


class PooledAndMesh(nn.Module):
    """LayerNorm(pooled features) beside LayerNorm(projected mesh x, y)."""

    def __init__(self, width: int, mesh_width: int) -> None:
        super().__init__()
        self.proj_lmk = nn.Linear(2 * MESH_POINTS, mesh_width)
        self.norm_bb = nn.LayerNorm(width)
        self.norm_lmk = nn.LayerNorm(mesh_width)

    def join(self, pooled: Tensor, mesh_xy: Tensor) -> Tensor:
        return torch.cat([self.norm_bb(pooled), self.norm_lmk(self.proj_lmk(mesh_xy))], dim=-1)


class UnifiedFeatures(PooledAndMesh):
    """Input of the emotion and gaze heads: 768 pooled values and 256 of the mesh."""

    def forward(self, pooled: Tensor, mesh_xy: Tensor) -> Tensor:
        return self.join(pooled, mesh_xy)


class BlendshapeHead(PooledAndMesh):
    """52 MediaPipe coefficients in [0,1]."""

    def __init__(self, width: int, out: int, use_mesh: bool) -> None:
        super().__init__(width, 256)
        self.use_mesh = use_mesh
        if not use_mesh:
            del self.proj_lmk, self.norm_bb, self.norm_lmk
        self.mlp = nn.Sequential(nn.Linear(width + 256 * use_mesh, 512), nn.GELU(), nn.Linear(512, out))

    def forward(self, pooled: Tensor, mesh_xy: Tensor) -> Tensor:
        x = self.join(pooled, mesh_xy) if self.use_mesh else pooled
        return torch.sigmoid(self.mlp(x))


class EmotionHead(nn.Module):
    """Softmax over seven emotions, and valence and arousal in [-1,1]."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.cls_head = nn.Linear(width, classes)
        self.va_head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return F.softmax(self.cls_head(x), dim=-1), torch.tanh(self.va_head(x))


class Multitask(nn.Module):
    """chips [N,3,256,256] RGB in [0,1] -> the contract's outputs, in its order.

    Outputs: au [N,20] probability; emotion [N,7] probability; valence_arousal [N,2]; gaze [N,2] (yaw, pitch) rad;
    pose [N,6] raw (pitch, yaw, roll rad; X, Y, Z); mesh [N,478,3] (x, y fractions of the chip; z);
    blendshapes [N,52], if the checkpoint has them.
    """

    def __init__(self, config: MultitaskConfig, preprocess: nn.Module) -> None:
        super().__init__()
        self.config, self.preprocess = config, preprocess
        width, pooled = config.afg_channels, WIDTHS[-1]
        self.backbone = ConvNeXtV2Tiny()
        self.proj = nn.Conv2d(pooled, width, 1, bias=False)
        self.afg = AFG(width, config.n_au)
        self.fgg = FGG(width, config.knn_k)
        self.sc = SC(config.mefl_channels, config.n_au)
        self.lmk = MLPHead(width, 1024, 3 * MESH_POINTS)
        self.pose = MLPHead(width, 256, 6)
        self.blendshape = (
            BlendshapeHead(width, config.n_blendshape, config.bs_use_mesh) if config.n_blendshape else None
        )
        self.unified = UnifiedFeatures(pooled, config.unified_lmk_dim)
        joined = pooled + config.unified_lmk_dim
        self.emotion = EmotionHead(joined + config.n_au * config.emotion_use_au_prob, config.n_emotion)
        self.gaze_eye_enc = None
        if config.gaze_eye_roi:
            self.gaze_eye_enc = EyeEncoder(
                WIDTHS[2],
                config.gaze_eye_dim,
                config.gaze_eye_roi_size,
                config.gaze_eye_box_frac * config.image_size / 16,
                config.image_size // 16,
            )
        self.gaze = GazeHead(
            joined + config.gaze_eye_dim * config.gaze_eye_roi + 6 * config.gaze_pose_6d,
            config.gaze_hidden,
            config.gaze_bins,
            (math.radians(config.gaze_bin_lo_deg), math.radians(config.gaze_bin_hi_deg)),
            config.gaze_head_frame,
        )
        for task in ("au", "mesh", "pose", "emotion", "va", "gaze", *(["blendshape"] if self.blendshape else [])):
            # loss weights of the training run: in the file, not in the graph
            shape = (config.n_au,) if task == "au" else ()
            self.register_parameter(f"log_var_{task}", nn.Parameter(torch.zeros(shape)))

    def forward(self, chips: Tensor) -> tuple[Tensor, ...]:
        config = self.config
        c4, c5 = self.backbone(self.preprocess(chips))
        x = self.proj(c5)
        z = x.mean(dim=(2, 3))
        mesh = self.lmk(z).view(-1, MESH_POINTS, 3)
        pose = self.pose(z)
        mesh_xy = mesh[:, :, :2].reshape(-1, 2 * MESH_POINTS)
        scaled_xy = self._as_fractions(mesh_xy, config.mesh_normalized)
        in_fractions = config.unified_mesh_normalized
        head_xy = self._as_fractions(mesh_xy, config.mesh_normalized if in_fractions is None else in_fractions)
        au = self.sc(self.fgg(self.afg(x)))
        unified = self.unified(c5.mean(dim=(2, 3)), head_xy)
        emotion, valence_arousal = self.emotion(
            torch.cat([unified, au], dim=-1) if config.emotion_use_au_prob else unified
        )
        eyes: tuple[Tensor, Tensor] | None = None
        if self.gaze_eye_enc is not None:
            pixels = mesh[:, :, :2] * (float(config.image_size) if config.mesh_normalized else 1.0)
            eyes = self.gaze_eye_enc(c4, pixels / 16.0)
        head = rotation(pose[:, :3]) if config.gaze_pose_6d or config.gaze_head_frame else None
        gaze = self.gaze(unified, eyes, head, pose_6d=config.gaze_pose_6d)
        outputs = (au, emotion, valence_arousal, gaze, pose, mesh)
        return outputs if self.blendshape is None else (*outputs, self.blendshape(z, scaled_xy))

    def _as_fractions(self, mesh_xy: Tensor, normalized: bool) -> Tensor:
        return mesh_xy if normalized else mesh_xy / float(self.config.image_size)

"""Residual Masking Network: a ResNet-34 whose stages are weighed by small U-Nets; seven emotions.

Mirrors `feat/emo_detectors/ResMaskNet`. Maths: Pham et al., "Facial Expression Recognition Using Residual Masking Network",
2020.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fexport.checkpoints import Checkpoint
from fexport.networks.preprocess import Preprocess
from fexport.recipe import Recipe, StandIn
from fexruntime.contracts import Crop, Network
from fexruntime.contracts.labels import EMOTIONS_V1
from fexruntime.errors import CheckpointError


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which may be projected."""

    def __init__(self, in_channels: int, out: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + shortcut)


def _projection(in_channels: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))


class Masking(nn.Module):
    """A U-Net of `depth` levels over a map [N,C,H,W]; its answer is a softmax over the channels.

    Blocks 1 to `depth` double the channels, the others halve them; the published names number blocks and up-pools on one
    count, and have each projection twice (`downsampleN` is `convN.downsample`).
    """

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.depth = depth
        widths = [channels << k for k in range(depth + 1)]
        sizes = list(itertools.pairwise(widths)) + list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        for k, (size, out) in enumerate(sizes, start=1):
            setattr(self, f"downsample{k}", _projection(size, out))
            setattr(self, f"conv{k}", BasicBlock(size, out, downsample=self.get_submodule(f"downsample{k}")))
        for k in range(depth + 1, 2 * depth):
            size, out = sizes[k - 1]
            up = nn.Sequential(nn.ConvTranspose2d(size, out, 2, 2), nn.BatchNorm2d(out), nn.ReLU())
            setattr(self, f"up_pool{k}", up)

    def forward(self, x: Tensor) -> Tensor:
        skipped: list[Tensor] = []
        for k in range(1, self.depth + 1):
            x = self.get_submodule(f"conv{k}")(x if not skipped else F.max_pool2d(x, 2))
            skipped.append(x)
        for k in range(self.depth + 1, 2 * self.depth):
            skip = skipped[2 * self.depth - 1 - k]
            x = self.get_submodule(f"conv{k}")(torch.cat([self.get_submodule(f"up_pool{k}")(x), skip], dim=1))
        return F.softmax(self.get_submodule(f"conv{2 * self.depth}")(x), dim=1)


class ResMaskNet(nn.Module):
    """chips [N,3,224,224] RGB in [0,1] -> emotion [N,7], probabilities."""

    def __init__(self, preprocess: nn.Module) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        width = 64
        for layer, (blocks, size, stride) in enumerate(((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2)), start=1):
            shortcut = _projection(width, size, stride) if stride != 1 else None
            stage = [BasicBlock(width, size, stride, shortcut)] + [BasicBlock(size, size) for _ in range(blocks - 1)]
            setattr(self, f"layer{layer}", nn.Sequential(*stage))
            setattr(self, f"mask{layer}", Masking(size, 5 - layer))
            width = size
        self.fc = nn.Sequential(nn.Dropout(0.4), nn.Linear(width, len(EMOTIONS_V1)))

    def forward(self, chips: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(self.preprocess(chips)))), 3, 2, 1)
        for layer in range(1, 5):
            x = self.get_submodule(f"layer{layer}")(x)
            x = x * (self.get_submodule(f"mask{layer}")(x) + 1.0)
        return F.softmax(self.fc(x.mean(dim=(2, 3))), dim=1)


def _make(network: Network, checkpoint: Checkpoint, crop: Crop | None) -> tuple[nn.Module, Mapping[str, Any]]:
    assert crop is not None
    config = checkpoint.config or {}
    for key, size in (("in_channels", 3), ("num_classes", len(EMOTIONS_V1))):
        if config.get(key) != size:
            name = next((r.filename for r in checkpoint.records if r.filename.endswith(".json")), "config.json")
            raise CheckpointError(f"{name} is not resmasknet's: its {key} is {config.get(key)!r}, not {size}")
    return ResMaskNet(Preprocess(network, crop)), config


def _doubled(tensors: dict[str, NDArray[Any]]) -> None:
    """The keys that the checkpoint has twice hold the same values."""
    for key in tensors:
        mask, _, rest = key.partition(".downsample")
        if rest and "." not in mask:
            number, _, leaf = rest.partition(".")
            tensors[key] = tensors[f"{mask}.conv{number}.downsample.{leaf}"]


RECIPE = Recipe(
    _make,
    StandIn(
        {"image_size": 224, "in_channels": 3, "num_classes": len(EMOTIONS_V1)},
        gains=(
            (r"mask\d\.conv\d+\.downsample\.0\.weight$", 2.1),
            (r"mask\d\.conv\d+\.conv2\.weight$", 0.6),
            (r"fc\.1\.weight$", 1.7),
        ),
        adjust=_doubled,
        inside="net",
    ),
)

"""L2CS-Net: gaze as the expectation over 90 bins of each angle.

Mirrors `feat/gaze_detectors/l2cs`. Maths: Abdelrahman et al., "L2CS-Net: Fine-Grained Gaze Estimation in Unconstrained
Environments", 2022; He et al., "Deep Residual Learning for Image Recognition", 2015 (its stride on the 3x3 convolution).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fexport.checkpoints import Checkpoint
from fexport.networks.preprocess import Preprocess
from fexport.recipe import Recipe, StandIn
from fexruntime.contracts import Crop, Network
from fexruntime.contracts.pipelines import NORMALISED_CROP

BINS, BIN_DEGREES, FIRST_DEGREES = 90, 4.0, -180.0
"""A bin stands for its left edge: -180° to 176°."""


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided), 1x1 to four times the width; a strided 1x1 shortcut where the shape changes."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(in_channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(self.bn3(self.conv3(y)) + shortcut)


class L2CS(nn.Module):
    """chips [N,3,S,S] RGB in [0,1] -> gaze [N,2]: pitch, yaw in radians.

    `fc_finetune` is in the checkpoint, not in the graph.
    """

    def __init__(self, preprocess: nn.Module, rescales: bool = False) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.rescales = rescales
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        width = 64
        for layer, (blocks, size, stride) in enumerate(((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2)), start=1):
            first = Bottleneck(width, size, stride)
            width = 4 * size
            setattr(
                self, f"layer{layer}", nn.Sequential(first, *(Bottleneck(width, size, 1) for _ in range(blocks - 1)))
            )
        self.fc_yaw_gaze = nn.Linear(width, BINS)
        self.fc_pitch_gaze = nn.Linear(width, BINS)
        self.fc_finetune = nn.Linear(width + 3, 3)
        self.degrees: Tensor
        steps = torch.arange(BINS, dtype=torch.float32) * BIN_DEGREES + FIRST_DEGREES
        self.register_buffer("degrees", steps[:, None], persistent=False)

    def forward(self, chips: Tensor) -> Tensor:
        if self.rescales:  # the reference takes a batch with a value above 1.5 for bytes
            chips = chips / ((chips.amax() > 1.5).to(chips.dtype) * 254.0 + 1.0)
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(self.preprocess(chips)))), 3, 2, 1)
        for layer in range(1, 5):
            x = self.get_submodule(f"layer{layer}")(x)
        x = x.mean(dim=(2, 3))
        angles = [F.softmax(head(x), dim=1) @ self.degrees for head in (self.fc_pitch_gaze, self.fc_yaw_gaze)]
        return torch.cat(angles, dim=1) * (math.pi / 180.0)


def _make(network: Network, checkpoint: Checkpoint, crop: Crop | None) -> tuple[nn.Module, None]:
    assert crop is not None
    return L2CS(Preprocess(network, crop), rescales=crop == NORMALISED_CROP), None


RECIPE = Recipe(_make, StandIn(gains=((r"layer\d\.\d+\.conv3\.weight$", 0.3), (r"fc_(yaw|pitch)_gaze\.weight$", 3.0))))

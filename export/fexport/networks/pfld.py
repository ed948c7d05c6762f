"""PFLD: 68 landmarks from a 112x112 face, by a small MobileNet v2 with three scales at its end.

Mirrors `feat/landmark_detectors/pfld_compressed_test.py`. Maths: Guo et al., "PFLD: A Practical Facial Landmark Detector",
2019.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fexport.checkpoints import Checkpoint
from fexport.networks.preprocess import Preprocess
from fexport.recipe import Recipe, StandIn
from fexruntime.contracts import Crop, Network
from fexruntime.contracts.labels import LANDMARKS


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1; with the input added where `residual`."""

    def __init__(self, in_channels: int, out: int, stride: int, expansion: int, residual: bool) -> None:
        super().__init__()
        width = in_channels * expansion
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class PFLD(nn.Module):
    """chips [N,3,112,112] RGB in [0,1] -> landmarks [N,136]: x0,y0,x1,y1,… as fractions of the crop.

    `bn8` is in the checkpoint, not in the graph.
    """

    def __init__(self, preprocess: nn.Module) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.conv1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.dw_pool = nn.Conv2d(64, 64, 3, 1, 1, groups=64, bias=False)
        self.dw_bn = nn.BatchNorm2d(64)
        self.conv1_extra = nn.Conv2d(64, 64, 1, bias=False)
        self.conv3_1 = InvertedResidual(64, 64, 2, 1, residual=False)
        for k in range(2, 6):
            setattr(self, f"block3_{k}", InvertedResidual(64, 64, 1, 1, residual=True))
        self.conv4_1 = InvertedResidual(64, 128, 2, 1, residual=False)
        self.conv5_1 = InvertedResidual(128, 128, 1, 2, residual=False)
        for k in range(2, 7):
            setattr(self, f"block5_{k}", InvertedResidual(128, 128, 1, 2, residual=True))
        self.conv6_1 = InvertedResidual(128, 16, 1, 1, residual=False)
        self.conv7 = nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.conv8 = nn.Conv2d(32, 128, 7)
        self.bn8 = nn.BatchNorm2d(128)
        self.fc = nn.Linear(16 + 32 + 128, 2 * LANDMARKS)

    def forward(self, chips: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(self.preprocess(chips))))
        x = self.conv3_1(F.relu(self.conv1_extra(self.dw_bn(self.dw_pool(x)))))
        for k in range(2, 6):
            x = self.get_submodule(f"block3_{k}")(x)
        x = self.conv5_1(self.conv4_1(x))
        for k in range(2, 7):
            x = self.get_submodule(f"block5_{k}")(x)
        fine = self.conv6_1(x)
        coarse = self.conv7(fine)
        whole = F.relu(self.conv8(coarse)).flatten(1)
        landmarks: Tensor = self.fc(torch.cat([fine.mean(dim=(2, 3)), coarse.mean(dim=(2, 3)), whole], dim=1))
        return landmarks


def _make(network: Network, checkpoint: Checkpoint, crop: Crop | None) -> tuple[nn.Module, None]:
    assert crop is not None
    return PFLD(Preprocess(network, crop)), None


RECIPE = Recipe(
    _make,
    StandIn(
        gains=((r"block\d_\d\.conv\.6\.weight$", 0.4), (r"^fc\.weight$", 0.08)),
        biases=((r"^fc\.bias$", (0.1, 0.9)),),
    ),
)

"""MobileNet v2 with a global depthwise convolution: 68 landmarks from a 224x224 face.

Mirrors `feat/landmark_detectors/basenet_test.py`. Maths: Sandler et al., "MobileNetV2: Inverted Residuals and Linear
Bottlenecks", 2018.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn

from fexport.checkpoints import Checkpoint
from fexport.networks.preprocess import Preprocess
from fexport.recipe import Recipe, StandIn
from fexruntime.contracts import Crop, Network
from fexruntime.contracts.labels import LANDMARKS

_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""(expansion, channels, blocks, stride of the first)."""
_LAST = 1280


def _conv(in_channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU6())


class InvertedResidual(nn.Module):
    """1x1 expansion (left out where it is 1), 3x3 depthwise, linear 1x1; the input added where the shape stays."""

    def __init__(self, in_channels: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = in_channels * expansion
        layers: list[nn.Module] = [_conv(in_channels, width, 1)] if expansion != 1 else []
        layers += [_conv(width, width, 3, stride, width), nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and in_channels == out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class _Linear(nn.Module):
    """Convolution without bias and batch norm."""

    def __init__(self, in_channels: int, out: int, kernel: int, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out, kernel, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(x))
        return y


class _Pretrained(nn.Module):
    """What the checkpoint calls `pretrain_net`: the features, and a classifier that is never used."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, 32, 3, 2)]
        width = 32
        for expansion, channels, blocks, stride in _STAGES:
            for k in range(blocks):
                layers.append(InvertedResidual(width, channels, stride if k == 0 else 1, expansion))
                width = channels
        self.features = nn.Sequential(*layers, _conv(width, _LAST, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(_LAST, 1000))


class MobileNet(nn.Module):
    """chips [N,3,224,224] RGB in [0,1] -> landmarks [N,136]: x0,y0,x1,y1,… as fractions of the crop.

    The checkpoint has the features twice, as `pretrain_net.features` and as `base_net.0`.
    """

    def __init__(self, preprocess: nn.Module) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.pretrain_net = _Pretrained()
        self.base_net = nn.Sequential(self.pretrain_net.features)
        self.linear7 = _Linear(_LAST, _LAST, 7, groups=_LAST)
        self.linear1 = _Linear(_LAST, 2 * LANDMARKS, 1)

    def forward(self, chips: Tensor) -> Tensor:
        y: Tensor = self.linear1(self.linear7(self.base_net(self.preprocess(chips)))).flatten(1)
        return y


def _make(network: Network, checkpoint: Checkpoint, crop: Crop | None) -> tuple[nn.Module, None]:
    assert crop is not None
    return MobileNet(Preprocess(network, crop)), None


def _doubled(tensors: dict[str, NDArray[Any]]) -> None:
    for key in tensors:
        if key.startswith("base_net.0."):
            tensors[key] = tensors[key.replace("base_net.0.", "pretrain_net.features.", 1)]


RECIPE = Recipe(
    _make,
    StandIn(
        gains=((r"features\.([2-9]|1\d)\.conv\.[123]\.weight$", 1.0), (r"linear1\.conv\.weight$", 0.03)),
        biases=((r"linear1\.bn\.bias$", (0.1, 0.9)),),
        adjust=_doubled,
    ),
)

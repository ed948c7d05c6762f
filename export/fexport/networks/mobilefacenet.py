"""MobileFaceNet: 68 landmarks from a 112x112 face.

Mirrors `feat/landmark_detectors/mobilefacenet_test.py`. Maths: Chen et al., "MobileFaceNets", 2018, with a
global depthwise convolution and 136 outputs.
"""

from __future__ import annotations

from torch import Tensor, nn

from fexport.checkpoints import Checkpoint
from fexport.networks.preprocess import Preprocess
from fexport.recipe import Recipe
from fexruntime.contracts import Crop, Network
from fexruntime.contracts.labels import LANDMARKS


class ConvBlock(nn.Module):
    """Convolution without bias, batch norm, PReLU (left out where `linear`)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        if not linear:
            self.prelu = nn.PReLU(out_channels)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(x))
        return y if self.linear else self.prelu(y)


class DepthWise(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 projection; with the input added where `residual`."""

    def __init__(
        self, in_channels: int, out_channels: int, groups: int, stride: int = 1, residual: bool = False
    ) -> None:
        super().__init__()
        self.conv = ConvBlock(in_channels, groups, 1)
        self.conv_dw = ConvBlock(groups, groups, 3, stride, 1, groups)
        self.project = ConvBlock(groups, out_channels, 1, linear=True)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.conv_dw(self.conv(x)))
        return x + y if self.residual else y


class ResidualStack(nn.Module):
    """`blocks` residual depthwise blocks, keys `model.N`."""

    def __init__(self, channels: int, groups: int, blocks: int) -> None:
        super().__init__()
        self.model = nn.Sequential(*(DepthWise(channels, channels, groups, residual=True) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.model(x)
        return y


class GDC(nn.Module):
    """Global depthwise convolution (7x7, no padding), then a linear layer and its batch norm."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv_6_dw = ConvBlock(512, 512, 7, groups=512, linear=True)
        self.linear = nn.Linear(512, outputs, bias=False)
        self.bn = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.linear(self.conv_6_dw(x).flatten(1)))
        return y


class MobileFaceNet(nn.Module):
    """chips [N,3,112,112] RGB in [0,1] -> landmarks [N,136]: x0,y0,x1,y1,… as fractions of the crop."""

    def __init__(self, preprocess: nn.Module) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.conv1 = ConvBlock(3, 64, 3, 2, 1)
        self.conv2_dw = ConvBlock(64, 64, 3, 1, 1, groups=64)
        self.conv_23 = DepthWise(64, 64, 128, stride=2)
        self.conv_3 = ResidualStack(64, 128, 4)
        self.conv_34 = DepthWise(64, 128, 256, stride=2)
        self.conv_4 = ResidualStack(128, 256, 6)
        self.conv_45 = DepthWise(128, 128, 512, stride=2)
        self.conv_5 = ResidualStack(128, 256, 2)
        self.conv_6_sep = ConvBlock(128, 512, 1)
        self.output_layer = GDC(2 * LANDMARKS)

    def forward(self, chips: Tensor) -> Tensor:
        x = self.conv_3(self.conv_23(self.conv2_dw(self.conv1(self.preprocess(chips)))))
        x = self.conv_5(self.conv_45(self.conv_4(self.conv_34(x))))
        y: Tensor = self.output_layer(self.conv_6_sep(x))
        return y


def _make(network: Network, checkpoint: Checkpoint, crop: Crop | None) -> tuple[nn.Module, None]:
    assert crop is not None
    return MobileFaceNet(Preprocess(network, crop)), None


RECIPE = Recipe(_make)

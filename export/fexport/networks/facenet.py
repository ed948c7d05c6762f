"""FaceNet: Inception-ResNet v1 as facenet-pytorch publishes it for VGGFace2 (MIT).

Mirrors `feat/identity_detectors/facenet/facenet_model.py`: the chip is not whitened, it stays in [0,1].
Maths: Schroff et al., "FaceNet", 2015; Szegedy et al., "Inception-v4, Inception-ResNet", 2016.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fexport.checkpoints import Checkpoint
from fexport.networks.preprocess import Preprocess
from fexport.recipe import Recipe
from fexruntime.contracts import Crop, Network
from fexruntime.contracts.labels import EMBEDDING_SIZE

_Kernel = int | tuple[int, int]


class ConvBN(nn.Module):
    """Convolution without bias, batch norm (eps 1e-3), ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: _Kernel, stride: int = 1, padding: _Kernel = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Residual(nn.Module):
    """x + scale * conv2d(cat(branches)): Inception-ResNet's block A, B or C."""

    def __init__(self, width: int, branches: list[nn.Module], joined: int, scale: float, relu: bool = True) -> None:
        super().__init__()
        for k, branch in enumerate(branches):
            setattr(self, f"branch{k}", branch)
        self.count, self.scale, self.relu = len(branches), scale, relu
        self.conv2d = nn.Conv2d(joined, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([getattr(self, f"branch{k}")(x) for k in range(self.count)], dim=1)
        y = self.conv2d(joined) * self.scale + x
        return F.relu(y) if self.relu else y


class Reduction(nn.Module):
    """Strided branches beside a 3x3 max pool."""

    def __init__(self, branches: list[nn.Module]) -> None:
        super().__init__()
        for k, branch in enumerate(branches):
            setattr(self, f"branch{k}", branch)
        self.count = len(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([*(getattr(self, f"branch{k}")(x) for k in range(self.count)), F.max_pool2d(x, 3, 2)], dim=1)


def _block35() -> Residual:
    return Residual(
        256,
        [
            ConvBN(256, 32, 1),
            nn.Sequential(ConvBN(256, 32, 1), ConvBN(32, 32, 3, padding=1)),
            nn.Sequential(ConvBN(256, 32, 1), ConvBN(32, 32, 3, padding=1), ConvBN(32, 32, 3, padding=1)),
        ],
        96,
        0.17,
    )


def _block17() -> Residual:
    tower = nn.Sequential(
        ConvBN(896, 128, 1), ConvBN(128, 128, (1, 7), padding=(0, 3)), ConvBN(128, 128, (7, 1), padding=(3, 0))
    )
    return Residual(896, [ConvBN(896, 128, 1), tower], 256, 0.10)


def _block8(scale: float, relu: bool = True) -> Residual:
    tower = nn.Sequential(
        ConvBN(1792, 192, 1), ConvBN(192, 192, (1, 3), padding=(0, 1)), ConvBN(192, 192, (3, 1), padding=(1, 0))
    )
    return Residual(1792, [ConvBN(1792, 192, 1), tower], 384, scale, relu)


class FaceNet(nn.Module):
    """chips [N,3,S,S] RGB in [0,1] -> embedding [N,512], L2-normalised.

    `logits` is in the checkpoint, not in the graph.
    """

    def __init__(self, preprocess: nn.Module) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.conv2d_1a = ConvBN(3, 32, 3, stride=2)
        self.conv2d_2a = ConvBN(32, 32, 3)
        self.conv2d_2b = ConvBN(32, 64, 3, padding=1)
        self.conv2d_3b = ConvBN(64, 80, 1)
        self.conv2d_4a = ConvBN(80, 192, 3)
        self.conv2d_4b = ConvBN(192, 256, 3, stride=2)
        self.repeat_1 = nn.Sequential(*(_block35() for _ in range(5)))
        self.mixed_6a = Reduction(
            [
                ConvBN(256, 384, 3, stride=2),
                nn.Sequential(ConvBN(256, 192, 1), ConvBN(192, 192, 3, padding=1), ConvBN(192, 256, 3, stride=2)),
            ]
        )
        self.repeat_2 = nn.Sequential(*(_block17() for _ in range(10)))
        self.mixed_7a = Reduction(
            [
                nn.Sequential(ConvBN(896, 256, 1), ConvBN(256, 384, 3, stride=2)),
                nn.Sequential(ConvBN(896, 256, 1), ConvBN(256, 256, 3, stride=2)),
                nn.Sequential(ConvBN(896, 256, 1), ConvBN(256, 256, 3, padding=1), ConvBN(256, 256, 3, stride=2)),
            ]
        )
        self.repeat_3 = nn.Sequential(*(_block8(0.20) for _ in range(5)))
        self.block8 = _block8(1.0, relu=False)
        self.last_linear = nn.Linear(1792, EMBEDDING_SIZE, bias=False)
        self.last_bn = nn.BatchNorm1d(EMBEDDING_SIZE, eps=1e-3)
        self.logits = nn.Linear(EMBEDDING_SIZE, 8631)

    def forward(self, chips: Tensor) -> Tensor:
        x = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(self.preprocess(chips))))
        x = self.conv2d_4b(self.conv2d_4a(self.conv2d_3b(F.max_pool2d(x, 3, 2))))
        x = self.mixed_6a(self.repeat_1(x))
        x = self.mixed_7a(self.repeat_2(x))
        x = self.block8(self.repeat_3(x)).mean(dim=(2, 3))
        x = self.last_bn(self.last_linear(x))
        # written out: the exporter's F.normalize brings an Expand with runtime shapes
        unit: Tensor = x / x.square().sum(dim=1, keepdim=True).sqrt().clamp_min(1e-12)
        return unit


def _make(network: Network, checkpoint: Checkpoint, crop: Crop | None) -> tuple[nn.Module, None]:
    assert crop is not None
    return FaceNet(Preprocess(network, crop)), None


RECIPE = Recipe(_make)

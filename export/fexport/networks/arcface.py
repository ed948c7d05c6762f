"""ArcFace: IResNet-50 whose batch norms were fused into its convolutions where they could be.

Mirrors `feat/identity_detectors/arcface/iresnet.py`. Maths: Deng et al., "ArcFace: Additive Angular Margin Loss
for Deep Face Recognition", 2018.
"""

from __future__ import annotations

from torch import Tensor, nn

from fexport.checkpoints import Checkpoint
from fexport.networks.preprocess import Preprocess
from fexport.recipe import Recipe
from fexruntime.contracts import Crop, Network
from fexruntime.contracts.labels import EMBEDDING_SIZE


class IBasicBlock(nn.Module):
    """bn -> conv -> PReLU -> conv (+ strided 1x1 shortcut); no activation after the sum."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, 1, 1)
        self.prelu = nn.PReLU(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, stride, 1)
        self.downsample: nn.Conv2d | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Conv2d(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y: Tensor = self.conv2(self.prelu(self.conv1(self.bn1(x)))) + shortcut
        return y


class ArcFace(nn.Module):
    """chips [N,3,S,S] RGB in [0,1] -> embedding [N,512], not L2-normalised."""

    def __init__(self, preprocess: nn.Module) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1)
        self.prelu = nn.PReLU(64)
        width = 64
        for layer, (blocks, out) in enumerate(zip((3, 4, 14, 3), (64, 128, 256, 512), strict=True), start=1):
            stages = [IBasicBlock(width, out, 2)] + [IBasicBlock(out, out, 1) for _ in range(blocks - 1)]
            setattr(self, f"layer{layer}", nn.Sequential(*stages))
            width = out
        self.bn2 = nn.BatchNorm2d(512)
        self.fc = nn.Linear(512 * 7 * 7, EMBEDDING_SIZE)
        self.features = nn.BatchNorm1d(EMBEDDING_SIZE)

    def forward(self, chips: Tensor) -> Tensor:
        x = self.prelu(self.conv1(self.preprocess(chips)))
        for layer in range(1, 5):
            x = self.get_submodule(f"layer{layer}")(x)
        y: Tensor = self.features(self.fc(self.bn2(x).flatten(1)))
        return y


def _make(network: Network, checkpoint: Checkpoint, crop: Crop | None) -> tuple[nn.Module, None]:
    assert crop is not None
    return ArcFace(Preprocess(network, crop)), None


RECIPE = Recipe(_make)

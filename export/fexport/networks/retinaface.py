"""RetinaFace: three-level FPN face detector, with ResNet-34 or MobileNet-0.25 trunk.

Mirrors `feat/face_detectors/Retinaface/Retinaface_model.py` (ResNet-34) and biubug6/Pytorch_Retinaface, MIT
(MobileNet-0.25). Maths: Deng et al., "RetinaFace: Single-stage Dense Face Localisation in the Wild", 2019.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fexport.checkpoints import Checkpoint
from fexport.recipe import Recipe, StandIn
from fexruntime.contracts import Crop, Network


def conv_bn(
    in_channels: int,
    out_channels: int,
    kernel: int = 3,
    stride: int = 1,
    *,
    slope: float | None = None,
    groups: int = 1,
) -> nn.Sequential:
    """Convolution without bias, batch norm and, if `slope` is given, a leaky ReLU of that slope (0 is a plain ReLU)."""
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
    if slope is not None:
        layers.append(nn.ReLU() if slope == 0 else nn.LeakyReLU(slope))
    return nn.Sequential(*layers)


class BasicBlock(nn.Module):
    """ResNet basic block (He et al., 2015)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class ResNet34Body(nn.Module):
    """ResNet-34 without its classifier; gives the stride 8, 16 and 32 maps (128, 256, 512 channels)."""

    channels = (128, 256, 512)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        width = 64
        for layer, (blocks, out) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True), start=1):
            stages = [BasicBlock(width, out, 1 if layer == 1 else 2)]
            stages += [BasicBlock(out, out, 1) for _ in range(blocks - 1)]
            setattr(self, f"layer{layer}", nn.Sequential(*stages))
            width = out

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        layer1, layer2, layer3, layer4 = (self.get_submodule(f"layer{k}") for k in range(1, 5))
        c2 = layer2(layer1(x))
        c3 = layer3(c2)
        return [c2, c3, layer4(c3)]


class MobileNet025Body(nn.Module):
    """MobileNet v1 at a quarter of its width; gives the stride 8, 16 and 32 maps (64, 128, 256 channels)."""

    channels = (64, 128, 256)

    def __init__(self) -> None:
        super().__init__()

        def separable(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
            depthwise = conv_bn(in_channels, in_channels, 3, stride, slope=0.1, groups=in_channels)
            pointwise = conv_bn(in_channels, out_channels, 1, slope=0.1)
            return nn.Sequential(*depthwise, *pointwise)

        self.stage1 = nn.Sequential(
            conv_bn(3, 8, 3, 2, slope=0.1),
            separable(8, 16, 1),
            separable(16, 32, 2),
            separable(32, 32, 1),
            separable(32, 64, 2),
            separable(64, 64, 1),
        )
        self.stage2 = nn.Sequential(separable(64, 128, 2), *(separable(128, 128, 1) for _ in range(5)))
        self.stage3 = nn.Sequential(separable(128, 256, 2), separable(256, 256, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        c1 = self.stage1(x)
        c2 = self.stage2(c1)
        return [c1, c2, self.stage3(c2)]


class FPN(nn.Module):
    """Three-level feature pyramid; the coarsest level is not merged."""

    def __init__(self, in_channels: tuple[int, int, int], width: int, slope: float) -> None:
        super().__init__()
        self.output1, self.output2, self.output3 = (conv_bn(c, width, 1, slope=slope) for c in in_channels)
        self.merge1 = conv_bn(width, width, 3, slope=slope)
        self.merge2 = conv_bn(width, width, 3, slope=slope)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        o1, o2, o3 = self.output1(maps[0]), self.output2(maps[1]), self.output3(maps[2])
        # sizes come from the finer map, not from a factor of two: 71 rows halve to 36
        o2 = self.merge2(o2 + F.interpolate(o3, size=o2.shape[2:], mode="nearest"))
        o1 = self.merge1(o1 + F.interpolate(o2, size=o1.shape[2:], mode="nearest"))
        return [o1, o2, o3]


class SSH(nn.Module):
    """Context module of 3x3, 5x5 and 7x7 receptive fields (the spelling `conv7x7_3` is the checkpoints')."""

    def __init__(self, width: int, slope: float) -> None:
        super().__init__()
        self.conv3X3 = conv_bn(width, width // 2)
        self.conv5X5_1 = conv_bn(width, width // 4, slope=slope)
        self.conv5X5_2 = conv_bn(width // 4, width // 4)
        self.conv7X7_2 = conv_bn(width // 4, width // 4, slope=slope)
        self.conv7x7_3 = conv_bn(width // 4, width // 4)

    def forward(self, x: Tensor) -> Tensor:
        shared = self.conv5X5_1(x)
        branches = [self.conv3X3(x), self.conv5X5_2(shared), self.conv7x7_3(self.conv7X7_2(shared))]
        return F.relu(torch.cat(branches, dim=1))


class _ConvsHead(nn.Module):
    """1x1 heads, keys `_convs.N` (ResNet-34 checkpoint)."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self._convs = nn.ModuleList(nn.Conv2d(width, out, 1) for _ in range(3))

    def level(self, k: int, x: Tensor) -> Tensor:
        y: Tensor = self._convs[k](x)
        return y


class _Conv1x1(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv1x1 = nn.Conv2d(width, out, 1)


class _Conv1x1Heads(nn.ModuleList):
    """1x1 heads, keys `N.conv1x1` (MobileNet-0.25 checkpoint)."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__(_Conv1x1(width, out) for _ in range(3))

    def level(self, k: int, x: Tensor) -> Tensor:
        y: Tensor = self[k].get_submodule("conv1x1")(x)
        return y


class RetinaFace(nn.Module):
    """frames [B,3,H,W] RGB, mean-subtracted -> loc [B,A,4], conf [B,A,2] (softmax), landmarks [B,A,10].

    A is the number of anchors: two at every cell of the stride 8, 16 and 32 maps, row by row.
    """

    def __init__(self, trunk: str) -> None:
        super().__init__()
        self.body: ResNet34Body | MobileNet025Body
        head: type[_ConvsHead | _Conv1x1Heads]
        if trunk == "resnet34":
            self.body = ResNet34Body()
            width, slope, head = 128, 0.0, _ConvsHead
        elif trunk == "mobilenet025":
            self.body = MobileNet025Body()
            width, slope, head = 64, 0.1, _Conv1x1Heads
        else:
            raise ValueError(f"no RetinaFace trunk {trunk!r}: resnet34 or mobilenet025")
        self.fpn = FPN(self.body.channels, width, slope)
        self.ssh1, self.ssh2, self.ssh3 = (SSH(width, slope) for _ in range(3))
        self.ClassHead = head(width, 4)
        self.BboxHead = head(width, 8)
        self.LandmarkHead = head(width, 20)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pyramid = self.fpn(self.body(frames))
        features = [ssh(x) for ssh, x in zip((self.ssh1, self.ssh2, self.ssh3), pyramid, strict=True)]
        loc, conf, landmarks = (
            torch.cat([_per_anchor(head.level(k, x), n) for k, x in enumerate(features)], dim=1)
            for head, n in ((self.BboxHead, 4), (self.ClassHead, 2), (self.LandmarkHead, 10))
        )
        return loc, F.softmax(conf, dim=-1), landmarks


def _per_anchor(x: Tensor, values: int) -> Tensor:
    """[B, 2*values, h, w] -> [B, h*w*2, values]."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, values)


STAND_IN_FACE_BIAS = 7.6
"""Lowers the stand-in detector's face logit, so that a handful of anchors pass 0.5 instead of half of them."""


def _make(network: Network, checkpoint: Checkpoint, crop: Crop | None, trunk: str) -> tuple[nn.Module, None]:
    return RetinaFace(trunk), None


def _read_rgb(module: nn.Module, network: Network) -> None:
    """Turn a network that was trained on BGR into one for RGB, by swapping its first kernel's channels."""
    if network.weights_colour_order == "BGR":
        first = next(m for m in module.modules() if isinstance(m, nn.Conv2d)).weight
        with torch.no_grad():
            first.copy_(first[:, [2, 1, 0]].clone())


def _few_faces(tensors: dict[str, NDArray[Any]]) -> None:
    for key, value in tensors.items():
        if key.startswith("ClassHead") and key.endswith("bias"):
            value[0::2] += STAND_IN_FACE_BIAS  # even channels are background


_HEADS = (("BboxHead|LandmarkHead", 0.3),)
RECIPE_R34 = Recipe(
    partial(_make, trunk="resnet34"),
    # the first batch norm sees mean-subtracted pixels of 0..255
    StandIn(gains=_HEADS, variances=((r"^body\.bn1\.", 6000.0),), adjust=_few_faces),
    after_load=_read_rgb,
)
RECIPE_MOBILENET025 = Recipe(
    partial(_make, trunk="mobilenet025"), StandIn(gains=_HEADS, adjust=_few_faces), after_load=_read_rgb
)

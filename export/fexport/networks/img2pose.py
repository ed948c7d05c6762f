"""img2pose: a two-stage face detector whose second stage says head pose, from which boxes are projected.

Mirrors `feat/facepose_detectors/img2pose/deps` (from vitoralbiero/img2pose) and torchvision's ResNet-18 FPN and RoIAlign,
without torchvision. Maths: Albiero et al., "img2pose: Face Alignment and Detection via 6DoF, Face Pose Estimation", 2021;
He et al., "Mask R-CNN", 2017 (RoIAlign, aligned=False as in torchvision's MultiScaleRoIAlign).

The checkpoint is one, the graphs are three, so each module here has all its tensors and runs a part of them. What lies
between the graphs is `fexruntime.img2pose`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fexport.checkpoints import Checkpoint
from fexport.networks.img2pose_standin import CONFIG, GAINS, STAND_IN_FACE_BIAS
from fexport.networks.retinaface import BasicBlock
from fexport.recipe import Recipe, StandIn
from fexruntime.contracts import Crop, Network
from fexruntime.contracts import img2pose as C
from fexruntime.contracts.labels import LANDMARKS, POSE
from fexruntime.errors import CheckpointError

WIDTH = 256
"""Channels of the pyramid."""
HIDDEN = 1024
_ANCHORS = len(C.ASPECT_RATIOS)


class ResNet18Body(nn.Module):
    """ResNet-18 without its classifier; gives the stride 4, 8, 16 and 32 maps (64, 128, 256, 512 channels)."""

    channels = (64, 128, 256, 512)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        width = 64
        for layer, out in enumerate(self.channels, start=1):
            blocks = nn.Sequential(BasicBlock(width, out, 1 if layer == 1 else 2), BasicBlock(out, out, 1))
            setattr(self, f"layer{layer}", blocks)
            width = out

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        maps = []
        for layer in range(1, 5):
            x = self.get_submodule(f"layer{layer}")(x)
            maps.append(x)
        return maps


class FeaturePyramid(nn.Module):
    """Top-down pyramid of the four maps (Lin et al., 2017), keys as in torchvision; P6 is every other cell of P5."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.inner_blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(c, WIDTH, 1)) for c in channels)
        self.layer_blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, 1, 1)) for _ in channels)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        merged = self.inner_blocks[-1](maps[-1])
        levels = [self.layer_blocks[-1](merged)]
        for k in range(len(maps) - 2, -1, -1):
            inner = self.inner_blocks[k](maps[k])
            merged = inner + F.interpolate(merged, size=inner.shape[2:], mode="nearest")
            levels.insert(0, self.layer_blocks[k](merged))
        return [*levels, F.max_pool2d(levels[-1], 1, 2, 0)]


class Backbone(nn.Module):
    """Body and pyramid."""

    def __init__(self) -> None:
        super().__init__()
        self.body = ResNet18Body()
        self.fpn = FeaturePyramid(self.body.channels)

    def forward(self, frames: Tensor) -> list[Tensor]:
        levels: list[Tensor] = self.fpn(self.body(frames))
        return levels


class ProposalHead(nn.Module):
    """Objectness and box deltas of each level's anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(WIDTH, WIDTH, 3, 1, 1)
        self.cls_logits = nn.Conv2d(WIDTH, _ANCHORS, 1)
        self.bbox_pred = nn.Conv2d(WIDTH, _ANCHORS * 4, 1)

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        hidden = [F.relu(self.conv(level)) for level in levels]
        logits = [self.cls_logits(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1) for x in hidden]
        deltas = [self.bbox_pred(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4) for x in hidden]
        return torch.cat(logits, dim=1), torch.cat(deltas, dim=1)


class TwoLayers(nn.Module):
    """Features of regions [K,256,7,7] -> [K,1024]."""

    def __init__(self) -> None:
        super().__init__()
        self.fc6 = nn.Linear(WIDTH * C.ROI_SIDE**2, HIDDEN)
        self.fc7 = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.fc7(F.relu(self.fc6(x.flatten(1)))))


class PosePredictor(nn.Module):
    """[K,1024] -> six numbers of background and six of a face, in deviations from their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.dof_pred = nn.Sequential(
            nn.Linear(HIDDEN, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 2 * len(POSE))
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.dof_pred(x)
        return y


class ScorePredictor(nn.Module):
    """[K,1024] -> logits of background and of face."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_score = nn.Linear(HIDDEN, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.cls_score(x)
        return y


class RegionHeads(nn.Module):
    """The second stage: two heads that read the same regions and share nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.box_head = TwoLayers()
        self.box_predictor = PosePredictor()
        self.class_head = TwoLayers()
        self.class_predictor = ScorePredictor()


class Img2Pose(nn.Module):
    """All tensors of the checkpoint. frames [B,3,H,W], resized, normalised, padded -> objectness, deltas, P2 to P5.

    H and W may be anything here; the runtime pads them to a multiple of 32.
    """

    def __init__(self, mean: tuple[float, ...], deviation: tuple[float, ...]) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.rpn = nn.ModuleDict({"head": ProposalHead()})
        self.roi_heads = RegionHeads()
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation, dtype=torch.float32), persistent=False)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...] | Tensor:
        (frames,) = inputs
        levels = self.backbone(frames)
        objectness, deltas = self.rpn["head"](levels)
        return objectness, deltas, *levels[:-1]


class Img2PoseScores(Img2Pose):
    """P2 to P5 and the regions of each [K,5] -> probability of background and of face [K,2], regions of P2 first."""

    def forward(self, *inputs: Tensor) -> Tensor:
        heads = self.roi_heads
        return F.softmax(heads.class_predictor(heads.class_head(_features(inputs))), dim=-1)


class Img2PosePose(Img2Pose):
    """P2 to P5 and the regions of each [K,5] -> rotation vector (rad) and translation of a face there [K,6]."""

    def forward(self, *inputs: Tensor) -> Tensor:
        heads = self.roi_heads
        of_a_face = heads.box_predictor(heads.box_head(_features(inputs)))[:, len(POSE) :]
        pose: Tensor = of_a_face * self.deviation + self.mean
        return pose


def _features(inputs: tuple[Tensor, ...]) -> Tensor:
    """Features [K,256,7,7] of the regions of four levels, in the levels' order."""
    count = len(C.ROI_LEVELS)
    read = [
        roi_align_op(level, rows[:, 1:], rows[:, 0].to(torch.int64), 0.5**k)
        for k, level, rows in zip(C.ROI_LEVELS, inputs[:count], inputs[count:], strict=True)
    ]
    return torch.cat(read)


class _RoiAlign(torch.autograd.Function):
    """`roi_align` for torch, ONNX's RoiAlign for the exporter."""

    @staticmethod
    def forward(ctx: Any, level: Tensor, boxes: Tensor, frame: Tensor, scale: float) -> Tensor:
        return roi_align(level, boxes, frame, scale)

    @staticmethod
    def symbolic(g: Any, level: Any, boxes: Any, frame: Any, scale: float) -> Any:
        return g.op(
            "RoiAlign",
            level,
            boxes,
            frame,
            coordinate_transformation_mode_s="output_half_pixel",
            mode_s="avg",
            output_height_i=C.ROI_SIDE,
            output_width_i=C.ROI_SIDE,
            sampling_ratio_i=C.ROI_SAMPLES,
            spatial_scale_f=scale,
        )


roi_align_op: Callable[[Tensor, Tensor, Tensor, float], Tensor] = _RoiAlign.apply


def roi_align(level: Tensor, boxes: Tensor, frame: Tensor, scale: float) -> Tensor:
    """level [B,C,h,w], boxes [K,4] as corners in pixels, frame [K] -> means of bilinear samples [K,C,7,7].

    torchvision's `roi_align(aligned=False, sampling_ratio=2)`: a box is at least one cell wide, a sample more than one cell
    outside the map is 0, one less far outside is read at the edge.
    """
    low = boxes * scale
    extent = (low[:, 2:] - low[:, :2]).clamp_min(1.0)
    bins = C.ROI_SIDE * C.ROI_SAMPLES
    steps = (torch.arange(bins, dtype=torch.float32) + 0.5) / C.ROI_SAMPLES
    at = low[:, :2, None] + steps * (extent / C.ROI_SIDE)[:, :, None]  # [K, (x, y), 14]
    (x0, x1, wx), (y0, y1, wy) = (_taps(at[:, k], int(level.shape[3 - k])) for k in range(2))
    maps = level.permute(0, 2, 3, 1)
    rows = frame[:, None, None]
    total = torch.zeros(len(boxes), bins, bins, level.shape[1])
    for y, weight_y in ((y0, wy[0]), (y1, wy[1])):
        for x, weight_x in ((x0, wx[0]), (x1, wx[1])):
            total += maps[rows, y[:, :, None], x[:, None, :]] * (weight_y[:, :, None] * weight_x[:, None, :])[..., None]
    return F.avg_pool2d(total.permute(0, 3, 1, 2), C.ROI_SAMPLES)


def _taps(at: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Positions [K,14] on an axis of `size` cells -> the two cells each reads, and their weights [2,K,14]."""
    inside = ((at >= -1.0) & (at <= size)).to(at.dtype)
    low = at.clamp_min(0.0).floor().clamp_max(size - 1)
    high = (low + 1).clamp_max(size - 1)
    part = torch.where(low >= size - 1, 0.0, at.clamp_min(0.0) - low)
    return low.long(), high.long(), torch.stack([1 - part, part]) * inside


def _make(
    network: Network, checkpoint: Checkpoint, crop: Crop | None, kind: type[Img2Pose]
) -> tuple[nn.Module, Mapping[str, Any]]:
    name, config = network.files[1].filename, checkpoint.config or {}
    try:
        kept: dict[str, Any] = {k: int(config[k]) for k in ("depth", "min_size", "max_size")}
        kept |= {k: int(config[k]) for k in ("rpn_pre_nms_top_n_test", "rpn_post_nms_top_n_test")}
        kept |= {k: float(config[k]) for k in ("bbox_x_factor", "bbox_y_factor", "expand_forehead")}
        kept |= {k: [float(v) for v in config[k]] for k in ("pose_mean", "pose_stddev")}
        kept["threed_points"] = [[float(v) for v in point] for point in config["threed_points"]]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{name} lacks what img2pose needs ({error})") from None
    points = kept["threed_points"]
    numbers = [v for k, value in kept.items() if k != "threed_points" for v in np.ravel(value)]
    if kept["depth"] != 18:
        raise CheckpointError(f"{name}: depth is {kept['depth']}, this network is ResNet-18's")
    if not all(math.isfinite(v) for v in numbers):
        raise CheckpointError(f"{name} has numbers that are not finite")
    if [len(p) for p in points] != [3] * LANDMARKS or not np.isfinite(points).all():
        raise CheckpointError(f"{name}: threed_points needs {LANDMARKS} points of three finite numbers")
    if len(kept["pose_mean"]) != len(POSE) or len(kept["pose_stddev"]) != len(POSE):
        raise CheckpointError(f"{name}: pose_mean and pose_stddev need six numbers each")
    if min(kept[k] for k in ("min_size", "max_size", "rpn_pre_nms_top_n_test", "rpn_post_nms_top_n_test")) < 1:
        raise CheckpointError(f"{name}: sizes and numbers of proposals must be 1 or more")
    return kind(tuple(kept["pose_mean"]), tuple(kept["pose_stddev"])), kept


def _of_frames(module: nn.Module, case: tuple[NDArray[np.float32], ...]) -> tuple[NDArray[np.float32], ...]:
    """Frames -> their pyramid, and for each level some regions of the size that is read from it, a few over the edge."""
    assert isinstance(module, Img2Pose)
    (frames,) = case
    with torch.inference_mode():
        levels = module.backbone(torch.from_numpy(frames))[:-1]
    rng = np.random.RandomState(len(frames))
    batch, _, height, width = frames.shape
    regions = []
    for k in C.ROI_LEVELS:
        side = 20.0 * 2**k * rng.uniform(0.5, 1.2, (6 * batch, 2))
        centre = rng.uniform(0, 1, (6 * batch, 2)) * [width, height]
        corners = np.concatenate([centre - side / 2, centre + side / 2], 1).clip(0, [width, height] * 2)
        corners[0] = [0.25 * width, 0.1 * height, 1.1 * width + 8, 1.2 * height + 8]
        frame = np.arange(len(corners)) % batch
        regions.append(np.column_stack([frame, corners]).astype(np.float32))
    return (*(level.numpy() for level in levels), *regions)


def _some_faces(tensors: dict[str, NDArray[Any]]) -> None:
    tensors["roi_heads.class_predictor.cls_score.bias"][:] = [STAND_IN_FACE_BIAS, 0.0]


_STAND_IN = StandIn(CONFIG, gains=GAINS, adjust=_some_faces)
RECIPE = Recipe(partial(_make, kind=Img2Pose), _STAND_IN)
RECIPE_SCORES = Recipe(partial(_make, kind=Img2PoseScores), _STAND_IN, of_frames=_of_frames)
RECIPE_POSE = Recipe(partial(_make, kind=Img2PosePose), _STAND_IN, of_frames=_of_frames)

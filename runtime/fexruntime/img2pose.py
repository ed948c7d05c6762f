"""img2pose around its networks: proposals from anchors, regions, and boxes from projected poses.

Mirrors `feat/facepose_detectors/img2pose/deps` and the parts of torchvision's detection models that it uses. Maths: Albiero
et al., "img2pose: Face Alignment and Detection via 6DoF, Face Pose Estimation", 2021. All in float32, in torch's order of
operations, over all proposals at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from fexruntime.arrays import F32, U8, Bools, Indices
from fexruntime.contracts import Preprocessing
from fexruntime.contracts import img2pose as C
from fexruntime.detect import fill_input, suppress
from fexruntime.errors import BundleError
from fexruntime.resample import bilinear_taps, dense_matrix
from fexruntime.rotation import euler_of, matrix_of, vector_of

_BLOCK = 256
"""Candidates that are compared with each other at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Settings:
    """What comes with the weights: sizes of the resized frame, numbers of proposals, the face that is projected."""

    min_size: int
    max_size: int
    before_nms: int
    """Proposals of each level that are compared."""
    after_nms: int
    """Proposals that become regions."""
    points_xyz: F32
    """[68,3] of the face model."""
    factor_xy: tuple[float, float]
    """How much larger than the projected points a box is."""
    forehead: float
    """By which share of its height it grows towards the forehead."""

    @classmethod
    def of(cls, config: Mapping[str, Any] | None) -> Settings:
        """The settings that a bundle recorded; BundleError if they are not there."""
        try:
            c = config or {}
            return cls(
                int(c["min_size"]),
                int(c["max_size"]),
                int(c["rpn_pre_nms_top_n_test"]),
                int(c["rpn_post_nms_top_n_test"]),
                np.array(c["threed_points"], np.float32).reshape(-1, 3),
                (float(c["bbox_x_factor"]), float(c["bbox_y_factor"])),
                float(c["expand_forehead"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(
                f"the bundle's img2pose lacks a part of its configuration ({error}): build it again"
            ) from None

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in which the network sees a frame, before padding (Python's own floats, truncated)."""
        scale = min(self.min_size / min(height, width), self.max_size / max(height, width))
        return max(int(height * scale), 1), max(int(width * scale), 1)


def padded(size_hw: tuple[int, int]) -> tuple[int, int]:
    """A resized frame's size with its padding."""
    height, width = (-(-side // C.FRAME_MULTIPLE) * C.FRAME_MULTIPLE for side in size_hw)
    return height, width


def fill(frame_rgb_u8: U8, size_hw: tuple[int, int], preprocessing: Preprocessing, out: F32) -> None:
    """Write a frame [H,W,3], bilinearly resized to `size_hw`, into `out` [3,H',W']: (value - mean) / std, zeros around."""
    import cv2

    height, width = size_hw
    resized: Any = cv2.resize(frame_rgb_u8.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    fill_input(resized, preprocessing, out[:, :height, :width])
    out[:, height:] = 0
    out[:, :, width:] = 0


def fill_numpy(frame_rgb_u8: U8, size_hw: tuple[int, int], preprocessing: Preprocessing, out: F32) -> None:
    """Plain twin of `fill`: torch's bilinear interpolation as two matrices."""
    rows, columns = (
        dense_matrix(bilinear_taps(old, new), old) for old, new in zip(frame_rgb_u8.shape[:2], size_hw, strict=True)
    )
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (preprocessing.mean, preprocessing.std))
    planes = (frame_rgb_u8.transpose(2, 0, 1).astype(np.float32) - mean) / std
    out[:] = 0
    out[:, : size_hw[0], : size_hw[1]] = rows @ planes @ columns.T


def levels_of(height: int, width: int) -> list[tuple[int, int]]:
    """(rows, columns) of P2 to P6 for a padded frame; P6 is every other cell of P5."""
    grids = [(height >> k, width >> k) for k in C.ROI_LEVELS]
    rows, columns = grids[-1]
    return [*grids, (-(-rows // 2), -(-columns // 2))]


@lru_cache(maxsize=8)
def anchors(height: int, width: int) -> F32:
    """Anchors [A,4] as corners in pixels of a padded frame: three a cell, row by row, P2 to P6."""
    tables = []
    for side, (rows, columns) in zip(C.ANCHOR_SIDES, levels_of(height, width), strict=True):
        tall = np.sqrt(np.array(C.ASPECT_RATIOS, np.float32))
        w, h = np.float32(1) / tall * np.float32(side), tall * np.float32(side)
        cell = np.rint(np.stack([-w, -h, w, h], 1) / np.float32(2))
        # strides in whole pixels, as torchvision has them: 416 // 7 is 59 at P6, not 64
        y, x = np.meshgrid(np.arange(rows) * (height // rows), np.arange(columns) * (width // columns), indexing="ij")
        shifts = np.stack([x, y, x, y], -1).reshape(-1, 1, 4).astype(np.float32)
        tables.append((shifts + cell).reshape(-1, 4))
    table = np.concatenate(tables).astype(np.float32)
    table.setflags(write=False)
    return table


def proposals(
    objectness: F32, deltas: F32, size_hw: tuple[int, int], padded_hw: tuple[int, int], settings: Settings
) -> F32:
    """Proposals [K,4] of one frame, best first, as corners in pixels of the resized frame.

    `objectness` [A] and `deltas` [A,4] are the network's outputs.
    """
    chosen, levels, first = [], [], 0
    for level, (rows, columns) in enumerate(levels_of(*padded_hw)):
        count = rows * columns * len(C.ASPECT_RATIOS)
        chosen.append(first + _best(objectness[first : first + count], settings.before_nms))
        levels.append(np.full(len(chosen[-1]), level))
        first += count
    at, level_of = np.concatenate(chosen), np.concatenate(levels)
    order = np.argsort(-objectness[at], kind="stable")  # of equal scores the finer level's is first
    at, level_of = at[order], level_of[order]
    boxes = clipped(_decode(deltas[at], anchors(*padded_hw)[at]), size_hw)
    large = _sides_are(boxes, C.LEAST_SIDES[0])
    boxes, level_of = boxes[large], level_of[large]
    if len(boxes) <= C.FEW_PROPOSALS:
        if not len(boxes):
            return boxes
        moved = boxes + (level_of.astype(np.float32) * (boxes.max() + np.float32(1)))[:, None]
        return boxes[suppress(moved, C.PROPOSAL_IOU)[: settings.after_nms]]
    return boxes[suppress_within(boxes, level_of, C.PROPOSAL_IOU, settings.after_nms)]


def _best(scores: F32, most: int) -> Indices:
    """Indices of the `most` greatest scores, of equal ones the first."""
    if len(scores) <= most:
        return np.arange(len(scores))
    least = np.partition(scores, len(scores) - most)[len(scores) - most]
    above = np.flatnonzero(scores > least)
    equal = np.flatnonzero(scores == least)[: most - len(above)]
    return np.concatenate([above, equal])


def _decode(deltas: F32, prior: F32) -> F32:
    half, most = np.float32(0.5), np.float32(math.log(C.LARGEST_GROWTH))
    size = prior[:, 2:] - prior[:, :2]
    centre = deltas[:, :2] * size + (prior[:, :2] + half * size)
    away = half * (np.exp(np.minimum(deltas[:, 2:], most)) * size)
    return np.concatenate([centre - away, centre + away], axis=1)


def clipped(boxes: F32, size_hw: tuple[int, int]) -> F32:
    """Boxes [N,4] with their corners in a frame of that size."""
    height, width = size_hw
    inside: F32 = np.clip(boxes, np.float32(0), np.array([width, height, width, height], np.float32))
    return inside


def worth_a_pose(boxes: F32, scores: F32, threshold: float) -> Bools:
    """Which proposals [K,4] may be faces: a lower score than the caller wants suppresses nothing, so it is left out here."""
    scoring: Bools = (scores >= np.float32(threshold)) & (scores > np.float32(C.LEAST_SCORE))
    return scoring & _sides_are(boxes, C.LEAST_SIDES[1])


def _sides_are(boxes: F32, least: float) -> Bools:
    enough: Bools = ((boxes[:, 2:] - boxes[:, :2]) >= np.float32(least)).all(axis=1)
    return enough


def suppress_within(boxes: F32, group: Indices, iou: float, most: int) -> Indices:
    """The first `most` that greedy non-maximum suppression keeps of boxes [N,4] in descending order of score.

    Boxes suppress others of their group alone. The same as `detect.suppress` of each group, merged; but blocks of boxes are
    compared with all that were kept before at once, and nothing is compared after the last that is wanted.
    """
    least = np.float32(iou)
    if float(least) <= iou:  # an IoU in float32 is greater than `iou` in float64 from this one on
        least = np.nextafter(least, np.float32(2))
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = np.empty(0, np.int64)
    for start in range(0, len(boxes), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(boxes)))
        for one in np.unique(group[block]):
            mine, before = block[group[block] == one], kept[group[kept] == one]
            if len(before):
                block = np.setdiff1d(
                    block, mine[_overlaps(boxes, areas, mine, before, least).any(axis=1)], assume_unique=True
                )
        same = group[block][:, None] == group[block][None, :]
        bad = _overlaps(boxes, areas, block, block, least) & same
        alive = np.ones(len(block), bool)
        for i in np.flatnonzero(np.triu(bad, 1).any(axis=1)):
            if alive[i]:
                alive[i + 1 :] &= ~bad[i, i + 1 :]
        kept = np.concatenate([kept, block[alive]])
        if len(kept) >= most:
            break
    return kept[:most]


def _overlaps(boxes: F32, areas: F32, a: Indices, b: Indices, least: np.float32) -> Any:
    """[len(a), len(b)] whether the IoU is `least` or more (NaN is not), as torchvision's kernel computes it."""
    x1, y1, x2, y2 = (boxes[a, k, None] for k in range(4))
    u1, v1, u2, v2 = (boxes[b, k] for k in range(4))
    shared = np.maximum(np.minimum(x2, u2) - np.maximum(x1, u1), np.float32(0))
    shared *= np.maximum(np.minimum(y2, v2) - np.maximum(y1, v1), np.float32(0))
    with np.errstate(divide="ignore", invalid="ignore"):
        return shared / (areas[a, None] + areas[b] - shared) >= least


def regions(boxes: F32) -> tuple[Indices, dict[str, F32]]:
    """(order, inputs of the heads by name): boxes [K,4] sorted by the level that each is read from, as regions [.,5]."""
    reference, side, eps = C.ROI_REFERENCE
    extent = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    with np.errstate(divide="ignore"):
        level = np.floor(np.float32(reference) + np.log2(extent / np.float32(side)) + np.float32(eps))
    level = np.clip(level, C.ROI_LEVELS[0], C.ROI_LEVELS[-1])
    rows = np.concatenate([np.zeros((len(boxes), 1), np.float32), boxes], axis=1)
    places = [np.flatnonzero(level == k) for k in C.ROI_LEVELS]
    named = {f"regions_{k}": np.ascontiguousarray(rows[at]) for k, at in zip(C.ROI_LEVELS, places, strict=True)}
    return np.concatenate(places), named


def faces(
    boxes: F32, scores: F32, local_pose: F32, resized_hw: tuple[int, int], frame_hw: tuple[int, int], settings: Settings
) -> tuple[F32, F32, F32]:
    """(boxes [N,4] in pixels of the frame, scores [N], raw pose [N,6]) of the faces, best first.

    `boxes` [K,4] are proposals in pixels of the resized frame, `local_pose` [K,6] the pose that a camera sees which looks at
    each. A face's box is that of its face model, projected. The raw pose is three angles in radians and a translation, of a
    camera that looks at the whole resized frame.
    """
    pose = to_frame_camera(local_pose, boxes, resized_hw)
    seen = projected_boxes(pose, resized_hw, settings)
    order = np.argsort(-scores, kind="stable")
    order = order[np.isfinite(seen[order]).all(axis=1)]
    # lower scores suppress nothing: those below the threshold need not be here, and are not
    order = order[suppress(seen[order], C.BOX_IOU)[: C.MOST_BOXES]]
    ratio = [np.float32(new) / np.float32(old) for new, old in zip(frame_hw, resized_hw, strict=True)]
    final = seen[order] * np.array([ratio[1], ratio[0], ratio[1], ratio[0]], np.float32)
    kept = suppress(final, C.FACE_IOU)
    order, final = order[kept], final[kept]
    angles = euler_of(matrix_of(pose[order, :3]))
    return final, scores[order], np.concatenate([angles, pose[order, 3:]], axis=1)


def _intrinsics(size_hw: tuple[int, int]) -> F32:
    height, width = size_hw
    focal = height + width
    return np.array([[focal, 0, width // 2], [0, focal, height // 2], [0, 0, 1]], np.float32)


def to_frame_camera(pose: F32, boxes: F32, size_hw: tuple[int, int]) -> F32:
    """Poses [N,6] that cameras see which look at boxes [N,4] -> poses that the camera of the whole frame sees."""
    whole = _intrinsics(size_hw)
    back = np.linalg.inv(whole)
    cameras = np.tile(whole, (len(boxes), 1, 1))
    cameras[:, :2, 2] = (boxes[:, :2] + boxes[:, 2:]) / np.float32(2)
    extent = (boxes[:, 2] - boxes[:, 0]) + (boxes[:, 3] - boxes[:, 1])
    moved = pose[:, 3:].copy()
    moved[:, 2] *= whole[0, 0] / extent
    translation = (cameras @ moved[:, :, None])[:, :, 0] @ back.T
    rotation = vector_of(back @ (cameras @ matrix_of(pose[:, :3])))
    return np.concatenate([rotation, translation], axis=1)


def projected_boxes(pose: F32, size_hw: tuple[int, int], settings: Settings) -> F32:
    """Boxes [N,4], whole pixels, of the face model's points as the frame's camera sees them, grown to the forehead."""
    points = settings.points_xyz @ matrix_of(pose[:, :3]).transpose(0, 2, 1) + pose[:, None, 3:]
    seen = points @ _intrinsics(size_hw).T
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        seen = seen[:, :, :2] / seen[:, :, 2:]
        low, high = seen.min(axis=1), seen.max(axis=1)
        half = np.float32(0.5)
        size = np.trunc((high - low) * np.array(settings.factor_xy, np.float32))
        centre = half * (low + high)
        box = np.concatenate([centre - size * half, centre + size * half], axis=1)
        grown = np.float32(settings.forehead) * (high - low)
    roll = pose[:, 2]
    sideways, upside_down = C.ROLLS
    below = np.abs(roll) > np.float32(upside_down)
    right, left = (roll > np.float32(sideways)) & ~below, (roll < -np.float32(sideways)) & ~below
    box[below, 3] += grown[below, 1]
    box[right, 2] += grown[right, 0]
    box[left, 0] -= grown[left, 0]
    above = ~(below | right | left)
    box[above, 1] -= grown[above, 1]
    height, width = (np.float32(side) for side in size_hw)
    whole: F32 = np.trunc(box)
    whole[:, :2] = np.maximum(whole[:, :2], np.float32(0))
    whole[:, 2:] = np.minimum(whole[:, 2:], np.array([width, height], np.float32))
    return whole

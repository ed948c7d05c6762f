"""Differences between two answers of a face detector, as faces: boxes, scores, keypoints, and who is there at all.

Raw outputs say little: most of a detector's anchors lie on no face. Where neither answer has a face, the likeliest anchors
are compared in their place, so that a comparison always says something.
"""

from __future__ import annotations

import numpy as np

from fexruntime import detect
from fexruntime.arrays import F32, F64, Values

UNITS = {"box": "1 - IoU", "score": "score", "faces": "faces lost or gained", "keypoints": "of the box's diagonal"}
"""Unit of each task."""
TASKS = frozenset(UNITS)
CERTAIN = 0.6
"""Score from which a face has to be in both answers."""
SAME_IOU = 0.5
"""Boxes that overlap by more are the same face's."""
_LIKELIEST = 20


def difference(task: str, expected: Values, found: Values, size_hw: tuple[int, int]) -> F64:
    """One value a face that both answers have: 1 - IoU of its boxes ("box"), difference of its scores ("score"), largest
    distance of a keypoint as a share of the box's diagonal ("keypoints"); one a face of either, 1 if only one of them has it
    ("faces"). `expected` and `found` hold "loc", "conf" and "landmarks" of frames of that size.
    """
    values: list[float] = []
    for k in range(len(expected["loc"])):
        pair = [{name: v[k : k + 1] for name, v in answer.items()} for answer in (expected, found)]
        values += _of_frame(task, pair[0], pair[1], size_hw)
    return np.array(values, np.float64)


def _of_frame(task: str, expected: Values, found: Values, size_hw: tuple[int, int]) -> list[float]:
    one, other = (detect.find(a["loc"], a["conf"], a["landmarks"], size_hw, 0.0)[0] for a in (expected, found))
    if max(one.scores.max(initial=0.0), other.scores.max(initial=0.0)) < CERTAIN:
        anchors = np.argsort(-expected["conf"][0, :, 1], kind="stable")[:_LIKELIEST]
        one, other = (
            detect.at(a["loc"][0], a["conf"][0, :, 1], a["landmarks"][0], anchors, size_hw) for a in (expected, found)
        )
        pairs = [(i, i) for i in range(len(anchors))]
    else:
        pairs = _matched(one.boxes_xyxy_px, other.boxes_xyxy_px)
    if task == "faces":
        lost = [float(i not in {a for a, _ in pairs}) for i in np.flatnonzero(one.scores >= CERTAIN)]
        gained = [float(j not in {b for _, b in pairs}) for j in np.flatnonzero(other.scores >= CERTAIN)]
        return [*lost, *gained] or [0.0]
    certain = [(i, j) for i, j in pairs if max(one.scores[i], other.scores[j]) >= CERTAIN] or pairs
    if task == "score":
        return [abs(float(one.scores[i]) - float(other.scores[j])) for i, j in certain]
    if task == "box":
        return [
            1.0 - float(iou(one.boxes_xyxy_px[i : i + 1], other.boxes_xyxy_px[j : j + 1])[0, 0]) for i, j in certain
        ]
    return [_keypoints(one, i, other, j) for i, j in certain]


def _keypoints(one: detect.Detections, i: int, other: detect.Detections, j: int) -> float:
    assert one.points_xy_px is not None
    assert other.points_xy_px is not None
    left, top, right, bottom = one.boxes_xyxy_px[i].astype(np.float64)
    gap = one.points_xy_px[i].astype(np.float64) - other.points_xy_px[j].astype(np.float64)
    return float(np.linalg.norm(gap, axis=-1).max() / max(np.hypot(right - left, bottom - top), 1e-6))


def _matched(one: F32, other: F32) -> list[tuple[int, int]]:
    """Pairs of boxes of the same face, the best overlap first, each box once."""
    overlap = iou(one, other)
    pairs: list[tuple[int, int]] = []
    for flat in np.argsort(-overlap, axis=None, kind="stable"):
        i, j = (int(k) for k in np.unravel_index(flat, overlap.shape))
        if overlap[i, j] <= SAME_IOU:
            break
        if all(i != a and j != b for a, b in pairs):
            pairs.append((i, j))
    return pairs


def iou(one: F32, other: F32) -> F64:
    """Intersection over union [N,M] of boxes [N,4] and [M,4], as corners."""
    a, b = one.astype(np.float64)[:, None], other.astype(np.float64)[None]
    side = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0.0)
    both = side.prod(-1)
    areas = [(v[..., 2:] - v[..., :2]).clip(0).prod(-1) for v in (a, b)]
    return np.asarray(both / np.maximum(areas[0] + areas[1] - both, 1e-12))

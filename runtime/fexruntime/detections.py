"""Differences between two answers of a face detector, as faces: boxes, scores, keypoints, and who is there at all.

Raw outputs say little: most of a detector's anchors lie on no face. Where neither answer has a face, the likeliest anchors
are compared in their place, so that a comparison always says something.
"""

from __future__ import annotations

import numpy as np

from fexruntime import detect
from fexruntime.arrays import F32, F64, Values
from fexruntime.boxes import iou, pairs

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
        met = [(i, i) for i in range(len(anchors))]
    else:
        met = _matched(one.boxes_xyxy_px, other.boxes_xyxy_px)
    if task == "faces":
        lost = [float(i not in {a for a, _ in met}) for i in np.flatnonzero(one.scores >= CERTAIN)]
        gained = [float(j not in {b for _, b in met}) for j in np.flatnonzero(other.scores >= CERTAIN)]
        return [*lost, *gained] or [0.0]
    certain = [(i, j) for i, j in met if max(one.scores[i], other.scores[j]) >= CERTAIN] or met
    if task == "score":
        return [abs(float(one.scores[i]) - float(other.scores[j])) for i, j in certain]
    if task == "box":
        overlap = iou(one.boxes_xyxy_px.astype(np.float64), other.boxes_xyxy_px.astype(np.float64))
        return [1.0 - float(overlap[i, j]) for i, j in certain]
    return [_keypoints(one, i, other, j) for i, j in certain]


def _keypoints(one: detect.Detections, i: int, other: detect.Detections, j: int) -> float:
    assert one.points_xy_px is not None
    assert other.points_xy_px is not None
    left, top, right, bottom = one.boxes_xyxy_px[i].astype(np.float64)
    gap = one.points_xy_px[i].astype(np.float64) - other.points_xy_px[j].astype(np.float64)
    return float(np.linalg.norm(gap, axis=-1).max() / max(np.hypot(right - left, bottom - top), 1e-6))


def _matched(one: F32, other: F32) -> list[tuple[int, int]]:
    """Pairs of boxes of the same face, the best overlap first, each box once."""
    overlap = iou(one.astype(np.float64), other.astype(np.float64))
    return pairs(overlap, overlap > SAME_IOU)

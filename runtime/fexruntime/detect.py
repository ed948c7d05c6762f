"""Faces from RetinaFace's raw outputs: anchors, box decode, non-maximum suppression.

Mirrors `feat/face_detectors/Retinaface/Retinaface_test.py` and `Retinaface_model.py`. Only anchors above the final
score are decoded and compared: a box can be suppressed only by one that scores higher, so filtering before the
suppression gives the same set as filtering after it, at a fraction of the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from fexruntime.arrays import F32, U8, Indices
from fexruntime.contracts import Preprocessing
from fexruntime.contracts import detection as C


@dataclass(frozen=True, slots=True)
class Detections:
    """Faces of one frame, best first: boxes_xyxy_px [N,4], scores [N], points_xy_px [N,5,2] (eyes, nose, mouth corners; None: not asked for)."""

    boxes_xyxy_px: F32
    scores: F32
    points_xy_px: F32 | None

    def __len__(self) -> int:
        return len(self.scores)


def given(boxes_xyxy_px: F32) -> Detections:
    """The caller's own boxes as detections with score 1 and no points (py-feat's `crop_faces_from_boxes`)."""
    n = len(boxes_xyxy_px)
    return Detections(boxes_xyxy_px, np.ones(n, np.float32), np.full((n, 5, 2), np.nan, np.float32))


def fill_input(frame_rgb_u8: U8 | F32, preprocessing: Preprocessing, out: F32) -> None:
    """Write a frame [H,W,3] into `out` [3,H,W] float32, planar, (value - mean) / std. Exact where the std is 1."""
    import cv2

    for c, plane in enumerate(out):
        mean: Any = preprocessing.mean[c]  # a scalar is right here; OpenCV's stubs know arrays only
        cv2.subtract(cv2.extractChannel(frame_rgb_u8, c), mean, plane, dtype=cv2.CV_32F)
        if preprocessing.std[c] != 1.0:
            plane /= np.float32(preprocessing.std[c])


def fill_input_numpy(frame_rgb_u8: U8, preprocessing: Preprocessing, out: F32) -> None:
    """Plain twin of `fill_input`."""
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (preprocessing.mean, preprocessing.std))
    out[:] = (frame_rgb_u8.transpose(2, 0, 1).astype(np.float32) - mean) / std


@lru_cache(maxsize=16)
def anchors(height: int, width: int) -> F32:
    """Anchors [A,4] (centre x, centre y, width, height) as fractions of the frame; two sizes a cell, row by row."""
    levels = []
    for step, sizes in zip(C.STEPS, C.MIN_SIZES, strict=True):
        rows, columns = -(-height // step), -(-width // step)
        cy, cx = np.meshgrid(
            (np.arange(rows) + 0.5) * step / height, (np.arange(columns) + 0.5) * step / width, indexing="ij"
        )
        level = np.empty((rows, columns, len(sizes), 4))
        level[..., 0], level[..., 1] = cx[..., None], cy[..., None]
        level[..., 2], level[..., 3] = np.array(sizes) / width, np.array(sizes) / height
        levels.append(level.reshape(-1, 4))
    table = np.concatenate(levels).astype(np.float32)
    table.setflags(write=False)
    return table


def find(loc: F32, conf: F32, landmarks: F32 | None, size_hw: tuple[int, int], threshold: float) -> list[Detections]:
    """Detections of each frame of a batch.

    `loc` [B,A,4], `conf` [B,A,2], `landmarks` [B,A,10] are the network's outputs for frames of size `size_hw`.
    Without landmarks there are no points. Scores below `threshold`, and below 0.5 in any case, are dropped.
    """
    least = max(np.float32(threshold), np.float32(C.FINAL_SCORE))
    batch, anchor = np.nonzero(conf[..., 1] >= least)
    most = C.TOP_K * len(conf)
    if len(batch) > most:  # counted over the whole batch, as py-feat does
        best = np.sort(np.argsort(-conf[batch, anchor, 1], kind="stable")[:most])
        batch, anchor = batch[best], anchor[best]
    return [
        _frame(loc[b], conf[b, :, 1], None if landmarks is None else landmarks[b], anchor[batch == b], *size_hw)
        for b in range(len(conf))
    ]


def _frame(loc: F32, scores: F32, landmarks: F32 | None, chosen: Indices, height: int, width: int) -> Detections:
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
    prior = anchors(height, width)[chosen]
    boxes = _decode(loc[chosen], prior) * np.array([width, height, width, height], np.float32)
    kept = suppress(boxes, C.NMS_IOU)[: C.KEEP_TOP_K]
    if landmarks is None:
        return Detections(boxes[kept], scores[chosen[kept]], None)
    points = landmarks[chosen[kept]].reshape(-1, 5, 2) * np.float32(C.VARIANCES[0])
    points = (prior[kept][:, None, :2] + points * prior[kept][:, None, 2:]) * np.array([width, height], np.float32)
    return Detections(boxes[kept], scores[chosen[kept]], points.astype(np.float32))


def _decode(loc: F32, prior: F32) -> F32:
    """Centre-size deltas -> corners, as fractions of the frame; torch's order of float32 operations."""
    centre = prior[:, :2] + loc[:, :2] * np.float32(C.VARIANCES[0]) * prior[:, 2:]
    size = prior[:, 2:] * np.exp(loc[:, 2:] * np.float32(C.VARIANCES[1]))
    first = centre - size / np.float32(2)
    return np.concatenate([first, size + first], axis=1)


def suppress(boxes_xyxy: F32, iou: float) -> Indices:
    """Greedy non-maximum suppression of boxes [N,4] already in descending order of score; indices kept.

    IoU in float32, compared with the threshold in float64 (torchvision's kernel).
    """
    x1, y1, x2, y2 = boxes_xyxy.T
    areas = (x2 - x1) * (y2 - y1)
    alive = np.ones(len(boxes_xyxy), bool)
    kept = []
    for i in range(len(boxes_xyxy)):
        if not alive[i]:
            continue
        kept.append(i)
        rest = i + 1 + np.flatnonzero(alive[i + 1 :])
        if not len(rest):
            break
        across = np.maximum(np.float32(0), np.minimum(x2[i], x2[rest]) - np.maximum(x1[i], x1[rest]))
        down = np.maximum(np.float32(0), np.minimum(y2[i], y2[rest]) - np.maximum(y1[i], y1[rest]))
        shared = across * down
        with np.errstate(divide="ignore", invalid="ignore"):
            overlap = shared / (areas[i] + areas[rest] - shared)
        alive[rest[overlap.astype(np.float64) > iou]] = False
    return np.array(kept, np.int64)

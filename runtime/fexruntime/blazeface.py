"""MediaPipe's short-range face detector (BlazeFace) on the host: anchors, decoding, weighted NMS, regions of the mesh.

Mirrors the calculators of mediapipe 0.10.21 (TensorsToDetections, NonMaxSuppression, DetectionProjection,
DetectionsToRects, RectTransformation, Association) in their float32 and their order of operations: a region that is off
by a hundred-thousandth of a pixel may read a pixel's neighbour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fexruntime.arrays import F32
from fexruntime.contracts import facemesh as C
from fexruntime.warp import corners_of

_ONE, _HALF = np.float32(1), np.float32(0.5)


@dataclass(frozen=True, slots=True)
class Faces:
    """N faces of a frame, best score first, in pixels of it."""

    boxes_xyxy_px: F32
    scores: F32
    keypoints_xy_px: F32
    """[N,6,2]"""
    region_xy_px: F32
    """[N,4,2] corners of the squares that the mesh is read from, as `warp.corners_of` orders them."""


@lru_cache(maxsize=1)
def anchors() -> F32:
    """Centres [896,2] of the anchors as fractions of the input, row by row, the finer grid first."""
    parts = []
    for cells, each in C.ANCHOR_GRIDS:
        at = (np.arange(cells, dtype=np.float32) + _HALF) / np.float32(cells)
        y, x = np.meshgrid(at, at, indexing="ij")
        parts.append(np.repeat(np.stack([x.ravel(), y.ravel()], 1), each, axis=0))
    whole = np.concatenate(parts)
    whole.flags.writeable = False
    return whole


def find(
    regressors: F32, logits: F32, size_hw: tuple[int, int], threshold: float, max_faces: int | None = None
) -> Faces:
    """Faces of a frame from the network's outputs [896,16] and [896,1], the best `max_faces` of them.

    A region that overlaps those of better faces by more than half takes their place (theirs are left out).
    """
    boxes, points, scores = _decoded(regressors, logits, threshold)
    boxes, points, scores = _merged(boxes, points, scores)
    boxes, points = _in_frame(boxes, points, size_hw)
    if max_faces is not None:
        boxes, points, scores = boxes[:max_faces], points[:max_faces], scores[:max_faces]
    height, width = size_hw
    frame = np.array([width, height], np.float32)
    regions = [region(box, eyes, frame) for box, eyes in zip(boxes, points[:, :2], strict=True)]
    kept = apart([(centre, size) for centre, size, _ in regions])
    corners = [corners_of(centre * frame, size * frame, angle) for centre, size, angle in regions]
    pixels = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1) * np.tile(frame, 2)
    return Faces(
        pixels[kept],
        scores[kept],
        (points * frame)[kept],
        np.array(corners, np.float32).reshape(-1, 4, 2)[kept],
    )


def _decoded(regressors: F32, logits: F32, threshold: float) -> tuple[F32, F32, F32]:
    """(boxes [N,4] x, y, width, height, keypoints [N,6,2], scores [N]) of the anchors above the threshold, best first."""
    # few are anywhere near it, and only these are worth an exact score; one that is no number is none
    chosen = np.flatnonzero(logits[:, 0] >= _least_logit(threshold))
    clip = np.float32(C.SCORE_CLIP)
    clipped = np.minimum(np.maximum(logits[chosen, 0], -clip), clip)
    with np.errstate(over="ignore"):  # e^100 is no float32: the score is 0
        scores = _ONE / (_ONE + np.exp(-clipped))
    enough = scores >= np.float32(threshold)
    chosen, scores = chosen[enough], scores[enough]
    raw, near = regressors[chosen] / np.float32(C.DETECTOR_SIDE), anchors()[chosen]
    centre, size = raw[:, :2] + near, raw[:, 2:4]
    low, high = centre - size / np.float32(2), centre + size / np.float32(2)
    points = raw[:, 4:].reshape(-1, C.DETECTOR_KEYPOINTS, 2) + near[:, None]
    boxes = np.concatenate([low, high - low], axis=1)
    good = ((boxes[:, 2:] >= 0).all(axis=1)) & np.isfinite(boxes).all(axis=1)
    order = np.flatnonzero(good)[np.argsort(-scores[good], kind="stable")]
    return boxes[order], points[order], scores[order]


def _least_logit(threshold: float) -> float:
    """Below it no score reaches the threshold, however it is rounded."""
    return math.log(threshold / (1 - threshold)) - 0.01 if 1e-6 < threshold < 1 - 1e-6 else -math.inf


def _merged(boxes: F32, points: F32, scores: F32) -> tuple[F32, F32, F32]:
    """Weighted NMS: the best box and those that overlap it become their mean, weighted by score, with the best's score."""
    numbers = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:], points.reshape(len(boxes), 12)], axis=1)
    left = np.arange(len(boxes))
    means, best = [], []
    while len(left):
        near = _overlaps(boxes[left[0]], boxes[left]) > np.float32(C.NMS_IOU)
        near[0] = True  # a box of no size overlaps nothing, not even itself
        merged = left[near]
        weights = scores[merged][:, None]
        # one after another, as the calculator adds them up
        total = np.add.accumulate(numbers[merged] * weights, axis=0)[-1]
        means.append(total / np.add.accumulate(weights, axis=0)[-1])
        best.append(left[0])
        left = left[~near]
    mean = np.array(means, np.float32).reshape(-1, 16)
    whole = np.concatenate([mean[:, :2], mean[:, 2:4] - mean[:, :2]], axis=1)
    return whole, mean[:, 4:].reshape(-1, C.DETECTOR_KEYPOINTS, 2), scores[best]


def _overlaps(box: F32, others: F32) -> F32:
    """IoU [N] of a box (x, y, width, height) with others."""
    far, ends = box[:2] + box[2:], others[:, :2] + others[:, 2:]
    across, down = np.maximum(np.minimum(far, ends) - np.maximum(box[:2], others[:, :2]), np.float32(0)).T
    shared = across * down
    union = box[2] * box[3] + others[:, 2] * others[:, 3] - shared
    found: F32 = np.where(union > 0, shared / np.where(union > 0, union, _ONE), np.float32(0))
    return found


def _in_frame(boxes: F32, points: F32, size_hw: tuple[int, int]) -> tuple[F32, F32]:
    """Fractions of the letterbox -> fractions of the frame."""
    height, width = size_hw
    side, frame = np.float32(max(size_hw)), np.array([width, height], np.float32)
    share = _ONE / frame
    scale = side * share
    shift = (-_HALF * side + frame * _HALF) * share
    low, high = boxes[:, :2] * scale + shift, (boxes[:, :2] + boxes[:, 2:]) * scale + shift
    return np.concatenate([low, high - low], axis=1), points * scale + shift


def region(box: F32, eyes: F32, frame: F32) -> tuple[F32, F32, float]:
    """(centre, size, as fractions of the frame, and angle) of a face's region: square in pixels, the eyes level in it."""
    centre = box[:2] + box[2:] / np.float32(2)
    longer = (box[2:] * frame).max()
    size = longer / frame * np.float32(C.REGION_SCALE)
    x, y = (eyes[1] * frame) - (eyes[0] * frame)
    turn = -math.atan2(-float(y), float(x))
    turn -= 2 * math.pi * math.floor((turn + math.pi) / (2 * math.pi))
    return centre, size, turn


def apart(regions: list[tuple[F32, F32]]) -> list[int]:
    """Which regions stay when each takes the place of earlier ones that it overlaps (as if they were not turned)."""
    if len(regions) < 2:
        return [*range(len(regions))]
    boxes = np.array([[*(c - s / np.float32(2)), *s] for c, s in regions], np.float32).reshape(-1, 4)
    kept: list[int] = []
    for n, box in enumerate(boxes):
        if kept:
            over = _overlaps(box, boxes[kept]) > np.float32(C.SAME_REGION_IOU)
            kept = [k for k, o in zip(kept, over, strict=True) if not o]
        kept.append(n)
    return kept

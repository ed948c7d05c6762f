"""Boxes as corners [N,4]: how far they overlap, and which of two lists are the same face's.

What has to round as a reference does (RetinaFace's, img2pose's and MediaPipe's suppression) keeps arithmetic of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fexruntime.arrays import Bools


def iou(first: Any, second: Any) -> Any:
    """Intersection over union [N,M] of boxes [N,4] and [M,4], in the wider of their types; 0 for boxes of no size."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [np.clip(v[:, 2:] - v[:, :2], 0, None).prod(axis=1) for v in (first, second)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None, :] - shared, 1e-12)


def pairs(overlap: Any, same: Bools) -> list[tuple[int, int]]:
    """(i, j) of an overlap [N,M], the greatest first, each i and each j once, among those that may be the `same` [N,M]."""
    found: list[tuple[int, int]] = []
    rows, columns = set(range(overlap.shape[0])), set(range(overlap.shape[1]))
    for flat in np.argsort(-overlap, axis=None, kind="stable"):
        i, j = divmod(int(flat), overlap.shape[1])
        if same[i, j] and i in rows and j in columns:
            found.append((i, j))
            rows.remove(i)
            columns.remove(j)
    return found

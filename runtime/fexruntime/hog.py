"""Histograms of oriented gradients of aligned, masked faces: what Detectorv1's classifiers read.

Mirrors `feat/utils/face_mask.py` and `feat/utils/image_operations.py: HOGLayer`, which follow OpenFace's alignment and
scikit-image's HOG. Maths: Dalal and Triggs, "Histograms of Oriented Gradients for Human Detection", 2005. Vectorised over
faces. Where the reference decides hard (the strongest channel, an orientation's bin, a landmark cut to a whole pixel), its
own sequence of float32 operations is kept, so that both decide alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fexruntime.arrays import F32, F64, Bools, Indices
from fexruntime.contracts.labels import HOG_SIZE

SIZE = 112
"""Side in pixels of the aligned face."""
ENLARGE = 2.5
"""The aligned face is this many times as large as the box of its five anchors."""
FILL = np.float32(128.0)
"""What the reference puts outside the crop, in an image whose white is 1.0. Classifiers were trained with it."""
ORIENTATIONS, CELL, BLOCK = 8, 8, 2
_CLIP, _EPS = 0.2, 1e-5
_RIGHT_EYE, _LEFT_EYE, _NOSE, _MOUTH = slice(36, 42), slice(42, 48), 30, (48, 54)
_JAW_ENDS = (0, 16)


def features(chips: F32, fractions_xy: F32) -> tuple[F32, F32]:
    """(hog [N,5408], points [N,68,2] in whole pixels of the aligned face) of faces.

    `chips` [N,3,112,112] float32 RGB in [0,1], `fractions_xy` [N,68,2] landmarks as fractions of them.
    """
    matrices = alignment(fractions_xy * np.float32(SIZE))
    points = aligned_points(matrices, fractions_xy * np.float32(SIZE))
    face = warped(chips, matrices.astype(np.float32))
    face *= masks(points)[:, None]
    return histograms(face), points.astype(np.float32)


def alignment(points_xy: F32) -> F64:
    """Matrices [N,2,3], chip pixels -> aligned pixels, of landmarks [N,68,2]: eyes level, five anchors in the middle."""
    points = points_xy.astype(np.float64)
    right, left = points[:, _RIGHT_EYE].mean(axis=1), points[:, _LEFT_EYE].mean(axis=1)
    anchors = np.stack([right, left, points[:, _NOSE], *(points[:, k] for k in _MOUTH)], axis=1)
    apart = left - right
    cosine, sine = (apart / np.maximum(np.linalg.norm(apart, axis=1), 1e-12)[:, None]).T
    turn = np.stack([np.stack([cosine, sine], 1), np.stack([-sine, cosine], 1)], 1)
    turned = np.einsum("nij,naj->nai", turn, anchors)
    low, high = turned.min(axis=1), turned.max(axis=1)
    centre, extent = (high + low) * 0.5, high - low
    half = 0.5 * ENLARGE * extent.max(axis=1)
    scale = (SIZE - 1) * 0.5 / np.maximum(half, 1e-12)
    shift = scale[:, None] * (half[:, None] - centre)
    return np.concatenate([scale[:, None, None] * turn, shift[:, :, None]], axis=2)


def aligned_points(matrices: F64, points_xy: F32) -> Indices:
    """Landmarks [N,68,2] in the aligned face, cut towards zero to whole pixels."""
    points = points_xy.astype(np.float64)
    moved = np.einsum("nij,nkj->nki", matrices[:, :, :2], points) + matrices[:, None, :, 2]
    whole: Indices = moved.astype(np.int64)
    return whole


def warped(chips: F32, matrices: F32) -> F32:
    """Chips [N,3,S,S] through [N,2,3], bilinear; what lies outside the chip is `FILL`.

    The reference's grid is made for corners at the outermost pixel centres and read as if they were the pixels' edges.
    """
    n, channels, size, _ = chips.shape
    f = np.float32
    to_pixels = np.array([[size / 2, 0, (size - 1) / 2], [0, size / 2, (size - 1) / 2], [0, 0, 1]], f)
    whole = np.concatenate([matrices, np.tile(np.array([[[0, 0, 1]]], f), (n, 1, 1))], axis=1)
    back = np.linalg.inv(np.linalg.inv(to_pixels) @ whole @ to_pixels)[:, :2]
    steps = np.linspace(-1, 1, size, dtype=f) * f(size - 1) / f(size)
    grid = (
        back[:, :, 0, None, None] * steps[None, None, None, :]
        + back[:, :, 1, None, None] * steps[None, None, :, None]
        + back[:, :, 2, None, None]
    )
    inside: Bools = (np.abs(grid) <= 1).all(axis=1)
    x, y = (((grid[:, k] + f(1)) * f(size) - f(1)) / f(2) for k in (0, 1))
    x0, y0 = np.floor(x), np.floor(y)
    right, down = x - x0, y - y0
    # a border of zeros stands for what is outside; positions far out are irrelevant, FILL covers them
    padded = np.zeros((n, channels, size + 2, size + 2), f)
    padded[:, :, 1:-1, 1:-1] = chips
    at_x, at_y = (np.clip(v, -1, size - 1).astype(np.int64) + 1 for v in (x0, y0))
    flat = padded.reshape(n, channels, -1)
    corner = (at_y * (size + 2) + at_x).reshape(n, 1, -1)
    out = np.zeros((n, channels, size * size), f)
    for offset, weight in (
        (0, (1 - right) * (1 - down)),
        (1, right * (1 - down)),
        (size + 2, (1 - right) * down),
        (size + 3, right * down),
    ):
        out += np.take_along_axis(flat, corner + offset, axis=2) * weight.reshape(n, 1, -1)
    return np.where(inside[:, None], out.reshape(n, channels, size, size), FILL)


def masks(points: Indices) -> Bools:
    """[N,S,S]: the landmarks' convex hull with its edges, and a box over the forehead.

    The box is the reference's slice from the top to the higher end of the jaw, with Python's meaning of negative bounds: a
    jaw that begins left of the face stamps nothing.
    """
    out = np.zeros((len(points), SIZE, SIZE), bool)
    for mask, face in zip(out, points, strict=True):
        mask[:] = _hull_mask(face)
        (x0, y0), (x1, y1) = (face[k] for k in _JAW_ENDS)
        mask[0 : min(y0, y1), x0:x1] = True
    return out


def _hull_mask(points: Indices) -> Bools:
    """Pixels in the convex hull of points [K,2], edges included: by row the span that every edge allows, in integers."""
    corners = hull(points)
    ends = np.roll(corners, -1, axis=0)
    (x, y), (dx, dy) = corners.T, (ends - corners).T
    rows = np.arange(SIZE)
    # inside is dx·(row - y) - dy·(column - x) >= 0 for all edges, that is dy·column <= limit
    limit = dx[:, None] * (rows - y[:, None]) + (dy * x)[:, None]
    # a hull may be a line or a point, whose edges do not bound it
    last, first = np.full(SIZE, min(SIZE - 1, x.max())), np.full(SIZE, max(0, x.min()))
    last[(rows < y.min()) | (rows > y.max())] = -1
    up, down, level = dy > 0, dy < 0, dy == 0
    if up.any():
        last = np.minimum(last, (limit[up] // dy[up, None]).min(axis=0))
    if down.any():
        first = np.maximum(first, (-(limit[down] // -dy[down, None])).max(axis=0))
    last = np.where((limit[level] < 0).any(axis=0), -1, last)
    columns = np.arange(SIZE)
    inside: Bools = (columns >= first[:, None]) & (columns <= last[:, None])
    return inside


def hull(points: Indices) -> Indices:
    """Corners [H,2] of the convex hull of whole-numbered points, in order (Andrew's monotone chain)."""
    ordered = sorted(set(map(tuple, points.tolist())))
    if len(ordered) < 3:
        return np.array(ordered, np.int64)

    def chain(sequence: list[tuple[int, int]]) -> list[tuple[int, int]]:
        kept: list[tuple[int, int]] = []
        for px, py in sequence:
            while len(kept) > 1:
                (ax, ay), (bx, by) = kept[-2:]
                if (bx - ax) * (py - ay) - (by - ay) * (px - ax) > 0:
                    break
                kept.pop()
            kept.append((px, py))
        return kept

    return np.array(chain(ordered)[:-1] + chain(ordered[::-1])[:-1], np.int64)


def histograms(image: F32) -> F32:
    """HOG [N,5408] of images [N,3,112,112]: blocks by row and column, their cells, eight orientations; L2-Hys."""
    n, _, height, width = image.shape
    across, down = np.zeros_like(image), np.zeros_like(image)
    np.subtract(image[..., 2:], image[..., :-2], out=across[..., 1:-1])
    np.subtract(image[..., 2:, :], image[..., :-2, :], out=down[..., 1:-1, :])
    strength = np.sqrt(across * across + down * down)
    best = strength.argmax(axis=1)[:, None]
    across, down, strength = (np.take_along_axis(v, best, axis=1)[:, 0] for v in (across, down, strength))
    degrees = np.mod(np.arctan2(down, across) * np.float32(180 / np.pi), np.float32(180))
    bins = np.clip((degrees / np.float32(180 / ORIENTATIONS)).astype(np.int64), 0, ORIENTATIONS - 1)
    rows, columns = height // CELL, width // CELL
    cell = np.arange(height)[:, None] // CELL * columns + np.arange(width) // CELL
    place = (np.arange(n)[:, None, None] * rows * columns + cell) * ORIENTATIONS + bins
    total = np.bincount(place.ravel(), strength.ravel(), minlength=n * rows * columns * ORIENTATIONS)
    cells = (total / CELL**2).reshape(n, rows, columns, ORIENTATIONS)
    windows = np.lib.stride_tricks.sliding_window_view(cells, (BLOCK, BLOCK), axis=(1, 2))
    blocks = _unit(np.minimum(_unit(windows.transpose(0, 1, 2, 4, 5, 3)), _CLIP))
    return blocks.reshape(n, HOG_SIZE).astype(np.float32)


def _unit(blocks: NDArray[np.float64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = blocks / np.sqrt((blocks * blocks).sum(axis=(3, 4, 5), keepdims=True) + _EPS**2)
    return unit

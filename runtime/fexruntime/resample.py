"""Separable image resampling as taps: for each output sample, which inputs it reads and with which weights.

Three conventions, the first two those of torch on the CPU:

- `antialias_taps`: torchvision's `resize(antialias=True)`, a triangle filter as wide as the reduction (Pillow's).
- `bilinear_taps`: `interpolate(mode="bilinear", align_corners=False)`, two taps, never wider.

- `pillow_taps`: Pillow's BILINEAR of 8-bit images, in its whole-number arithmetic, bit for bit.

Anything else (OpenCV's INTER_AREA or INTER_LINEAR) differs by up to 0.07 on a [0,1] chip.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Taps(NamedTuple):
    """source [new_size, k] int64 and weight [new_size, k] float32; unused taps have weight 0."""

    source: NDArray[np.int64]
    weight: NDArray[np.float32]


@lru_cache(maxsize=64)
def antialias_taps(size: int, new_size: int) -> Taps:
    """Taps of torchvision's antialiased bilinear resize of one axis from `size` to `new_size` samples."""
    f = np.float32  # torch computes positions and weights in the image's own type; in float64 they differ by 5e-6
    scale = f(size) / f(new_size)
    support = max(scale, f(1.0))
    rows = []
    for i in range(new_size):
        centre = scale * f(i + 0.5)
        first = max(int(centre - support + f(0.5)), 0)
        last = min(int(centre + support + f(0.5)), size)
        at = np.arange(first, last)
        away = (at.astype(f) - centre + f(0.5)) * (f(1.0) / support)
        weight = np.maximum(f(0.0), f(1.0) - np.abs(away))
        rows.append((at, weight / weight.cumsum(dtype=f)[-1]))
    width = max(len(at) for at, _ in rows)
    index = np.zeros((new_size, width), np.int64)
    weights = np.zeros((new_size, width), np.float32)
    for i, (at, weight) in enumerate(rows):
        index[i, : len(at)] = at
        index[i, len(at) :] = at[-1]
        weights[i, : len(at)] = weight
    return Taps(index, weights)


PILLOW_BITS = 22
"""Pillow's weights of 8-bit images are whole numbers of 1 / 2**22 (`PRECISION_BITS` of its Resample.c)."""


@lru_cache(maxsize=64)
def pillow_taps(size: int, new_size: int, first: int, last: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """(source, weight), both [last-first, k]: samples first … last-1 of Pillow's BILINEAR resize of one axis.

    Weights are in units of 1 / 2**22; unused taps have weight 0. Only the samples that are asked for are made: a resize
    may be of a strip many times longer than what is cut from it.
    """
    scale = size / new_size
    support = max(scale, 1.0)
    centre = (np.arange(first, last) + 0.5) * scale
    low = np.maximum(centre - support + 0.5, 0.0).astype(np.int64)
    high = np.minimum((centre + support + 0.5).astype(np.int64), size)
    source = low[:, None] + np.arange(int((high - low).max()))
    away = np.abs((source - centre[:, None] + 0.5) * (1.0 / support))
    weight = np.where((away < 1.0) & (source < high[:, None]), 1.0 - away, 0.0)
    total = weight.cumsum(axis=1)[:, -1:]  # in order, as Pillow adds them
    whole = (0.5 + weight / total * (1 << PILLOW_BITS)).astype(np.int32)
    return np.minimum(source, size - 1), whole


@lru_cache(maxsize=64)
def bilinear_taps(size: int, new_size: int) -> Taps:
    """Taps of torch's plain bilinear interpolation of one axis from `size` to `new_size` samples."""
    f = np.float32
    at = np.maximum((np.arange(new_size, dtype=f) + f(0.5)) * (f(size) / f(new_size)) - f(0.5), f(0.0))
    low = at.astype(np.int64)
    high = np.minimum(low + 1, size - 1)
    fraction = at - low.astype(f)
    return Taps(np.stack([low, high], 1), np.stack([1 - fraction, fraction], 1).astype(np.float32))


def dense_matrix(taps: Taps, size: int) -> NDArray[np.float32]:
    """The same resampling as a [new_size, size] float32 matrix."""
    matrix = np.zeros((len(taps.source), size), np.float32)
    for k in range(taps.source.shape[1]):
        np.add.at(matrix, (np.arange(len(matrix)), taps.source[:, k]), taps.weight[:, k])
    return matrix


def resize_u8(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Antialiased bilinear resize of an [H,W,C] uint8 image, rounded half to even.

    Mirrors torchvision's `Resize` of a uint8 tensor: columns first, then rows, both in float32, one rounding at the end.
    """
    x = image.astype(np.float32)
    for axis, new_size in ((1, width), (0, height)):
        if new_size != image.shape[axis]:
            x = _along(x, antialias_taps(image.shape[axis], new_size), axis)
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def _along(x: NDArray[np.float32], taps: Taps, axis: int) -> NDArray[np.float32]:
    """Weighted sum of the tapped rows (axis 0) or columns (axis 1) of [H,W,C]."""
    column = (-1, 1, 1) if axis == 0 else (1, -1, 1)
    total = np.take(x, taps.source[:, 0], axis=axis) * taps.weight[:, 0].reshape(column)
    for k in range(1, taps.source.shape[1]):
        total += np.take(x, taps.source[:, k], axis=axis) * taps.weight[:, k].reshape(column)
    return total


def resize_pillow(
    image: NDArray[np.uint8], height: int, width: int, rows: tuple[int, int], columns: tuple[int, int]
) -> NDArray[np.uint8]:
    """Rows and columns [first, last) of Pillow's `resize((width, height), BILINEAR)` of [H,W,3] uint8, bit for bit.

    Pillow goes through columns first, then rows, and rounds to 8 bits after each; an axis that keeps its size is left
    alone. Only what reaches the wanted part is computed.
    """
    down = None if height == image.shape[0] else pillow_taps(image.shape[0], height, *rows)
    across = None if width == image.shape[1] else pillow_taps(image.shape[1], width, *columns)
    top, bottom = rows if down is None else (int(down[0].min()), int(down[0].max()) + 1)
    x = image[top:bottom]
    if across is not None:
        x = _whole(x.transpose(1, 0, 2), *across).transpose(1, 0, 2)
    elif columns != (0, x.shape[1]):
        x = x[:, columns[0] : columns[1]]
    return np.ascontiguousarray(x if down is None else _whole(x, down[0] - top, down[1]))


def _whole(x: NDArray[np.uint8], source: NDArray[np.int64], weight: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Weighted sums of the first axis of [N,M,3] in Pillow's whole numbers (they stay below 2**31)."""
    first, last = int(source.min()), int(source.max()) + 1
    flat = x[first:last].reshape(last - first, -1)
    total = np.full((len(source), flat.shape[1]), 1 << (PILLOW_BITS - 1), np.int32)
    part = np.empty_like(total)
    for k in range(source.shape[1]):
        np.multiply(flat[source[:, k] - first], weight[:, k : k + 1], out=part)
        total += part
    whole = np.clip(total >> PILLOW_BITS, 0, 255).astype(np.uint8)
    return np.asarray(whole.reshape(len(source), *x.shape[1:]), np.uint8)

"""Cutting rotated squares out of a frame with OpenCV 4's arithmetic, whatever OpenCV is installed.

MediaPipe cuts its crops with `boxPoints`, `getPerspectiveTransform` and `warpPerspective(INTER_LINEAR)` of OpenCV 3 or 4,
which reads positions in steps of 1/32 pixel and weighs four pixels in integers. OpenCV 5 interpolates exactly, which
moves MediaPipe's landmarks by up to two pixels. So positions are computed here, in the sequence of operations of OpenCV 4's
imgwarp.cpp (double, blocks of 64 columns), and the weighing is done by `cv2.remap` on fixed-point maps where that gives
the same bytes, else by NumPy.

`warp_numpy` is the plain twin of `warp`; tests hold them equal, and equal to what OpenCV 4 gave.
"""

from __future__ import annotations

import math
import threading
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fexruntime.arrays import F32, U8, Indices

_STEPS = 32
"""Positions in a pixel that OpenCV tells apart (INTER_TAB_SIZE)."""
_BLOCK = 64
"""Columns of a block: the first column's position is computed anew in each."""
_NEAR = 2.0**19
"""Positions, in steps, that are well within what 16 bits can say of whole pixels."""
_LINE = 21
"""Pixels that lie in 64 bytes."""
_DENSE = 25
"""Pixels of a frame for one of the crop, up to which most lines are read."""
_UNIT = (np.arange(256, dtype=np.float32) / np.float32(255.0)).astype(np.float32)

Maps = tuple[NDArray[np.int16], NDArray[np.uint16]]
"""(whole pixel [S,S,2] x, y; the 32 x 32 position in it [S,S], y·32 + x)."""


def corners_of(centre_xy: F32, size_wh: F32, angle_rad: float) -> F32:
    """Corners [4,2] of a rotated rectangle: bottom left, top left, top right, bottom right before it is turned.

    `cv2.boxPoints`, in its float32; a positive angle turns clockwise in the picture.
    """
    degrees = np.float32(float(np.float32(angle_rad) * np.float32(180.0)) / math.pi)
    angle = float(degrees) * math.pi / 180.0
    half = np.float32(0.5)
    b, a = np.float32(math.cos(angle)) * half, np.float32(math.sin(angle)) * half
    (x, y), (width, height) = np.asarray(centre_xy, np.float32), np.asarray(size_wh, np.float32)
    first = x - a * height - b * width, y + b * height - a * width
    second = x + a * height - b * width, y - b * height - a * width
    two = np.float32(2)
    opposite = [(two * x - p, two * y - q) for p, q in (first, second)]
    return np.array([first, second, *opposite], np.float32)


def warp(frame_rgb_u8: U8, corners: F32, side: int, replicate: bool, out: F32, again: bool = False) -> F32:
    """Cut the square with these corners [4,2] into `out` [3,S,S] float32 in [0,1].

    Outside the frame lies its border (`replicate`) or black. `again`: the same square is read from frame after frame, so where its
    pixels lie is remembered.
    """
    if not opencv_answers_alike():
        return warp_numpy(frame_rgb_u8, corners, side, replicate, out)
    import cv2

    corners = np.asarray(corners, np.float32)
    whole, part = _remembered_maps(corners.tobytes(), side) if again else _quick_maps(corners, side)
    _fetch(frame_rgb_u8, corners, side)
    border = cv2.BORDER_REPLICATE if replicate else cv2.BORDER_CONSTANT
    chip = _scratch_of(side).chip
    cv2.remap(frame_rgb_u8, whole, part, cv2.INTER_LINEAR, chip, border, (0.0, 0.0, 0.0, 0.0))
    for channel, plane in zip(cv2.split(chip), out, strict=True):
        cv2.LUT(channel, _UNIT, plane)
    return out


class _Scratch:
    """Arrays of this thread for crops of one side: new ones of a megabyte a frame would be paged in anew, at thrice the time."""

    def __init__(self, side: int) -> None:
        self.steps, self.rest = np.empty((2, 2, side, side), np.int32)
        self.unsure = np.empty((2, side, side), np.bool_)
        self.pixels = np.empty((2, side, side), np.int16)
        self.whole = np.empty((side, side, 2), np.int16)
        self.part = np.empty((side, side), np.uint16)
        self.chip = np.empty((side, side, 3), np.uint8)


class _Scratches(threading.local):
    def __init__(self) -> None:
        self.of: dict[int, _Scratch] = {}


_scratches = _Scratches()


def _scratch_of(side: int) -> _Scratch:
    if side not in _scratches.of:
        _scratches.of[side] = _Scratch(side)
    return _scratches.of[side]


def _fetch(frame_rgb_u8: U8, corners: F32, side: int) -> None:
    """Bring what a square covers into the processor's cache, line by line in order, where most of it will be read.

    A new frame lies in memory alone, and `remap`, which walks aslant through it, would wait for one line after another.
    """
    height, width = frame_rgb_u8.shape[:2]
    (x1, y1), (x2, y2) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    if not (x2 - x1) * (y2 - y1) <= _DENSE * side * side:
        return
    covered = frame_rgb_u8[
        max(int(y1), 0) : min(int(y2) + 2, height), max(int(x1), 0) : min(int(x2) + 2, width) : _LINE, 0
    ]
    np.bitwise_or.reduce(covered, axis=None)


def warp_numpy(frame_rgb_u8: U8, corners: F32, side: int, replicate: bool, out: F32, again: bool = False) -> F32:
    """Plain twin of `warp`: (Σ weights·pixels + 2^9) >> 10, weights of 32 x 32."""
    out[:] = _UNIT[_gathered(frame_rgb_u8, _maps(corners, side), replicate).transpose(2, 0, 1)]
    return out


def _gathered(frame_rgb_u8: U8, maps: Maps, replicate: bool) -> U8:
    height, width = frame_rgb_u8.shape[:2]
    whole, part = maps
    across, down = (part & (_STEPS - 1)).astype(np.int32), (part >> 5).astype(np.int32)
    x, y = whole[..., 0].astype(np.int32), whole[..., 1].astype(np.int32)
    total = np.full((*part.shape, 3), 1 << 9, np.int32)
    for dy, weight_y in ((0, _STEPS - down), (1, down)):
        for dx, weight_x in ((0, _STEPS - across), (1, across)):
            weight = weight_y * weight_x
            if not replicate:
                weight = weight * ((x + dx >= 0) & (x + dx < width) & (y + dy >= 0) & (y + dy < height))
            pixels = frame_rgb_u8[np.clip(y + dy, 0, height - 1), np.clip(x + dx, 0, width - 1)]
            total += pixels * weight[..., None]
    return (total >> 10).astype(np.uint8)


@lru_cache(maxsize=4)
def _remembered_maps(corners: bytes, side: int) -> Maps:
    whole, part = _quick_maps(np.frombuffer(corners, np.float32).reshape(4, 2), side)
    return whole.copy(), part.copy()


def _quick_maps(corners: F32, side: int) -> Maps:
    """`_maps`, to the last bit, in a quarter of the time where the square is seen straight on; good until the next call in this thread.

    A face's square is one but for the rounding of its corners. Positions are sums of a column's part and a row's, in integers with
    as many bits behind the step as there is room for; the few that come out so near to half a step that the rest could turn
    them (the corners' perspective, the rounding of the two parts) are computed as `_maps` does.
    """
    import cv2

    m = cv2.invert(cv2.getPerspectiveTransform(corners, _targets(side)))[1]
    (a, b, c), (d, e, f), (g, h, i) = m.tolist()
    scale = _STEPS / i
    reach = max((abs(a) + abs(b)) * side + abs(c), (abs(d) + abs(e)) * side + abs(f)) * abs(scale)
    tilt = (abs(g) + abs(h)) * side / abs(i)
    if not (1.0 <= reach < _NEAR and tilt < 2.0**-8):
        return _maps(corners, side)
    bits = 29 - math.ceil(math.log2(reach))
    one = 1 << bits
    unsure = math.ceil(1.01 * reach * tilt * one) + 3
    if unsure * 16 > one:
        return _maps(corners, side)
    along = np.arange(side, dtype=np.float64)
    unit = scale * one
    parts = np.outer([a * unit, d * unit, b * unit, e * unit], along)
    half = one // 2 + unsure
    parts[2] += c * unit + half
    parts[3] += f * unit + half
    columns, rows = np.rint(parts, out=parts).astype(np.int32).reshape(2, 2, side)
    scratch = _scratch_of(side)
    steps = np.add(rows[:, :, None], columns[:, None, :], out=scratch.steps)  # x, y
    rest = np.bitwise_and(steps, one - 1, out=scratch.rest)
    at = _where(np.less_equal(rest, 2 * unsure, out=scratch.unsure))
    np.right_shift(steps, bits, out=steps)
    if len(at):
        axis, row, column = np.unravel_index(at, steps.shape)
        within = (column % _BLOCK).astype(np.float64)
        first, down = column - within, row.astype(np.float64)
        by, lead = m[axis], m[2]
        exact = ((by[:, 0] * first + by[:, 1] * down) + by[:, 2]) + by[:, 0] * within
        exact *= _STEPS / (((lead[0] * first + lead[1] * down) + lead[2]) + lead[0] * within)
        steps.reshape(-1)[at] = np.rint(exact)
    fine = np.bitwise_and(steps, _STEPS - 1, out=rest)
    np.copyto(scratch.pixels, np.right_shift(steps, 5, out=steps), casting="unsafe")
    cv2.merge((scratch.pixels[0], scratch.pixels[1]), scratch.whole)
    part = np.left_shift(fine[1], 5, out=fine[1])
    np.copyto(scratch.part, np.bitwise_or(part, fine[0], out=part), casting="unsafe")
    return scratch.whole, scratch.part


def _where(chosen: NDArray[np.bool_]) -> Indices:
    """`np.flatnonzero` where little is chosen: eight at a time first."""
    flat = chosen.reshape(-1)
    if len(flat) % 8:
        return np.flatnonzero(flat)
    near = np.flatnonzero(flat.view(np.uint64))[:, None] * 8 + np.arange(8)
    found: Indices = near[flat[near]]
    return found


@lru_cache(maxsize=8)
def _targets(side: int) -> F32:
    """Where `_perspective` puts the corners."""
    return np.array([[0, side], [0, 0], [side, 0], [side, side]], np.float32)


def _maps(corners: F32, side: int) -> Maps:
    """Where each pixel of the crop is read, as `warpPerspective` computes it."""
    m = _inverted(_perspective(np.asarray(corners, np.float32), side))
    row = np.arange(side, dtype=np.float64)[:, None, None]
    first = np.arange(0, side, _BLOCK, dtype=np.float64)[:, None]
    within = np.arange(_BLOCK, dtype=np.float64)
    extent = side + _BLOCK  # of columns, those of the last block beyond the crop among them
    tilt = (abs(m[6]) + abs(m[7])) * extent
    scale: Any
    if (abs(m[6]) + abs(m[7])) * side < abs(m[8]) * 2.0**-55:  # no perspective that a double could tell
        scale, largest = _STEPS / m[8], abs(_STEPS / m[8])
    else:
        w = _summed(m[6] * first + m[7] * row + m[8], m[6] * within)
        if tilt < abs(m[8]) / 2:  # nowhere near 0
            scale, largest = np.divide(_STEPS, w, out=w), 2 * abs(_STEPS / m[8])
        else:
            with np.errstate(divide="ignore"):
                scale, largest = np.where(w != 0, _STEPS / w, 0.0), math.inf
    steps = np.empty((2, side, len(first), _BLOCK), np.int32)
    pixels = np.empty_like(steps)
    for fine, pixel, axis in zip(steps, pixels, (0, 3), strict=True):  # x, y
        at = _summed(m[axis] * first + m[axis + 1] * row + m[axis + 2], m[axis] * within)
        np.multiply(at, scale, out=at)
        reach = (extent * (abs(m[axis]) + abs(m[axis + 1])) + abs(m[axis + 2])) * largest
        near = reach < _NEAR  # so nothing has to be clipped
        if not near:
            np.clip(at, -(2.0**31), 2.0**31 - 1, out=at)
        np.copyto(fine, np.rint(at, out=at), casting="unsafe")
        np.right_shift(fine, 5, out=pixel)
        if not near:
            np.clip(pixel, -32768, 32767, out=pixel)
        np.bitwise_and(fine, _STEPS - 1, out=fine)
    whole = np.empty((side, side, 2), np.int16)
    for k, pixel in enumerate(pixels):
        whole[..., k] = pixel.reshape(side, -1)[:, :side]
    part = np.left_shift(steps[1], 5, out=steps[1])
    np.bitwise_or(part, steps[0], out=part)
    return whole, part.reshape(side, -1)[:, :side].astype(np.uint16)


def _summed(lead: NDArray[np.float64], within: NDArray[np.float64]) -> NDArray[np.float64]:
    """lead [rows,blocks,1] + within [columns], as a matrix product, whose sums are these: NumPy's own go by rows of 64, at four
    times the cost."""
    left = np.ones((lead.size, 2))
    left[:, 0] = lead.ravel()
    return (left @ np.stack([np.ones_like(within), within])).reshape(*lead.shape[:2], -1)


def _perspective(corners: F32, side: int) -> list[float]:
    """`cv2.getPerspectiveTransform` from the corners to (0,S), (0,0), (S,0), (S,S): nine numbers, by rows."""
    targets = _targets(side)
    a: list[list[float]] = []
    for axis in (0, 1):
        for (x, y), target in zip(corners, targets, strict=True):
            to = target[axis]
            lead = [float(x), float(y), 1.0]
            row = [*lead, 0.0, 0.0, 0.0] if axis == 0 else [0.0, 0.0, 0.0, *lead]
            a.append([*row, float(-x * to), float(-y * to), float(to)])  # the products are float32's
    return [*_solved(a), 1.0]


def _solved(a: list[list[float]]) -> list[float]:
    """Gaussian elimination with the order of operations of OpenCV's LU, on rows [8 coefficients, right-hand side]."""
    n = len(a)
    for i in range(n):
        pivot = max(range(i, n), key=lambda j: (abs(a[j][i]), -j))
        a[i], a[pivot] = a[pivot], a[i]
        d = -1.0 / a[i][i]
        for j in range(i + 1, n):
            alpha = a[j][i] * d
            if alpha:
                a[j] = [v + alpha * w if k > i else v for k, (v, w) in enumerate(zip(a[j], a[i], strict=True))]
    found = [0.0] * n
    for i in reversed(range(n)):
        rest = a[i][n]
        for k in range(i + 1, n):
            rest -= a[i][k] * found[k]
        found[i] = rest / a[i][i]
    return found


def _inverted(m: list[float]) -> list[float]:
    """`cv2.invert` of a 3 x 3 matrix: adjugate over determinant."""
    a, b, c, d, e, f, g, h, i = m
    scale = 1.0 / (a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g))
    adjugate = (
        e * i - f * h, c * h - b * i, b * f - c * e,
        f * g - d * i, a * i - c * g, c * d - a * f,
        d * h - e * g, b * g - a * h, a * e - b * d,
    )  # fmt: skip
    return [v * scale for v in adjugate]


@lru_cache(maxsize=1)
def opencv_answers_alike() -> bool:
    """Whether this OpenCV's remap, given fixed-point maps, answers OpenCV 4's integers byte for byte, and its perspectives of squares
    OpenCV 4's doubles bit for bit."""
    try:
        import cv2
    except ImportError:
        return False
    rng = np.random.RandomState(3)
    image: Any = rng.randint(0, 256, (40, 50, 3)).astype(np.uint8)
    whole = np.stack([rng.randint(-4, 54, (64, 64)), rng.randint(-4, 44, (64, 64))], 2).astype(np.int16)
    part = rng.randint(0, _STEPS * _STEPS, (64, 64)).astype(np.uint16)
    for replicate, border in ((True, cv2.BORDER_REPLICATE), (False, cv2.BORDER_CONSTANT)):
        read = cv2.remap(image, whole, part, cv2.INTER_LINEAR, borderMode=border, borderValue=(0.0, 0.0, 0.0, 0.0))
        if not np.array_equal(read, _gathered(image, (whole, part), replicate)):
            return False
    for size in rng.uniform(5, 500, 20):
        square = corners_of(rng.uniform(-50, 900, 2).astype(np.float32), np.repeat(np.float32(size), 2), size)
        forth = _perspective(square, 192)
        if cv2.getPerspectiveTransform(square, _targets(192)).ravel().tolist() != forth:
            return False
        if cv2.invert(np.array(forth).reshape(3, 3))[1].ravel().tolist() != _inverted(forth):
            return False
    return True

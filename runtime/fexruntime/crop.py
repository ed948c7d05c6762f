"""Cutting faces out of a frame, and the way back from crop coordinates to the frame's.

Mirrors `feat/utils/image_operations.py`: `extract_face_square_pad_torch` (Detectorv2) and
`extract_face_from_bbox_torch` (Detectorv1). Both sample bilinearly on a grid that is separable: the column a pixel
reads depends on x alone, its row on y alone. So a crop is two vectors of positions, computed here in float32 with
torch's own sequence of operations, and one interpolation, done by OpenCV where it is exact and by NumPy elsewhere.

`cut_numpy` is the plain twin of `cut`; tests hold them equal. A kind of crop is an entry in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Protocol

import numpy as np

from fexruntime.arrays import F32, U8, Values
from fexruntime.contracts import Crop
from fexruntime.contracts.detectorv1_networks import IMAGENET
from fexruntime.errors import InputError
from fexruntime.resample import resize_pillow
from fexruntime.warp import corners_of, warp, warp_numpy

_UNIT = (np.arange(256, dtype=np.float32) / np.float32(255.0)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Region:
    """Where crops lie: `decode_xyxy_px` [N,4] maps crop fractions back, `sample_xyxy_px` [N,4] is where pixels are read.

    The two differ for Detectorv1, which samples from the box as it is and decodes with its corners rounded to
    even. A fraction (u, v) of a crop is the point (x1 + u·(x2-x1), y1 + v·(y2-y1)).
    """

    sample_xyxy_px: F32
    decode_xyxy_px: F32


class Cut(Protocol):
    """Cuts N crops of one frame [H,W,3] uint8 RGB into `out` [N,3,S,S] float32 in [0,1]."""

    def __call__(self, frame_rgb_u8: U8, sample: F32, crop: Crop, out: F32) -> F32:
        """`sample` [N,K] is `Region.sample_xyxy_px`, K numbers that say where one crop's pixels are read."""
        ...


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to cut faces out: where crops lie, and how they are read, by a fast path and by its plain twin.

    `locate` is given boxes [N,4], the crop, and what the finder says of each face beside its box (a rotation, say).
    """

    locate: Callable[[F32, Crop, Values], Region]
    cut: Cut
    cut_numpy: Cut


def locate(boxes_xyxy_px: F32, crop: Crop, found: Values | None = None) -> Region:
    """Regions of the crops of face boxes [N,4] (float32, pixels of the frame the detector saw; not clamped to it)."""
    return _kind(crop).locate(np.asarray(boxes_xyxy_px, np.float32).reshape(-1, 4), crop, found or {})


def cut(frame_rgb_u8: U8, sample: F32, crop: Crop, out: F32) -> F32:
    """Cut N crops of one frame into `out` [N,3,S,S] float32 RGB in [0,1]; see `Cut`.

    Uses OpenCV's remap if its weights are exact (OpenCV 5), else `cut_numpy`. Within 1e-6 of it.
    """
    return _kind(crop).cut(frame_rgb_u8, sample, crop, out)


def cut_numpy(frame_rgb_u8: U8, sample: F32, crop: Crop, out: F32) -> F32:
    """Plain twin of `cut`: torch's bilinear grid_sample written as four gathers."""
    return _kind(crop).cut_numpy(frame_rgb_u8, sample, crop, out)


def _kind(crop: Crop) -> Kind:
    try:
        return KINDS[crop.kind]
    except KeyError:
        raise InputError(f"no crop kind {crop.kind!r}: there are {', '.join(KINDS)}") from None


def to_frame(fractions_xy: F32, region_xyxy_px: F32) -> F32:
    """Points [N,K,2] as fractions of their crops -> [N,K,2] in pixels of the frame."""
    origin = region_xyxy_px[:, None, :2]
    extent = region_xyxy_px[:, None, 2:] - origin
    moved: F32 = fractions_xy * extent + origin
    return moved


def _square(boxes: F32, crop: Crop, found: Values) -> Region:
    """Detectorv2: a square of the longer side, sampled and decoded alike."""
    (x1, y1, x2, y2), (centre_x, centre_y) = boxes.T, _centres(boxes)
    side = np.maximum(np.maximum(x2 - x1, y2 - y1) * np.float32(crop.expand), np.float32(1.0))
    left, top = centre_x - side / np.float32(2), centre_y - side / np.float32(2)
    region = np.stack([left, top, left + side, top + side], 1)
    return Region(np.stack([left, top, side, side], 1), region)


def _rectangle(boxes: F32, crop: Crop, found: Values) -> Region:
    """Detectorv1: the box's own shape; sampled as it is, decoded with its corners rounded to even."""
    (x1, y1, x2, y2), (centre_x, centre_y) = boxes.T, _centres(boxes)
    expand = np.float32(crop.expand)
    half_w, half_h = (x2 - x1) * expand / np.float32(2), (y2 - y1) * expand / np.float32(2)
    corners = np.stack([centre_x - half_w, centre_y - half_h, centre_x + half_w, centre_y + half_h], 1)
    extent = np.stack([corners[:, 0], corners[:, 1], corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1]], 1)
    return Region(extent, np.rint(corners).astype(np.float32))


def _with_margin(boxes: F32, crop: Crop, found: Values) -> Region:
    """TokenHPE's demonstration: whole pixels, and on each side a margin of a share of the box, its fraction cut off."""
    corners = np.rint(boxes).astype(np.float64)
    margin = np.trunc((corners[:, 2:] - corners[:, :2]) * ((crop.expand - 1) / 2))
    region = np.concatenate([corners[:, :2] - margin, corners[:, 2:] + margin], axis=1).astype(np.float32)
    return Region(region, region)


def _centre(frame_rgb_u8: U8, sample: F32, crop: Crop, out: F32) -> F32:
    """What lies in the frame of each region, its shorter side resized to `crop.resize` and the centre cut out of that.

    torchvision's Resize and CenterCrop of a Pillow image, bit for bit. Black where nothing of the region is in the frame.
    """
    height, width = frame_rgb_u8.shape[:2]
    for n, (left, top, right, bottom) in enumerate(sample):
        x1, y1 = max(int(left), 0), max(int(top), 0)
        part = frame_rgb_u8[y1 : max(min(int(bottom), height), y1), x1 : max(min(int(right), width), x1)]
        out[n] = _UNIT[_centre_u8(part, crop)].transpose(2, 0, 1) if part.size else 0.0
    return out


def _centre_u8(image: U8, crop: Crop) -> U8:
    height, width = image.shape[:2]
    shorter, side = crop.resize or min(height, width), crop.size
    long = int(shorter * max(height, width) / min(height, width))
    new_h, new_w = (shorter, long) if height <= width else (long, shorter)
    top, left = (round((size - side) / 2.0) for size in (new_h, new_w))
    return resize_pillow(image, new_h, new_w, (top, top + side), (left, left + side))


def _letterbox(boxes: F32, crop: Crop, found: Values) -> Region:
    """MediaPipe's detector: an upright square of the longer side."""
    size = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0.0) * np.float32(crop.expand)
    return _of_corners(
        [corners_of(c, np.repeat(s, 2), 0.0) for c, s in zip(np.stack(_centres(boxes), 1), size, strict=True)]
    )


def _rotated(boxes: F32, crop: Crop, found: Values) -> Region:
    """MediaPipe's mesh: the square that the finder turned with the face; an upright one where it said nothing."""
    if "region_xy_px" not in found:
        return _letterbox(boxes, crop, found)
    said = found["region_xy_px"].reshape(-1, 8)
    known = (np.ptp(said.reshape(-1, 4, 2), axis=1) > 0).any(axis=1)  # neither NaN nor a point
    if known.all():
        return _of_corners(said)
    return _of_corners(np.where(known[:, None], said, _letterbox(boxes, crop, found).sample_xyxy_px))


def _of_corners(corners: Any) -> Region:
    """Sampled by its four corners; what decodes it has to take these too, and not the upright box round them."""
    points = np.asarray(corners, np.float32).reshape(-1, 4, 2)
    return Region(points.reshape(-1, 8), np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1))


def _warped(
    frame_rgb_u8: U8, sample: F32, crop: Crop, out: F32, replicate: bool, again: bool, read: Callable[..., F32] = warp
) -> F32:
    for n, corners in enumerate(sample.reshape(-1, 4, 2)):
        read(frame_rgb_u8, corners, crop.size, replicate, out[n], again)
    return out


def _centres(boxes: F32) -> tuple[F32, F32]:
    x1, y1, x2, y2 = boxes.T
    return (x1 + x2) / np.float32(2), (y1 + y2) / np.float32(2)


_Place = Callable[[F32, int], F32]
"""Positions along one axis of a frame of that size -> the pixel positions that are read there."""


def _remap(frame_rgb_u8: U8, sample: F32, crop: Crop, out: F32, place: _Place, mirrored: bool) -> F32:
    if not remap_is_exact():
        return _gather(frame_rgb_u8, sample, crop, out, place)
    import cv2

    height, width = frame_rgb_u8.shape[:2]
    border = cv2.BORDER_REPLICATE if mirrored else cv2.BORDER_CONSTANT
    for n in range(len(sample)):
        xs, ys = _positions(sample[n], crop, place, height, width)
        (x_first, x_last), (y_first, y_last) = _span(xs, width), _span(ys, height)
        if x_first >= x_last or y_first >= y_last:  # nothing of the crop lies in the frame
            out[n] = 0.0
            continue
        patch = cv2.LUT(np.ascontiguousarray(frame_rgb_u8[y_first:y_last, x_first:x_last]), _UNIT)
        map_x, map_y = np.meshgrid(xs - np.float32(x_first), ys - np.float32(y_first))
        chip = cv2.remap(patch, map_x, map_y, cv2.INTER_LINEAR, borderMode=border, borderValue=(0.0, 0.0, 0.0, 0.0))
        for c, plane in enumerate(out[n]):
            cv2.extractChannel(chip, c, plane)
    return out


def _gather(frame_rgb_u8: U8, sample: F32, crop: Crop, out: F32, place: _Place) -> F32:
    height, width = frame_rgb_u8.shape[:2]
    for n in range(len(sample)):
        xs, ys = _positions(sample[n], crop, place, height, width)
        x0, y0 = np.floor(xs), np.floor(ys)
        wx, wy = (xs - x0)[None, :], (ys - y0)[:, None]
        total = np.zeros((len(ys), len(xs), 3), np.float32)
        for dy, weight_y in ((0, 1 - wy), (1, wy)):
            rows = y0.astype(np.int64) + dy
            for dx, weight_x in ((0, 1 - wx), (1, wx)):
                columns = x0.astype(np.int64) + dx
                inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None, :]
                pixels = _UNIT[frame_rgb_u8[np.clip(rows, 0, height - 1)][:, np.clip(columns, 0, width - 1)]]
                total += pixels * (weight_y * weight_x * inside)[..., None]
        out[n] = total.transpose(2, 0, 1)
    return out


def _positions(sample: F32, crop: Crop, place: _Place, height: int, width: int) -> tuple[F32, F32]:
    """Pixel positions (xs [S], ys [S]) that a crop reads, in torch's float32 arithmetic."""
    left, top, across, down = sample
    steps = (np.arange(crop.size, dtype=np.float32) + np.float32(0.5)) / np.float32(crop.size)
    return place(left + steps * across, width), place(top + steps * down, height)


def _reflected(at: F32, size: int) -> F32:
    """grid_sample's padding_mode="reflection", align_corners=False: mirrored about -0.5 and size-0.5, then clipped."""
    grid = np.float32(2.0) * (at + np.float32(0.5)) / np.float32(size) - np.float32(1.0)
    pixel = (grid + np.float32(1.0)) * np.float32(size / 2) - np.float32(0.5)
    period = np.float32(2 * size)
    phase = np.abs(pixel + np.float32(0.5))
    phase = phase - np.trunc(phase / period) * period
    mirrored = np.minimum(phase, period - phase) - np.float32(0.5)
    inside: F32 = np.clip(mirrored, np.float32(0.0), np.float32(size - 1))
    return inside


def _stretched(at: F32, size: int) -> F32:
    """Detectorv1's grid: made for corners at the outermost pixel centres, read as if they were the pixels' edges.

    That moves a sample by up to half a pixel, depending on its place in the frame. It is what the weights are used
    with. Far outside the frame the position is clipped, where the zero padding makes it irrelevant.
    """
    grid = np.float32(2.0) * at / np.float32(size - 1) - np.float32(1.0)
    pixel = (grid + np.float32(1.0)) * np.float32(size / 2) - np.float32(0.5)
    near: F32 = np.clip(pixel, np.float32(-2.0), np.float32(size + 1))
    return near


def _span(positions: F32, size: int) -> tuple[int, int]:
    """First and one past the last pixel that bilinear interpolation at `positions` reads, inside the frame."""
    first = int(np.floor(positions.min()))
    last = int(np.floor(positions.max())) + 2
    return max(first, 0), min(last, size)


@lru_cache(maxsize=1)
def remap_is_exact() -> bool:
    """Whether this OpenCV interpolates float images with float weights (5.x), not in steps of 1/32 pixel (4.x)."""
    try:
        import cv2
    except ImportError:
        return False
    ramp = np.tile(np.arange(8, dtype=np.float32), (8, 1))
    at = np.full((1, 1), 3.0 + 1 / 96, np.float32)
    read = cv2.remap(ramp, at, np.full((1, 1), 2.0, np.float32), cv2.INTER_LINEAR)
    return bool(abs(float(read[0, 0]) - float(at[0, 0])) < 1e-6)


def _separable(where: Callable[[F32, Crop, Values], Region], place: _Place, mirrored: bool) -> Kind:
    return Kind(where, partial(_remap, place=place, mirrored=mirrored), partial(_gather, place=place))


def _normalised(kind: Kind) -> Kind:
    """The same crops less ImageNet's mean, over its deviation."""
    mean, std = (np.array(v, np.float32).reshape(3, 1, 1) for v in (IMAGENET.mean, IMAGENET.std))

    def normalised(cut: Cut) -> Cut:
        def run(frame_rgb_u8: U8, sample: F32, crop: Crop, out: F32) -> F32:
            cut(frame_rgb_u8, sample, crop, out)
            out -= mean
            out /= std
            return out

        return run

    return Kind(kind.locate, normalised(kind.cut), normalised(kind.cut_numpy))


def _of_warp(where: Callable[[F32, Crop, Values], Region], replicate: bool, again: bool) -> Kind:
    fast, plain = (partial(_warped, replicate=replicate, again=again, read=r) for r in (warp, warp_numpy))
    return Kind(where, fast, plain)


_ANISOTROPIC = _separable(_rectangle, _stretched, mirrored=False)
KINDS: dict[str, Kind] = {
    "square-pad": _separable(_square, _reflected, mirrored=True),
    "anisotropic": _ANISOTROPIC,
    "anisotropic-imagenet": _normalised(_ANISOTROPIC),
    "centre": Kind(_with_margin, _centre, _centre),
    "letterbox": _of_warp(_letterbox, replicate=False, again=True),
    "rotated": _of_warp(_rotated, replicate=True, again=False),
}
"""Isotropic and mirrored outside the frame (Detectorv2); of the box's own shape and black outside (Detectorv1), and that
normalised (what MobileNet's chips do to others in Detectorv1); the centre of what the frame has of the box with a margin
(TokenHPE); in OpenCV 4's arithmetic, upright and black outside, or turned and continued outside (MediaPipe)."""

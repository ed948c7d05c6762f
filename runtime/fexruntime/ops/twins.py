"""The kernels of `kernels.cu` in plain NumPy: what they are held to, bit for bit.

Each mirrors what the CPU's path does (`detect`, `crop`, `resample`, `heads`), in its order of float32 operations. One
differs by intent: exp is computed in float64 and rounded, since every library has an exp of its own in float32.
"""

from __future__ import annotations

import numpy as np

from fexruntime import crop as cropping
from fexruntime import detect
from fexruntime.arrays import F32, U8
from fexruntime.contracts import Crop, Preprocessing
from fexruntime.contracts import detection as C
from fexruntime.detect import Detections
from fexruntime.resample import antialias_taps, resize_u8


def fill(frame_rgb_u8: U8, preprocessing: Preprocessing, out: F32) -> F32:
    """Frame [H,W,3] -> `out` [3,H,W]; see `detect.fill_input`."""
    detect.fill_input_numpy(frame_rgb_u8, preprocessing, out)
    return out


def rescale(frame_rgb_u8: U8, new_hw: tuple[int, int], canvas_hw: tuple[int, int], corner: tuple[int, int]) -> U8:
    """A frame resized, at a corner of a black canvas; see `frame.frame_of`."""
    canvas = np.zeros((*canvas_hw, 3), np.uint8)
    top, left = corner
    canvas[top : top + new_hw[0], left : left + new_hw[1]] = resize_u8(frame_rgb_u8, *new_hw)
    return canvas


def cut(frame_rgb_u8: U8, sample: F32, crop: Crop, out: F32) -> F32:
    """Square-pad and anisotropic crops [N,3,S,S]; see `crop.cut`."""
    return cropping.cut_numpy(frame_rgb_u8, sample, crop, out)


def resize_normalise(chips: F32, side: int, preprocessing: Preprocessing) -> F32:
    """Chips [N,3,S,S] -> [N,3,T,T]: torchvision's antialiased resize, columns first, then (value - mean) / std."""
    taps = antialias_taps(chips.shape[-1], side)
    x = chips
    for axis in (3, 2):
        by = (-1,) if axis == 3 else (-1, 1)
        parts = [np.take(x, s, axis=axis) * w.reshape(by) for s, w in zip(taps.source.T, taps.weight.T, strict=True)]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        x = total
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (preprocessing.mean, preprocessing.std))
    normalised: F32 = (x - mean) / std
    return normalised


def find(loc: F32, conf: F32, landmarks: F32, size_hw: tuple[int, int], threshold: float) -> list[Detections]:
    """Detections of each frame of a batch; see `detect.find`, from which boxes differ by exp's last bits."""
    least = max(np.float32(threshold), np.float32(C.FINAL_SCORE))
    batch, anchor = np.nonzero(conf[..., 1] >= least)
    order = np.argsort(-conf[batch, anchor, 1], kind="stable")[: C.TOP_K * len(conf)]
    batch, anchor = batch[order], anchor[order]
    faces = decode(loc[batch, anchor], landmarks[batch, anchor], detect.anchors(*size_hw)[anchor], size_hw)
    scores = conf[batch, anchor, 1]
    found = []
    for b in range(len(conf)):
        mine = np.flatnonzero(batch == b)
        mine = mine[detect.suppress(faces[mine, :4], C.NMS_IOU)[: C.KEEP_TOP_K]]
        found.append(Detections(faces[mine, :4], scores[mine], faces[mine, 4:].reshape(-1, 5, 2)))
    return found


def decode(loc: F32, landmarks: F32, priors: F32, size_hw: tuple[int, int]) -> F32:
    """Deltas [N,4] and [N,10] of anchors [N,4] -> [N,14]: corners and five points in pixels."""
    first, second = (np.float32(v) for v in C.VARIANCES)
    size = np.array(size_hw[::-1], np.float32)
    centre = priors[:, :2] + loc[:, :2] * first * priors[:, 2:]
    extent = priors[:, 2:] * np.exp((loc[:, 2:] * second).astype(np.float64)).astype(np.float32)
    low = centre - extent / np.float32(2)
    points = priors[:, None, :2] + landmarks.reshape(-1, 5, 2) * first * priors[:, None, 2:]
    parts = [low * size, (extent + low) * size, (points * size).reshape(-1, 10)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def points_to_frame(points: F32, regions_xyxy_px: F32) -> F32:
    """Points [N,K,2 or 3] whose x and y are fractions of their crops -> pixels of the frame; a depth stays as it is."""
    xy = cropping.to_frame(points[:, :, :2], regions_xyxy_px)
    return np.concatenate([xy, points[:, :, 2:]], axis=2)


def points_to_original(points_xy: F32, pad_xy: tuple[int, int], scale: float) -> F32:
    """Pixels [..., 2] of the frame that was seen -> pixels of the original; see `heads.to_original`."""
    original: F32 = (points_xy - np.array(pad_xy, np.float32)) / np.float32(scale)
    return original

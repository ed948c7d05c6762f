"""The kernels, called: buffers of a device in, buffers of it out, nothing waited for. The plain twins are in `twins`."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np

from fexruntime import detect
from fexruntime.arrays import U8, Indices
from fexruntime.contracts import Crop, Preprocessing
from fexruntime.contracts import detection as C
from fexruntime.errors import InputError
from fexruntime.ops.device import Device
from fexruntime.resample import antialias_taps

MIRRORED = {"square-pad": True, "anisotropic": False}
"""The kinds of crop that there is a kernel for, and whether they are mirrored outside the frame (or black)."""
FACE = 15
"""Numbers of a face that was found: corners, score, five points."""
MOST_TABLES = 64
"""Constants that are kept on a device: anchors are of a frame's size, of which a folder of photographs may have any number."""
_I, _L, _F = np.int32, np.int64, np.float32


@dataclass(frozen=True, slots=True)
class Finding:
    """Buffers of one finding in B frames: `found` int64 [B·A], `count` int32 [1], `order` int64 [most], `faces` [most,15]; and what
    comes of it, `rows` [B,KEEP_TOP_K,15] and `counts` int32 [B]."""

    found: Any
    count: Any
    order: Any
    faces: Any
    rows: Any
    counts: Any


@dataclass(frozen=True, slots=True)
class Faces:
    """Buffers of S faces: `boxes` [S,4] in pixels of their frames, `frame_of` int32 [S] (-1: no face)."""

    boxes: Any
    frame_of: Any
    slots: int


def view_of(frame_rgb_u8: U8) -> Indices:
    """A row of `views` of a frame [H,W,3] of any strides: address, height, width, bytes a row, a column and a channel."""
    return np.array([frame_rgb_u8.ctypes.data, *frame_rgb_u8.shape[:2], *frame_rgb_u8.strides], np.int64)


class Kernels:
    """Pre- and post-processing on one device, each call put into its order."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._tables: OrderedDict[Any, Any] = OrderedDict()

    def fill(self, views: Any, frames: int, size_hw: tuple[int, int], preprocessing: Preprocessing, out: Any) -> None:
        """Frames of one size -> `out` [B,3,H,W] float32: (value - mean) / std."""
        height, width = size_hw
        mean, std = self._constants(preprocessing)
        self.device.launch("frame_to_tensor", frames * 3 * height * width, views, out, mean, std, _I(frames))

    def rescale(
        self,
        view: Any,
        size_hw: tuple[int, int],
        new_hw: tuple[int, int],
        canvas_hw: tuple[int, int],
        corner: tuple[int, int],
        out: Any,
    ) -> None:
        """A frame of `size_hw` -> `out` [*canvas_hw,3] uint8: resized to `new_hw` at the `corner` (top, left), black about it."""
        across, down = antialias_taps(size_hw[1], new_hw[1]), antialias_taps(size_hw[0], new_hw[0])
        tables = [
            self._table((size_hw[k], new_hw[k], name), getattr(taps, name))
            for k, taps in ((1, across), (0, down))
            for name in ("source", "weight")
        ]
        numbers = (across.source.shape[1], down.source.shape[1], *new_hw, *corner, *canvas_hw)
        self.device.launch("rescale", 3 * canvas_hw[0] * canvas_hw[1], view, *tables, out, *map(_I, numbers))

    def find(
        self,
        outputs: tuple[Any, Any, Any],
        batch: int,
        size_hw: tuple[int, int],
        threshold: float,
        buffers: Finding,
    ) -> None:
        """Faces of each frame of a batch from the network's outputs (loc, conf, landmarks or a null pointer); see `detect.find`.

        `buffers.count` has to be 0 before.
        """
        (loc, conf, landmarks), (height, width), launch = outputs, size_hw, self.device.launch
        priors = detect.anchors(height, width)
        anchors, everything, most = _L(len(priors)), batch * len(priors), self.most(batch, size_hw)
        found, count, order, faces = buffers.found, buffers.count, buffers.order, buffers.faces
        least = max(_F(threshold), _F(C.FINAL_SCORE))
        launch("candidates", everything, conf, found, count, least, _L(everything))
        launch("ranked", everything, conf, found, count, order, _I(most))
        table = self._table((height, width, "anchors"), priors)
        scales = (*(_F(v) for v in C.VARIANCES), _I(height), _I(width))
        launch("decode", most, loc, conf, landmarks, table, order, count, faces, _I(most), anchors, *scales)
        limits = (_I(batch), _I(most), anchors, np.float64(C.NMS_IOU), _I(C.KEEP_TOP_K))
        launch("suppress", batch, faces, order, count, buffers.rows, buffers.counts, *limits)

    @staticmethod
    def most(batch: int, size_hw: tuple[int, int]) -> int:
        """Most candidates of a batch that are looked at."""
        return min(C.TOP_K * batch, batch * len(detect.anchors(*size_hw)))

    def slots(self, rows: Any, counts: Any, factors: Any, frames: int, each: int, out: Faces) -> None:
        """The best `each` faces of each frame, in `out` one after another, times the factors [B,2] to their frames."""
        numbers = map(_I, (frames, C.KEEP_TOP_K, each, out.slots))
        self.device.launch("slots", out.slots, rows, counts, factors, out.boxes, out.frame_of, *numbers)

    def locate(self, faces: Faces, crop: Crop, sample: Any, region: Any) -> None:
        """Where crops of faces are read, `sample` [S,4], and what decodes them, `region` [S,4]; see `crop.Region`."""
        numbers = (_I(faces.slots), _I(_mirrored(crop)), _F(crop.expand))
        self.device.launch("locate", faces.slots, faces.boxes, sample, region, *numbers)

    def cut(self, views: Any, faces: Faces, sample: Any, crop: Crop, out: Any) -> None:
        """Crops of faces into `out` [S,3,side,side] in [0,1]; black where there is no face.

        Raises InputError for a kind of crop without a kernel.
        """
        numbers = (_I(faces.slots), _I(crop.size), _I(_mirrored(crop)))
        self.device.launch("crop", faces.slots * crop.size**2, views, faces.frame_of, sample, out, *numbers)

    def resize_normalise(
        self, chips: Any, count: int, sides: tuple[int, int], preprocessing: Preprocessing, out: Any
    ) -> None:
        """Chips [N,3,S,S] -> `out` [N,3,T,T] for `sides` (S, T): antialiased resize, then (value - mean) / std."""
        side, target = sides
        mean, std = self._constants(preprocessing)
        taps = antialias_taps(side, target)
        source, weight = (self._table((side, target, name), getattr(taps, name)) for name in ("source", "weight"))
        numbers = (_I(count), _I(side), _I(target), _I(taps.source.shape[1]))
        self.device.launch("resize_normalise", count * 3 * target**2, chips, source, weight, mean, std, out, *numbers)

    def points_to_frame(self, points: Any, shape: tuple[int, int, int], regions: Any, out: Any) -> None:
        """Points [N,K,2 or 3] whose x and y are fractions of crops -> pixels of the frame; regions [N,4] are their corners."""
        count, each, depth = shape
        numbers = (_I(count), _I(each), _I(depth))
        self.device.launch("points_to_frame", count * each * depth, points, regions, out, *numbers)

    def points_to_original(self, points: Any, numbers: int, pad_xy: tuple[int, int], scale: float, out: Any) -> None:
        """Points, `numbers` floats x, y, x, …, in pixels of the frame that was seen -> pixels of the original."""
        pad_x, pad_y = (_F(v) for v in pad_xy)
        self.device.launch("points_to_original", numbers, points, out, _L(numbers), pad_x, pad_y, _F(scale))

    def _constants(self, preprocessing: Preprocessing) -> tuple[Any, Any]:
        pairs = (("mean", preprocessing.mean), ("std", preprocessing.std))
        mean, std = (self._table((name, value), np.array(value, _F)) for name, value in pairs)
        return mean, std

    def _table(self, name: Any, array: Any) -> Any:
        """A constant on the device, put there once; what was not asked for longest makes room."""
        if name in self._tables:
            self._tables.move_to_end(name)
        else:
            if len(self._tables) >= MOST_TABLES:
                self.device.drop(self._tables.popitem(last=False)[1])
            self._tables[name] = self.device.put(array)
        return self._tables[name]


def _mirrored(crop: Crop) -> bool:
    if crop.kind not in MIRRORED:
        raise InputError(f"there is no kernel for crops of kind {crop.kind!r}: there are {', '.join(MIRRORED)}")
    return MIRRORED[crop.kind]

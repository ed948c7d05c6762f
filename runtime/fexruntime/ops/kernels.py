"""The kernels, called: buffers of a device in, buffers of it out. The plain twins are in `twins`."""

from __future__ import annotations

from typing import Any

import numpy as np

from fexruntime import detect
from fexruntime.arrays import F32
from fexruntime.contracts import Crop, Preprocessing
from fexruntime.contracts import detection as C
from fexruntime.detect import Detections
from fexruntime.errors import InputError
from fexruntime.ops.device import Device
from fexruntime.resample import antialias_taps

MIRRORED = {"square-pad": True, "anisotropic": False}
"""The kinds of crop that there is a kernel for, and whether they are mirrored outside the frame (or black)."""
_I, _L, _F = np.int32, np.int64, np.float32


class Kernels:
    """Pre- and post-processing on one device. Buffers are the device's own; only detections come back to the host."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._tables: dict[Any, Any] = {}

    def fill(self, frame: Any, size_hw: tuple[int, int], preprocessing: Preprocessing, out: Any) -> Any:
        """Frame [H,W,3] uint8 -> `out` [3,H,W] float32: (value - mean) / std."""
        mean, std = self._constants(preprocessing)
        height, width = size_hw
        self.device.launch("frame_to_tensor", 3 * height * width, frame, out, mean, std, _I(height), _I(width))
        return out

    def cut(self, frame: Any, size_hw: tuple[int, int], sample: Any, count: int, crop: Crop, out: Any) -> Any:
        """N crops of one frame into `out` [N,3,S,S] in [0,1]. `sample` [N,4] is `Region.sample_xyxy_px`.

        Raises InputError for a kind of crop without a kernel.
        """
        if crop.kind not in MIRRORED:
            raise InputError(f"there is no kernel for crops of kind {crop.kind!r}: there are {', '.join(MIRRORED)}")
        height, width = size_hw
        numbers = (_I(count), _I(crop.size), _I(height), _I(width), _I(MIRRORED[crop.kind]))
        self.device.launch("crop", count * crop.size**2, frame, sample, out, *numbers)
        return out

    def resize_normalise(
        self, chips: Any, count: int, sides: tuple[int, int], preprocessing: Preprocessing, out: Any
    ) -> Any:
        """Chips [N,3,S,S] -> `out` [N,3,T,T] for `sides` (S, T): antialiased resize, then (value - mean) / std."""
        side, target = sides
        mean, std = self._constants(preprocessing)
        taps = antialias_taps(side, target)
        source, weight = self._table((side, target, "source"), taps.source), self._table((side, target), taps.weight)
        numbers = (_I(count), _I(side), _I(target), _I(taps.source.shape[1]))
        self.device.launch("resize_normalise", count * 3 * target**2, chips, source, weight, mean, std, out, *numbers)
        return out

    def find(
        self, loc: Any, conf: Any, landmarks: Any, batch: int, size_hw: tuple[int, int], threshold: float
    ) -> list[Detections]:
        """Detections of each frame of a batch from the network's outputs, which stay where they are; see `detect.find`.

        What comes back is a count, and of each face that is left a row of 15 numbers and its anchor.
        """
        device, (height, width) = self.device, size_hw
        priors = detect.anchors(height, width)
        anchors = _L(len(priors))
        least = _F(max(_F(threshold), _F(C.FINAL_SCORE)))
        found, counter = device.empty([batch * len(priors)], _L), device.put(np.zeros(1, _I))
        device.launch("candidates", batch * len(priors), conf, found, counter, least, _L(batch * len(priors)))
        above = int(device.get(counter)[0])
        count = min(above, C.TOP_K * batch)
        empty = Detections(np.empty((0, 4), _F), np.empty(0, _F), np.empty((0, 5, 2), _F))
        if not count:
            return [empty] * batch
        order = device.empty([count], _L)
        device.launch("ranked", above, conf, found, order, _I(above), _I(count))
        faces, over, kept = (
            device.empty([count, 15], _F),
            device.empty([count, count], np.uint8),
            device.empty([count], np.uint8),
        )
        first, second = (_F(v) for v in C.VARIANCES)
        table = self._table((height, width, "anchors"), priors)
        numbers = (_I(count), anchors, first, second, _I(height), _I(width))
        device.launch("decode", count, loc, conf, landmarks, table, order, faces, *numbers)
        device.launch("overlaps", count * count, faces, order, over, _I(count), anchors, np.float64(C.NMS_IOU))
        device.launch("suppress", 1, over, kept, _I(count))
        left = device.get(kept).astype(bool)
        rows: F32 = device.get(faces)[left]
        frame_of = device.get(order)[left] // len(priors)
        return [_detections(rows[frame_of == b][: C.KEEP_TOP_K]) for b in range(batch)]

    def points_to_frame(self, points: Any, shape: tuple[int, int, int], regions: Any, out: Any) -> Any:
        """Points [N,K,2 or 3] whose x and y are fractions of crops -> pixels of the frame; regions [N,4] are their corners."""
        count, each, depth = shape
        self.device.launch(
            "points_to_frame", count * each * depth, points, regions, out, _I(count), _I(each), _I(depth)
        )
        return out

    def points_to_original(self, points: Any, numbers: int, pad_xy: tuple[int, int], scale: float, out: Any) -> Any:
        """Points, `numbers` floats x, y, x, …, in pixels of the frame that was seen -> pixels of the original."""
        pad_x, pad_y = (_F(v) for v in pad_xy)
        self.device.launch("points_to_original", numbers, points, out, _L(numbers), pad_x, pad_y, _F(scale))
        return out

    def _constants(self, preprocessing: Preprocessing) -> tuple[Any, Any]:
        pairs = (("mean", preprocessing.mean), ("std", preprocessing.std))
        mean, std = (self._table((name, value), np.array(value, _F)) for name, value in pairs)
        return mean, std

    def _table(self, name: Any, array: Any) -> Any:
        """A constant on the device, put there once."""
        if name not in self._tables:
            self._tables[name] = self.device.put(array)
        return self._tables[name]


def _detections(rows: F32) -> Detections:
    return Detections(rows[:, :4], rows[:, 4], rows[:, 5:].reshape(-1, 5, 2))

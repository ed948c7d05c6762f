"""The two passes of a GPU's work, put into its stream: finding faces in frames, and reading faces that are found.

Nothing here allocates, uploads or waits once its buffers are there, so either may be captured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fexruntime import detect
from fexruntime.arrays import F32, Indices
from fexruntime.backends.base import Resident
from fexruntime.contracts import Crop, Tensor
from fexruntime.contracts.labels import LANDMARKS
from fexruntime.errors import InputError
from fexruntime.ops.buffers import Answer, Buffers
from fexruntime.ops.graphs import Marks
from fexruntime.ops.kernels import FACE, MIRRORED, Faces, Finding, Kernels

SLOTS = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of faces that networks are run on."""
FINDERS = frozenset({"retinaface"})
"""Finders that there are kernels for, by the name that a stage decodes by."""
_POINTS = "landmarks-68"
"""The decoder that there is a kernel for, where a later network reads what it gives."""


def resident_steps(finder: Any, steps: Sequence[Any], roles: Sequence[str]) -> tuple[str, ...]:
    """Roles, the finder's first, whose networks can be run on the device, if `roles` have a runner for it.

    InputError if the finder has no kernels: then nothing could.
    """
    if finder.stage.decode not in FINDERS:
        raise InputError(
            f"pixels='cuda' needs a face detector that there are kernels for ({', '.join(sorted(FINDERS))}), and {finder.role} is of another kind: "
            "give pixels='cpu'"
        )
    if finder.role not in roles:
        raise InputError(
            f"pixels='cuda' needs {finder.role} on a GPU: give device='cuda' and backend='tensorrt' or backend='onnxruntime-cuda', or "
            "pixels='cpu'"
        )
    given: set[str] = set()
    found = [finder.role]
    for step in steps:
        if step.role in roles and all(
            r.kind in MIRRORED if isinstance(r, Crop) else r in given for r in step.choice.reads
        ):
            found.append(step.role)
            if step.stage.decode == _POINTS:
                given.add(step.gives[0])
    return tuple(found)


class Finds:
    """Finding faces in frames of one size."""

    def __init__(
        self,
        kernels: Kernels,
        buffers: Buffers,
        marks: Marks,
        runners: Mapping[str, Resident],
        zero: Callable[[int, int], None],
    ) -> None:
        self._kernels, self._buffers, self._marks, self._runners, self._zero = kernels, buffers, marks, runners, zero

    def reserve(self, size: tuple[int, int]) -> None:
        """Have the buffers of one frame."""
        runner = next(iter(self._runners.values()))
        self._buffers_of(runner, 1, size)
        for name, each in (("seen 0", 48), ("views", 48), ("factors", 8), ("frame 0", 3 * size[0] * size[1])):
            self._buffers.at(name, each)

    def find(
        self,
        step: Any,
        seen: np.uint64,
        batch: int,
        size: tuple[int, int],
        threshold: float,
        to: tuple[np.uint64, np.uint64],
    ) -> None:
        """Faces of `batch` frames, whose views are at `seen`, into rows and counts."""
        runner, anchors = self._runners[step.role], len(detect.anchors(*size))
        tensor, raw, work = self._buffers_of(runner, batch, size)
        self._kernels.fill(seen, batch, size, step.preprocessing, np.uint64(tensor))
        self._marks.put("finding")
        at_once = min(batch, runner.spec.largest_batch or batch)
        for first in range(0, batch, at_once):
            n = min(at_once, batch - first)
            image = {step.inputs[0]: (tensor + first * 3 * size[0] * size[1] * 4, (n, 3, *size))}
            outputs = {
                t.name: (raw[t.name] + first * anchors * _width(t) * 4, (n, anchors, _width(t)))
                for t in runner.spec.outputs
            }
            runner.enqueue(image, outputs)
        self._marks.put(f"{step.role} network")
        self._zero(int(work["count"]), 1)
        buffers = Finding(work["found"], work["count"], work["order"], work["faces"], *to)
        points = raw["landmarks"] if "points_xy_px" in step.gives else 0
        outputs_at = (np.uint64(raw["loc"]), np.uint64(raw["conf"]), np.uint64(points))
        self._kernels.find(outputs_at, batch, size, threshold, buffers)
        self._marks.put("finding")

    def _buffers_of(
        self, runner: Resident, batch: int, size: tuple[int, int]
    ) -> tuple[int, dict[str, int], dict[str, np.uint64]]:
        """(the network's input, its outputs, what decoding needs)"""
        anchors, most = len(detect.anchors(*size)), self._kernels.most(batch, size)
        tensor = self._buffers.at("frames", batch * 3 * size[0] * size[1] * 4)
        raw = {t.name: self._buffers.at(f"raw {t.name}", batch * anchors * _width(t) * 4) for t in runner.spec.outputs}
        sizes = {"found": 8 * batch * anchors, "count": 4, "order": 8 * most, "faces": 4 * FACE * most}
        return tensor, raw, {name: np.uint64(self._buffers.at(name, size)) for name, size in sizes.items()}


class Reads:
    """Reading faces by networks, each crop cut once."""

    def __init__(self, kernels: Kernels, buffers: Buffers, marks: Marks, runners: Mapping[str, Resident]) -> None:
        self._kernels, self._buffers, self._marks, self._runners = kernels, buffers, marks, runners

    def reserve(self, steps: Sequence[Any], slots: int) -> None:
        """Have the buffers of so many faces."""
        self._faces(slots)
        for step in steps:
            for read in step.choice.reads:
                if isinstance(read, Crop):
                    self._buffers_of(read, slots)
            if step.stage.decode == _POINTS:
                self._buffers.at(f"value {step.gives[0]}", slots * LANDMARKS * 8)

    def given(self, boxes: F32, frame_of: Indices, slots: int) -> Faces:
        """Faces whose boxes [N,4] and frames are known, uploaded."""
        padded = np.zeros((slots, 4), np.float32), np.full(slots, -1, np.int32)
        padded[0][: len(boxes)], padded[1][: len(boxes)] = boxes, frame_of
        self._buffers.written("boxes", padded[0])
        self._buffers.written("frame_of", padded[1])
        return self._faces(slots)

    def values(self, steps: Sequence[Any], known: Mapping[str, F32], slots: int) -> dict[str, int]:
        """What the CPU knows of the faces and no earlier step here gives, uploaded: addresses by name."""
        found: dict[str, int] = {}
        given: set[str] = set()
        for step in steps:
            for read in step.choice.reads:
                if isinstance(read, Crop) or read in given or read in found:
                    continue
                padded = np.zeros((slots, *known[read].shape[1:]), np.float32)
                padded[: len(known[read])] = known[read]
                found[read] = int(self._buffers.written(f"known {read}", padded))
            if step.stage.decode == _POINTS:
                given.add(step.gives[0])
        return found

    def slots(
        self, rows: np.uint64, counts: np.uint64, factors: np.uint64, frames: int, each: int, slots: int
    ) -> Faces:
        """The best `each` faces of each frame, as far as there are slots."""
        faces = self._faces(slots)
        self._kernels.slots(rows, counts, factors, frames, each, faces)
        return faces

    def read(
        self,
        steps: Sequence[Any],
        faces: Faces,
        views: np.uint64,
        known: Mapping[str, int],
        answer: Answer,
        base: int,
    ) -> None:
        """The steps on the faces, raw outputs to their places in the answer."""
        cut: dict[Crop, tuple[int, np.uint64]] = {}
        values = dict(known)
        for step in steps:
            given: dict[str, tuple[int, tuple[int, ...]]] = {}
            for name, read in zip(step.inputs, step.choice.reads, strict=True):
                if isinstance(read, Crop):
                    if read not in cut:
                        cut[read] = self._chips(read, faces, views)
                    given[name] = (cut[read][0], (faces.slots, 3, read.size, read.size))
                    continue
                shape = next(t.shape for t in self._runners[step.role].spec.inputs if t.name == name)
                given[name] = (values[read], (faces.slots, *(int(a) for a in shape[1:])))
            outputs = {
                t.name: (base + answer.places[step.role, t.name][0], answer.places[step.role, t.name][1])
                for t in self._runners[step.role].spec.outputs
            }
            self._marks.put("crops")
            self._runners[step.role].enqueue(given, outputs)
            self._marks.put(f"{step.role} network")
            if step.stage.decode == _POINTS:
                (fractions, _), region = next(iter(outputs.values())), cut[step.choice.crop][1]
                values[step.gives[0]] = self._buffers.at(f"value {step.gives[0]}", faces.slots * LANDMARKS * 8)
                shape_of = (faces.slots, LANDMARKS, 2)
                to = np.uint64(values[step.gives[0]])
                self._kernels.points_to_frame(np.uint64(fractions), shape_of, region, to)

    def _chips(self, crop: Crop, faces: Faces, views: np.uint64) -> tuple[int, np.uint64]:
        """(crops, the regions that decode them) of the faces."""
        sample, region, chips = self._buffers_of(crop, faces.slots)
        self._kernels.locate(faces, crop, np.uint64(sample), np.uint64(region))
        self._kernels.cut(views, faces, np.uint64(sample), crop, np.uint64(chips))
        return chips, np.uint64(region)

    def _buffers_of(self, crop: Crop, slots: int) -> tuple[int, int, int]:
        """(where a crop is read, what decodes it, the crops)"""
        sizes = {"sample": slots * 16, "region": slots * 16, "chips": slots * 3 * crop.size**2 * 4}
        sample, region, chips = (self._buffers.at(f"{name} {crop}", size) for name, size in sizes.items())
        return sample, region, chips

    def _faces(self, slots: int) -> Faces:
        boxes, frame_of = self._buffers.at("boxes", slots * 16), self._buffers.at("frame_of", slots * 4)
        return Faces(np.uint64(boxes), np.uint64(frame_of), slots)


def _width(tensor: Tensor) -> int:
    return int(tensor.shape[-1])

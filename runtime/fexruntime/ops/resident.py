"""A frame's way on one GPU: uploaded once, found, cut, read by every network that can be, and one small copy back.

How many faces there are is not known while the work is put into the stream, so the face networks run on as many slots as the
last frames had faces (empty ones are black). What comes back is the finder's faces and the raw outputs of those slots;
decoders are the CPU's, on these few numbers. A face that had no slot, or whose box the caller moved (tracks, smoothing,
boxes of his own), is read in a second pass with its own copy back: an output is used for the very box it was computed for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fexruntime import detect
from fexruntime.arrays import F32
from fexruntime.backends.base import Place, Resident
from fexruntime.contracts import Crop, Tensor
from fexruntime.contracts import detection as C
from fexruntime.contracts.labels import LANDMARKS
from fexruntime.cuda import Cuda
from fexruntime.detect import Detections
from fexruntime.errors import InputError
from fexruntime.ops import nvrtc
from fexruntime.ops.base import Finder
from fexruntime.ops.kernels import FACE, MIRRORED, Faces, Finding, Kernels, view_of
from fexruntime.shrink import View, shrink_for_detector

SLOTS = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of faces that networks are run on."""
FINDERS = frozenset({"retinaface"})
"""Finders that there are kernels for, by the name that a stage decodes by."""
_POINTS = "landmarks-68"
"""The decoder that there is a kernel for, where a later network reads what it gives."""
_ALIGNED = 256


def resident_steps(finder: Any, steps: Sequence[Any], roles: Sequence[str]) -> tuple[str, ...]:
    """Roles, the finder's first, whose networks can be run on the device, if `roles` have an engine for it.

    InputError if the finder has no kernels: then nothing could.
    """
    if finder.stage.decode not in FINDERS or finder.role not in roles:
        raise InputError(
            f"pixels='cuda' needs a finder with kernels ({', '.join(sorted(FINDERS))}) and the backend 'tensorrt': "
            f"{finder.role} is another; leave pixels='cpu'"
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


class _Answer:
    """What is copied back: arrays one after another, each at its place."""

    def __init__(self) -> None:
        self.places: dict[Any, tuple[int, tuple[int, ...], Any]] = {}
        self.size = 0

    def add(self, key: Any, shape: tuple[int, ...], dtype: Any = np.float32) -> None:
        self.places[key] = (self.size, shape, dtype)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.size += -(-max(size, 1) // _ALIGNED) * _ALIGNED

    def array(self, key: Any, data: NDArray[np.uint8]) -> NDArray[Any]:
        start, shape, dtype = self.places[key]
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        found: NDArray[Any] = data[start : start + size].view(dtype).reshape(shape)
        return found


class ResidentOps:
    """One caller's work on a GPU: a stream, buffers that are used again, the kernels, and runners that take addresses."""

    def __init__(self, cuda: Cuda, place: Place, runners: Mapping[str, Resident]) -> None:
        """`runners` by role, the finder's first."""
        self._cuda, self._runners = cuda, dict(runners)
        most = [runner.spec.largest_batch for runner in list(runners.values())[1:]]
        self.faces_a_run = max(n for n in SLOTS if all(m is None or n <= m for m in most))
        self._kernel = cuda.kernels(nvrtc.cubin(cuda.gpu.architecture, place.store()))
        self._kernels = Kernels(self)
        self._buffers: dict[str, tuple[int, int]] = {}
        self._host = cuda.pinned(0)
        self.finders: Mapping[str, Finder] = {"retinaface": self._find}
        self._ahead: tuple[Any, ...] = ()
        self._views: dict[int, tuple[Any, NDArray[np.int64]]] = {}
        self._known: dict[tuple[int, bytes], int] = {}
        self._outputs: dict[str, dict[str, F32]] = {}
        self.slots = SLOTS[0]
        """Faces that the next finding is followed by."""

    def put(self, array: NDArray[Any]) -> Any:
        """A constant on the device."""
        at = self._cuda.empty(array.nbytes)
        self._cuda.write(at, np.ascontiguousarray(array))
        return np.uint64(at)

    def launch(self, kernel: str, threads: int, *arguments: Any) -> None:
        """Run a kernel."""
        self._cuda.launch(self._kernel(kernel), threads, arguments)

    def begin(self, frames: Sequence[Any], steps: Sequence[Any]) -> None:
        """A call begins: nothing is known of its frames."""
        self._views, self._known, self._outputs = {}, {}, {}
        self._ahead = tuple(s for s in steps if s.role in self._runners)

    def answer(self, block: Any, steps: Sequence[Any]) -> None:
        """Raw outputs of the block's faces by the steps that run here, those that were computed ahead or from now."""
        mine = [s for s in steps if s.role in self._runners]
        if not mine or not len(block):
            return
        boxes = np.ascontiguousarray(block.values["boxes_xyxy_px"], np.float32)
        keys = [(id(block.frames[f]), b.tobytes()) for f, b in zip(block.frame_of, boxes, strict=True)]
        if not all(s.role in self._outputs for s in mine) or not all(k in self._known for k in keys):
            self._read(block, boxes, mine)
            self._known = {key: n for n, key in enumerate(keys)}
        rows = [self._known[key] for key in keys]
        block.answers = {s.role: {n: v[rows] for n, v in self._outputs[s.role].items()} for s in mine}

    def close(self) -> None:
        """Release the runners, then the device's memory."""
        for runner in self._runners.values():
            runner.close()
        self._runners = {}
        self._cuda.close()

    def _find(self, step: Any, frames: Sequence[Any], options: Any, workspace: Any) -> list[dict[str, F32]]:
        """RetinaFace, and the face networks on the faces that it finds; see `finders.retinaface`."""
        views = [shrink_for_detector(frame.rgb_u8, options.detector_size) for frame in frames]
        groups: dict[tuple[int, int], list[int]] = {}
        for position, view in enumerate(views):
            groups.setdefault((view.rgb_u8.shape[0], view.rgb_u8.shape[1]), []).append(position)
        order = [position for group in groups.values() for position in group]
        each = options.max_faces or C.KEEP_TOP_K
        with workspace.timed(f"{step.role} and faces on the GPU", len(frames)):
            answer = _Answer()
            answer.add("rows", (len(frames), C.KEEP_TOP_K, FACE))
            answer.add("counts", (len(frames),), np.int32)
            slots = self.slots if self._ahead else 0
            for s in self._ahead:
                self._reserve(answer, s, slots)
            base = self._buffer("answer", answer.size)
            rows, counts = (base + answer.places[k][0] for k in ("rows", "counts"))
            start = 0
            for size, group in groups.items():
                seen = [self._seen(frames[p], views[p], k) for k, p in enumerate(group)]
                self._found_in(step, seen, size, options.face_detection_threshold, (rows, counts), start)
                start += len(group)
            if slots:
                factors = np.array([views[p].factor_xy for p in order], np.float32)
                faces = self._slots(slots)
                written = self._written("factors", factors)
                self._kernels.slots(np.uint64(rows), np.uint64(counts), written, len(order), each, faces)
                table = self._written("views", np.stack([self._view(frames[p]) for p in order]))
                self._faces(self._ahead, faces, table, {}, answer, base)
            data = self._back(base, answer.size)
            found = self._said(answer, data, frames, views, order, step, each)
        return found

    def _found_in(
        self, step: Any, seen: list[Any], size: tuple[int, int], threshold: float, to: tuple[int, int], start: int
    ) -> None:
        """Put the finding in frames of one size into the stream: its rows and counts, from `start` on."""
        runner, batch, anchors = self._runners[step.role], len(seen), len(detect.anchors(*size))
        tensor = self._buffer("frames", batch * 3 * size[0] * size[1] * 4)
        self._kernels.fill(self._written("seen", np.stack(seen)), batch, size, step.preprocessing, np.uint64(tensor))
        raw = {t.name: self._buffer(f"raw {t.name}", batch * anchors * _width(t) * 4) for t in runner.spec.outputs}
        at_once = min(batch, runner.spec.largest_batch or batch)
        for first in range(0, batch, at_once):
            n = min(at_once, batch - first)
            image = {step.inputs[0]: (tensor + first * 3 * size[0] * size[1] * 4, (n, 3, *size))}
            outputs = {
                t.name: (raw[t.name] + first * anchors * _width(t) * 4, (n, anchors, _width(t)))
                for t in runner.spec.outputs
            }
            runner.enqueue(image, outputs)
        most = self._kernels.most(batch, size)
        sizes = {"found": 8 * batch * anchors, "count": 4, "order": 8 * most, "faces": 4 * FACE * most}
        at = {name: np.uint64(self._buffer(name, size)) for name, size in sizes.items()}
        self._cuda.zero(int(at["count"]), 1)
        rows, counts = to[0] + start * C.KEEP_TOP_K * FACE * 4, to[1] + start * 4
        buffers = Finding(at["found"], at["count"], at["order"], at["faces"], np.uint64(rows), np.uint64(counts))
        points = raw["landmarks"] if "points_xy_px" in step.gives else 0
        outputs_at = (np.uint64(raw["loc"]), np.uint64(raw["conf"]), np.uint64(points))
        self._kernels.find(outputs_at, batch, size, threshold, buffers)

    def _said(
        self,
        answer: _Answer,
        data: NDArray[np.uint8],
        frames: Sequence[Any],
        views: Sequence[View],
        order: Sequence[int],
        step: Any,
        each: int,
    ) -> list[dict[str, F32]]:
        """What came back, as the finder's values, with the raw outputs of the faces that had a slot remembered."""
        rows, counts = answer.array("rows", data), answer.array("counts", data)
        found: dict[int, dict[str, F32]] = {}
        total = 0
        self._known = {}
        for k, position in enumerate(order):
            mine = rows[k, : counts[k]].copy()
            points = mine[:, 5:].reshape(-1, 5, 2) if "points_xy_px" in step.gives else None
            faces = views[position].to_frame(Detections(mine[:, :4], mine[:, 4], points))
            found[position] = {"boxes_xyxy_px": faces.boxes_xyxy_px, "scores": faces.scores}
            if faces.points_xy_px is not None:
                found[position]["points_xy_px"] = faces.points_xy_px
            for box in faces.boxes_xyxy_px[:each]:
                if total < self.slots:
                    self._known[id(frames[position]), box.tobytes()] = total
                total += 1
        self._remember(answer, data, self._ahead)
        self.slots = next(n for n in SLOTS if min(total, self.faces_a_run) <= n)
        return [found[position] for position in range(len(frames))]

    def _read(self, block: Any, boxes: F32, steps: Sequence[Any]) -> None:
        """Run the steps on a block's faces, whose boxes the CPU knows: one copy back."""
        slots, answer = next(n for n in SLOTS if n >= len(block)), _Answer()
        for step in steps:
            self._reserve(answer, step, slots)
        base = self._buffer("answer", answer.size)
        faces = self._slots(slots)
        padded = np.zeros((slots, 4), np.float32), np.full(slots, -1, np.int32)
        padded[0][: len(block)], padded[1][: len(block)] = boxes, block.frame_of
        for name, array in zip(("boxes", "frame_of"), padded, strict=True):
            self._written(name, array)
        table = self._written("views", np.stack([self._view(frame) for frame in block.frames]))
        self._faces(steps, faces, table, block.values, answer, base)
        self._remember(answer, self._back(base, answer.size), steps)

    def _faces(
        self,
        steps: Sequence[Any],
        faces: Faces,
        views: np.uint64,
        known: Mapping[str, F32],
        answer: _Answer,
        base: int,
    ) -> None:
        """Put the steps into the stream, each crop once; what the CPU knows of the faces serves what no step here gives."""
        cut: dict[Crop, tuple[int, np.uint64]] = {}
        values: dict[str, int] = {}
        for step in steps:
            given: dict[str, tuple[int, tuple[int, ...]]] = {}
            for name, read in zip(step.inputs, step.choice.reads, strict=True):
                if isinstance(read, Crop):
                    if read not in cut:
                        cut[read] = self._chips(read, faces, views)
                    given[name] = (cut[read][0], (faces.slots, 3, read.size, read.size))
                    continue
                if read not in values:
                    padded = np.zeros((faces.slots, *known[read].shape[1:]), np.float32)
                    padded[: len(known[read])] = known[read]
                    values[read] = int(self._written(f"value {read}", padded))
                shape = next(t.shape for t in self._runners[step.role].spec.inputs if t.name == name)
                given[name] = (values[read], (faces.slots, *(int(a) for a in shape[1:])))
            outputs = {
                t.name: (base + answer.places[step.role, t.name][0], answer.places[step.role, t.name][1])
                for t in self._runners[step.role].spec.outputs
            }
            self._runners[step.role].enqueue(given, outputs)
            if step.stage.decode == _POINTS:
                (fractions, _), region = next(iter(outputs.values())), cut[step.choice.crop][1]
                values[step.gives[0]] = self._buffer(f"value {step.gives[0]}", faces.slots * LANDMARKS * 8)
                shape_of = (faces.slots, LANDMARKS, 2)
                to = np.uint64(values[step.gives[0]])
                self._kernels.points_to_frame(np.uint64(fractions), shape_of, region, to)

    def _chips(self, crop: Crop, faces: Faces, views: np.uint64) -> tuple[int, np.uint64]:
        """(crops, the regions that decode them) of the faces."""
        sample, region = (np.uint64(self._buffer(f"{name} {crop}", faces.slots * 16)) for name in ("sample", "region"))
        chips = self._buffer(f"chips {crop}", faces.slots * 3 * crop.size**2 * 4)
        self._kernels.locate(faces, crop, sample, region)
        self._kernels.cut(views, faces, sample, crop, np.uint64(chips))
        return chips, region

    def _reserve(self, answer: _Answer, step: Any, slots: int) -> None:
        for t in self._runners[step.role].spec.outputs:
            answer.add((step.role, t.name), (slots, *(int(a) for a in t.shape[1:])))

    def _remember(self, answer: _Answer, data: NDArray[np.uint8], steps: Sequence[Any]) -> None:
        """Raw outputs by role, off the memory that the next copy goes to."""
        self._outputs = {
            s.role: {t.name: answer.array((s.role, t.name), data).copy() for t in self._runners[s.role].spec.outputs}
            for s in steps
        }

    def _back(self, base: int, size: int) -> NDArray[np.uint8]:
        """The one copy back, waited for."""
        if len(self._host) < size:
            self._host = self._cuda.pinned(size)
        self._cuda.fetch(base, self._host[:size])
        self._cuda.synchronise()
        return self._host[:size]

    def _slots(self, slots: int) -> Faces:
        boxes, frame_of = self._buffer("boxes", slots * 16), self._buffer("frame_of", slots * 4)
        return Faces(np.uint64(boxes), np.uint64(frame_of), slots)

    def _view(self, frame: Any) -> NDArray[np.int64]:
        """Where a frame lies on the device; it is uploaded the first time."""
        if id(frame) not in self._views:
            self._views[id(frame)] = (frame, self._uploaded(frame.rgb_u8, f"frame {len(self._views)}"))
        return self._views[id(frame)][1]

    def _seen(self, frame: Any, view: View, slot: int) -> NDArray[np.int64]:
        """Where what the finder sees of a frame lies."""
        if view.rgb_u8 is frame.rgb_u8:
            return self._view(frame)
        return self._uploaded(view.rgb_u8, f"shrunk {view.rgb_u8.shape} {slot}")

    def _uploaded(self, pixels: Any, name: str) -> NDArray[np.int64]:
        whole = np.ascontiguousarray(pixels)  # `run` takes frames as they are, those of other strides among them
        row = view_of(whole)
        row[0] = self._written(name, whole)
        return row

    def _written(self, name: str, array: NDArray[Any]) -> Any:
        at = self._buffer(name, array.nbytes)
        self._cuda.write(at, array)
        return np.uint64(at)

    def _buffer(self, name: str, size: int) -> int:
        """A buffer that is used again, and grows."""
        at, holds = self._buffers.get(name, (0, -1))
        if holds < size:
            if at:
                self._cuda.free(at)
            at = self._cuda.empty(size)
            self._buffers[name] = (at, size)
        return at


def _width(tensor: Tensor) -> int:
    return int(tensor.shape[-1])

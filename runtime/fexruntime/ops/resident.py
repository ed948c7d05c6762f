"""A frame's way on one GPU: uploaded once, found, cut, read by every network that can be, and one small copy back.

How many faces there are is not known while the work is put into the stream, so the face networks run on as many slots as the
last frames had faces (empty ones are black). What comes back is the finder's faces and the raw outputs of those slots;
decoders are the CPU's, on these few numbers. A face that had no slot, or whose box the caller moved (tracks, smoothing,
boxes of his own), is read in a second pass with its own copy back: an output is used for the very box it was computed for.

Each pass is two parts: what is uploaded, and work that reads and writes the same addresses every time, which is a CUDA graph
once it has been asked for three times.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fexruntime.arrays import F32
from fexruntime.backends.base import Place, Resident
from fexruntime.contracts import detection as C
from fexruntime.cuda import Cuda
from fexruntime.detect import Detections
from fexruntime.ops import nvrtc
from fexruntime.ops.base import Finder, Note
from fexruntime.ops.buffers import Answer, Buffers
from fexruntime.ops.graphs import Graphs, Marks
from fexruntime.ops.kernels import FACE, Kernels, view_of
from fexruntime.ops.passes import SLOTS, Finds, Reads
from fexruntime.shrink import View, shrink_for_detector
from fexruntime.sources.on_device import is_on_device, on_the_cpu

Key = tuple[int, bytes]
"""A face: its frame, and its box."""


class ResidentOps:
    """One caller's work on a GPU: a stream, buffers that are used again, the kernels, and runners that take addresses."""

    def __init__(
        self, cuda: Cuda, place: Place, runners: Mapping[str, Resident], finder: Any, steps: Sequence[Any]
    ) -> None:
        """`runners` by role, the finder's first; `steps` are the pipeline's."""
        self._cuda, self._runners = cuda, dict(runners)
        most = [runner.spec.largest_batch for runner in list(runners.values())[1:]]
        self.faces_a_run = max(n for n in SLOTS if all(m is None or n <= m for m in most))
        self._kernel = cuda.kernels(nvrtc.cubin(cuda.gpu.architecture, place.store()))
        self._buffers, self._marks = Buffers(cuda), Marks(cuda)
        self._graphs = Graphs(cuda, self._marks, self)
        shared = (Kernels(self), self._buffers, self._marks, self._runners)
        self._finds, self._reads = Finds(*shared, cuda.zero), Reads(*shared)
        self.finders: Mapping[str, Finder] = {"retinaface": self._find}
        self._ahead: tuple[Any, ...] = ()
        self._views: dict[int, tuple[Any, NDArray[np.int64]]] = {}
        self._known: dict[Key, int] = {}
        self._outputs: dict[str, dict[str, F32]] = {}
        self._notes: list[Note] = []
        self.slots = SLOTS[0]
        """Faces that the next finding is followed by."""
        self._reserve(finder, [s for s in steps if s.role in self._runners])

    def put(self, array: NDArray[Any]) -> Any:
        """A constant on the device."""
        at = self._cuda.empty(array.nbytes)
        self._cuda.write(at, np.ascontiguousarray(array))
        return np.uint64(at)

    def drop(self, buffer: Any) -> None:
        """Give a constant back; no graph that was captured with it is run again."""
        self._cuda.free(int(buffer))
        self._buffers.moved += 1

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

    def notes(self) -> list[Note]:
        """What each part took on the GPU, by its own clock, and what the CPU spent beside that; forgotten then."""
        notes, self._notes = self._notes, []
        return notes

    def close(self) -> None:
        """Release the runners, then the device's memory."""
        for runner in self._runners.values():
            runner.close()
        self._runners = {}
        self._cuda.close()

    def state(self) -> dict[Hashable, int] | None:
        """What a graph has in it beside its key: addresses, and how the contexts of the networks are set."""
        found: dict[Hashable, int] = {"buffers": self._buffers.moved}
        for role, runner in self._runners.items():
            if runner.versions is None:
                return None
            found |= {(role, k): version for k, version in enumerate(runner.versions)}
        return found

    def used(self) -> set[Hashable]:
        """Buffers, and the contexts that ran since this was asked last."""
        found: set[Hashable] = {"buffers"}
        for role, runner in self._runners.items():
            found |= {(role, k) for k in runner.used}
            runner.used.clear()
        return found

    def _reserve(self, finder: Any, steps: Sequence[Any]) -> None:
        """Buffers of one frame of the largest size, and of the most faces: nothing moves later but for larger batches."""
        largest = self._runners[finder.role].most
        if largest is None:  # it has no largest frame
            return
        answer = self._answer(1, self.faces_a_run, steps)
        self._buffers.at("answer", answer.size)
        self._buffers.reserve_host(answer.size)
        ((_, height, width),) = [shape[-3:] for shape in largest.values()]
        self._finds.reserve((height, width))
        self._reads.reserve(steps, self.faces_a_run)

    def _answer(self, frames: int, slots: int, steps: Sequence[Any]) -> Answer:
        """What comes back of a finding (of no frames: of a reading alone)."""
        answer = Answer()
        if frames:
            answer.add("rows", (frames, C.KEEP_TOP_K, FACE))
            answer.add("counts", (frames,), np.int32)
        for step in steps if slots else ():
            for t in self._runners[step.role].spec.outputs:
                answer.add((step.role, t.name), (slots, *(int(a) for a in t.shape[1:])))
        return answer

    def _find(self, step: Any, frames: Sequence[Any], options: Any, workspace: Any) -> list[dict[str, F32]]:
        """RetinaFace, and the face networks on the faces that it finds; see `finders.retinaface`."""
        began = time.perf_counter()
        views = [_shrunk(frame, options.detector_size) for frame in frames]
        groups: dict[tuple[int, int], list[int]] = {}
        for position, view in enumerate(views):
            groups.setdefault((view.rgb_u8.shape[0], view.rgb_u8.shape[1]), []).append(position)
        order = [position for group in groups.values() for position in group]
        each = options.max_faces or C.KEEP_TOP_K
        slots = self.slots if self._ahead else 0
        answer = self._answer(len(frames), slots, self._ahead)
        base = self._buffers.at("answer", answer.size)
        rows, counts = (base + answer.places[k][0] for k in ("rows", "counts"))
        self._marks.begin()
        seen = {
            size: self._buffers.written(f"seen {k}", np.stack([self._seen(frames[p], views[p], p) for p in group]))
            for k, (size, group) in enumerate(groups.items())
        }
        if slots:
            factors = self._buffers.written("factors", np.array([views[p].factor_xy for p in order], np.float32))
            table = self._buffers.written("views", np.stack([self._view(frames[p]) for p in order]))
        self._marks.put("upload")

        def work() -> None:
            start = 0
            for size, group in groups.items():
                to = (np.uint64(rows + start * C.KEEP_TOP_K * FACE * 4), np.uint64(counts + start * 4))
                self._finds.find(step, seen[size], len(group), size, options.face_detection_threshold, to)
                start += len(group)
            if slots:
                faces = self._reads.slots(np.uint64(rows), np.uint64(counts), factors, len(order), each, slots)
                self._reads.read(self._ahead, faces, table, {}, answer, base)

        sizes = tuple((size, len(group)) for size, group in groups.items())
        roles = tuple(s.role for s in self._ahead)
        key = ("find", sizes, options.face_detection_threshold, each, slots, roles, step.gives, tuple(order))
        self._graphs.run(key, work)
        data = self._back(base, answer.size, began, len(frames))
        return self._said(answer, data, frames, views, order, step, each)

    def _said(
        self,
        answer: Answer,
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
        began = time.perf_counter()
        slots = next(n for n in SLOTS if n >= len(block))
        answer = self._answer(0, slots, steps)
        base = self._buffers.at("answer", answer.size)
        self._marks.begin()
        faces = self._reads.given(boxes, block.frame_of, slots)
        table = self._buffers.written("views", np.stack([self._view(frame) for frame in block.frames]))
        values = self._reads.values(steps, block.values, slots)
        self._marks.put("upload")
        work = partial(self._reads.read, steps, faces, table, values, answer, base)
        self._graphs.run(("read", slots, tuple(s.role for s in steps), tuple(values)), work)
        self._remember(answer, self._back(base, answer.size, began, len(block)), steps)

    def _remember(self, answer: Answer, data: NDArray[np.uint8], steps: Sequence[Any]) -> None:
        """Raw outputs by role, off the memory that the next copy goes to."""
        self._outputs = {
            s.role: {t.name: answer.array((s.role, t.name), data).copy() for t in self._runners[s.role].spec.outputs}
            for s in steps
            if (s.role, self._runners[s.role].spec.outputs[0].name) in answer.places
        }

    def _back(self, base: int, size: int, began: float, items: int) -> NDArray[np.uint8]:
        """The one copy back, waited for, and what everything took since `began`."""
        data = self._buffers.back(base, size)
        self._marks.put("copy back")
        self._cuda.synchronise()
        taken = self._marks.seconds()
        rest = time.perf_counter() - began - sum(taken.values())
        self._notes += [
            *((name, seconds, items) for name, seconds in taken.items()),
            ("asking the GPU", max(rest, 0.0), items),
        ]
        return data

    def _view(self, frame: Any) -> NDArray[np.int64]:
        """Where a frame lies on the device; it is uploaded the first time, if it is not there already."""
        if id(frame) not in self._views:
            self._views[id(frame)] = (frame, self._placed(frame.rgb_u8, f"frame {len(self._views)}"))
        return self._views[id(frame)][1]

    def _seen(self, frame: Any, view: View, slot: int) -> NDArray[np.int64]:
        """Where what the finder sees of a frame lies."""
        if view.rgb_u8 is frame.rgb_u8:
            return self._view(frame)
        return self._placed(view.rgb_u8, f"shrunk {view.rgb_u8.shape} {slot}")

    def _placed(self, pixels: Any, name: str) -> NDArray[np.int64]:
        if is_on_device(pixels):
            if pixels.index != self._cuda.index:
                raise on_the_cpu(
                    f"it is on cuda:{pixels.index}, this detector on cuda:{self._cuda.index}; copies between GPUs are"
                )
            if pixels.stream is not None:
                self._cuda.follow(pixels.stream)
            placed: NDArray[np.int64] = pixels.view
            return placed
        whole = np.ascontiguousarray(pixels)  # `run` takes frames as they are, those of other strides among them
        row = view_of(whole)
        row[0] = self._buffers.written(name, whole)
        return row


def _shrunk(frame: Any, longest: int | None) -> View:
    if is_on_device(frame.rgb_u8):
        if longest is not None and max(frame.rgb_u8.shape[:2]) > longest:
            raise on_the_cpu("detector_size is")
        return View(frame.rgb_u8)
    return shrink_for_detector(frame.rgb_u8, longest)

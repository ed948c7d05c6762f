"""Each CUDA kernel on the device: the bits of its NumPy twin on random cases, and its time at a real size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fexruntime import crop as cropping
from fexruntime import detect
from fexruntime.contracts import Crop, Preprocessing
from fexruntime.contracts import detection as C
from fexruntime.cuda import Cuda
from fexruntime.ops import nvrtc, twins
from fexruntime.ops.kernels import FACE, Faces, Finding, Kernels, view_of
from fexruntime.store import Store

F = np.float32
PRE = Preprocessing((104.0, 117.0, 123.0), (1.0, 57.375, 0.225))
RUNS = 20
Case = tuple[str, Callable[[], None], Callable[[], list[tuple[Any, Any]]]]
"""A kernel's name, the launch, and then pairs of what came out and what NumPy gives."""


class OnDevice:
    """What the kernels ask of a device, and buffers to look into."""

    def __init__(self, cuda: Cuda, store: Store | None) -> None:
        self.cuda = cuda
        self._kernel = cuda.kernels(nvrtc.cubin(cuda.gpu.architecture, store))

    def put(self, array: Any) -> Any:
        """A buffer with this content."""
        at = self.cuda.empty(array.nbytes)
        self.cuda.write(at, np.ascontiguousarray(array))
        return np.uint64(at)

    def drop(self, buffer: Any) -> None:
        """Give such a buffer back."""
        self.cuda.free(int(buffer))

    def launch(self, kernel: str, threads: int, *arguments: Any) -> None:
        """Run a kernel."""
        self.cuda.launch(self._kernel(kernel), threads, arguments)

    def read(self, at: Any, shape: tuple[int, ...], dtype: Any = F) -> Any:
        """What a buffer holds."""
        out = np.empty(shape, dtype)
        self.cuda.read(int(at), out)
        return out


def measured(cuda: Cuda, store: Store | None, cases: int) -> list[dict[str, Any]]:
    """By kernel: how many cases, whether all were bit-equal, and milliseconds at a real size."""
    device = OnDevice(cuda, store)
    kernels = Kernels(device)
    found: dict[str, dict[str, Any]] = {}
    first, last = cuda.event(), cuda.event()
    for seed in range(cases):
        for real in (False, True) if seed == 0 else (False,):
            for name, launch, pairs in _cases(device, kernels, np.random.RandomState(seed), real):
                launch()
                entry = found.setdefault(name, {"kernel": name, "cases": 0, "unequal": 0, "passed": True})
                entry["cases"] += 1
                equal = all(np.array_equal(mine, twin) for mine, twin in pairs())
                entry["unequal"] += not equal
                entry["passed"] &= equal
                if real:
                    cuda.record(first)
                    for _ in range(RUNS):
                        launch()
                    cuda.record(last)
                    cuda.synchronise()
                    entry["ms"] = cuda.elapsed_ms(first, last) / RUNS
    return list(found.values())


def _cases(device: OnDevice, kernels: Kernels, rng: np.random.RandomState, real: bool) -> Iterator[Case]:
    height, width = (480, 640) if real else tuple(int(n) for n in rng.randint(2, 90, 2))
    frame = rng.randint(0, 256, (height, width, 3)).astype(np.uint8)
    row = view_of(frame)
    row[0] = int(device.put(frame))
    views = device.put(row)
    tensor = device.put(np.empty((3, height, width), F))
    yield (
        "frame_to_tensor",
        lambda: kernels.fill(views, 1, (height, width), PRE, tensor),
        lambda: [(device.read(tensor, (3, height, width)), twins.fill(frame, PRE, np.empty((3, height, width), F)))],
    )
    new = (height // 2 + 1, width // 2 + 1)
    canvas = device.put(np.empty((*new, 3), np.uint8))
    yield (
        "rescale",
        lambda: kernels.rescale(views, (height, width), new, new, (0, 0), canvas),
        lambda: [(device.read(canvas, (*new, 3), np.uint8), twins.rescale(frame, new, new, (0, 0)))],
    )
    count, side = (16, 224) if real else (3, 16)
    corner = rng.uniform(-40, width, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 200, (count, 2))], axis=1).astype(F)
    for kind in ("square-pad", "anisotropic"):
        crop = Crop(kind, side, 1.2)
        yield from _crops(device, kernels, crop, frame, views, boxes)
    chips = rng.rand(count, 3, side + 32, side + 32).astype(F)
    source, resized = device.put(chips), device.put(np.empty((count, 3, side, side), F))
    yield (
        "resize_normalise",
        lambda: kernels.resize_normalise(source, count, (side + 32, side), PRE, resized),
        lambda: [(device.read(resized, (count, 3, side, side)), twins.resize_normalise(chips, side, PRE))],
    )
    yield _finding(device, kernels, rng, (max(height, 16), max(width, 16)))
    points, regions = rng.normal(0.5, 1, (count, 68, 2)).astype(F), rng.normal(0, 300, (count, 4)).astype(F)
    at, corners, out = device.put(points), device.put(regions), device.put(np.empty_like(points))
    yield (
        "points_to_frame",
        lambda: kernels.points_to_frame(at, points.shape, corners, out),
        lambda: [(device.read(out, points.shape), twins.points_to_frame(points, regions))],
    )
    back = device.put(np.empty_like(points))
    yield (
        "points_to_original",
        lambda: kernels.points_to_original(at, points.size, (7, 3), 0.7, back),
        lambda: [(device.read(back, points.shape), twins.points_to_original(points, (7, 3), 0.7))],
    )


def _crops(device: OnDevice, kernels: Kernels, crop: Crop, frame: Any, views: Any, boxes: Any) -> Iterator[Case]:
    count = len(boxes)
    region = cropping.locate(boxes, crop)
    faces = Faces(device.put(boxes), device.put(np.zeros(count, np.int32)), count)
    sample, corners = (device.put(np.empty((count, 4), F)) for _ in range(2))
    yield (
        f"locate {crop.kind}",
        lambda: kernels.locate(faces, crop, sample, corners),
        lambda: [
            (device.read(sample, (count, 4)), region.sample_xyxy_px),
            (device.read(corners, (count, 4)), region.decode_xyxy_px),
        ],
    )
    shape = (count, 3, crop.size, crop.size)
    out, where = device.put(np.empty(shape, F)), device.put(region.sample_xyxy_px)
    yield (
        f"crop {crop.kind}",
        lambda: kernels.cut(views, faces, where, crop, out),
        lambda: [(device.read(out, shape), twins.cut(frame, region.sample_xyxy_px, crop, np.empty(shape, F)))],
    )


def _finding(device: OnDevice, kernels: Kernels, rng: np.random.RandomState, size: tuple[int, int]) -> Case:
    anchors, most = len(detect.anchors(*size)), kernels.most(1, size)
    loc, landmarks = (rng.normal(0, 1.5, (1, anchors, n)).astype(F) for n in (4, 10))
    conf = (rng.rand(1, anchors, 2) * 0.4).astype(F)
    conf[0, rng.randint(0, anchors, 40), 1] = rng.uniform(0.45, 1, 40).astype(F)
    outputs = tuple(map(device.put, (loc, conf, landmarks)))
    sizes = (
        (anchors, np.int64),
        (1, np.int32),
        (most, np.int64),
        (most * FACE, F),
        (C.KEEP_TOP_K * FACE, F),
        (1, np.int32),
    )
    buffers = Finding(*(device.put(np.zeros(n, kind)) for n, kind in sizes))

    def launch() -> None:
        device.cuda.zero(int(buffers.count), 1)
        kernels.find(outputs, 1, size, 0.5, buffers)

    def pairs() -> list[tuple[Any, Any]]:
        (twin,) = twins.find(loc, conf, landmarks, size, 0.5)
        kept = int(device.read(buffers.counts, (1,), np.int32)[0])
        rows = device.read(buffers.rows, (C.KEEP_TOP_K, FACE))[:kept]
        return [
            (rows[:, :4], twin.boxes_xyxy_px), (rows[:, 4], twin.scores), (rows[:, 5:].reshape(-1, 5, 2), twin.points_xy_px),
        ]  # fmt: skip

    return "candidates, ranked, decode, suppress", launch, pairs

"""The CUDA kernels, compiled by g++, give the bits of their NumPy twins; NVRTC compiles them for each architecture."""

from __future__ import annotations

import ctypes
import locale
import re
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fexruntime import crop as cropping
from fexruntime import detect
from fexruntime.contracts import Crop, Preprocessing
from fexruntime.contracts import detection as C
from fexruntime.errors import EnvironmentMissingError, InputError
from fexruntime.ops import device as devices
from fexruntime.ops import nvrtc, twins
from fexruntime.ops.kernels import FACE, Faces, Finding, Kernels, view_of
from fexruntime.store import Store

F = np.float32
CASES = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SEEDS = st.integers(0, 2**32 - 1)
SIDES = st.integers(2, 48)
PRE = Preprocessing((104.0, 117.0, 123.0), (1.0, 57.375, 0.225))
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="the CPU build of the kernels needs g++")


@pytest.fixture(scope="module")
def kernels():
    return Kernels(devices.Host())


def frame_of(rng, height, width):
    return rng.randint(0, 256, (height, width, 3)).astype(np.uint8)


@CASES
@given(seed=SEEDS, height=SIDES, width=SIDES)
def test_frame_to_tensor(kernels, seed, height, width):
    frame = frame_of(np.random.RandomState(seed), height, width)
    out, plain = np.full((3, height, width), np.nan, F), np.empty((3, height, width), F)
    kernels.fill(view_of(frame), 1, (height, width), PRE, out)
    assert np.array_equal(out, twins.fill(frame, PRE, plain))
    planes = np.ascontiguousarray(frame.transpose(2, 0, 1)).transpose(1, 2, 0)  # another layout of the same pixels
    two = np.full((2, 3, height, width), np.nan, F)
    kernels.fill(np.stack([view_of(planes), view_of(frame[::-1, ::-1])]), 2, (height, width), PRE, two)
    assert np.array_equal(two[0], plain)
    assert np.array_equal(two[1], plain[:, ::-1, ::-1])


@CASES
@given(
    seed=SEEDS,
    height=SIDES,
    width=SIDES,
    new=st.tuples(SIDES, SIDES),
    corner=st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
def test_rescaled_frames(kernels, seed, height, width, new, corner):
    frame = frame_of(np.random.RandomState(seed), height, width)
    canvas = (new[0] + corner[0] + 3, new[1] + corner[1] + 1)
    out = np.full((*canvas, 3), 7, np.uint8)
    kernels.rescale(view_of(frame), (height, width), new, canvas, corner, out)
    assert np.array_equal(out, twins.rescale(frame, new, canvas, corner))


@CASES
@given(
    seed=SEEDS,
    height=SIDES,
    width=SIDES,
    kind=st.sampled_from(["square-pad", "anisotropic"]),
    corner=st.tuples(st.floats(-300, 300, width=32), st.floats(-300, 300, width=32)),
    extent=st.tuples(st.floats(0, 400, width=32), st.floats(0, 400, width=32)),
    side=st.sampled_from([1, 7, 32]),
)
def test_crops(kernels, seed, height, width, kind, corner, extent, side):
    frame, crop = frame_of(np.random.RandomState(seed), height, width), Crop(kind, side, 1.2)
    boxes = np.array([[*corner, *np.add(corner, extent)], [0, 0, width, height]], F)
    region = cropping.locate(boxes, crop)
    faces = Faces(np.concatenate([boxes, boxes]), np.array([0, 0, -1, -1], np.int32), 4)
    sample, corners = np.full((4, 4), np.nan, F), np.full((4, 4), np.nan, F)
    kernels.locate(faces, crop, sample, corners)
    assert np.array_equal(sample[:2], region.sample_xyxy_px)
    assert np.array_equal(corners[:2], region.decode_xyxy_px)
    out, plain = np.full((4, 3, side, side), np.nan, F), np.empty((2, 3, side, side), F)
    kernels.cut(view_of(frame), faces, sample, crop, out)
    assert np.array_equal(out[:2], twins.cut(frame, region.sample_xyxy_px, crop, plain))
    assert not out[2:].any()


@CASES
@given(seed=SEEDS, side=st.integers(1, 40), target=st.integers(1, 40), count=st.integers(1, 3))
def test_resize_and_normalise(kernels, seed, side, target, count):
    chips = np.random.RandomState(seed).rand(count, 3, side, side).astype(F)
    out = np.full((count, 3, target, target), np.nan, F)
    kernels.resize_normalise(chips, count, (side, target), PRE, out)
    assert np.array_equal(out, twins.resize_normalise(chips, target, PRE))


def found_by(kernels, loc, conf, landmarks, batch, size, threshold):
    """(detections of each frame, the raw rows and counts)"""
    most, everything = kernels.most(batch, size), batch * conf.shape[1]
    rows, counts = np.full((batch, C.KEEP_TOP_K, FACE), np.nan, F), np.full(batch, -1, np.int32)
    buffers = Finding(
        np.empty(everything, np.int64),
        np.zeros(1, np.int32),
        np.empty(most, np.int64),
        np.empty((most, FACE), F),
        rows,
        counts,
    )
    kernels.find((loc, conf, landmarks), batch, size, threshold, buffers)
    parts = [rows[b, : counts[b]] for b in range(batch)]
    return [detect.Detections(r[:, :4], r[:, 4], r[:, 5:].reshape(-1, 5, 2)) for r in parts], rows, counts


@CASES
@given(
    seed=SEEDS,
    size=st.tuples(st.integers(16, 90), st.integers(16, 90)),
    batch=st.integers(1, 3),
    faces=st.integers(0, 60),
    ties=st.booleans(),
    threshold=st.sampled_from([0.0, 0.5, 0.8, 0.99]),
)
def test_detections(kernels, seed, size, batch, faces, ties, threshold):
    rng, anchors = np.random.RandomState(seed), len(detect.anchors(*size))
    loc, landmarks = (rng.normal(0, 1.5, (batch, anchors, n)).astype(F) for n in (4, 10))
    conf = (rng.rand(batch, anchors, 2) * 0.4).astype(F)
    at = rng.randint(0, anchors, (batch, faces))
    for b in range(batch):
        conf[b, at[b], 1] = (rng.choice([0.6, 0.9], faces) if ties else rng.uniform(0.45, 1, faces)).astype(F)
    found, rows, counts = found_by(kernels, loc, conf, landmarks, batch, size, threshold)
    plain = twins.find(loc, conf, landmarks, size, threshold)
    for mine, twin, walk in zip(found, plain, detect.find(loc, conf, landmarks, size, threshold), strict=True):
        assert np.array_equal(mine.scores, twin.scores)
        assert np.array_equal(mine.boxes_xyxy_px, twin.boxes_xyxy_px)
        assert np.array_equal(mine.points_xy_px, twin.points_xy_px)
        assert np.array_equal(mine.scores, walk.scores)  # the CPU's path differs by exp's last bits alone
        assert np.allclose(mine.boxes_xyxy_px, walk.boxes_xyxy_px, rtol=1e-5, atol=1e-3)
    factors = rng.uniform(0.5, 3, (batch, 2)).astype(F)
    for each in (1, 1000):
        faces = Faces(np.full((9, 4), np.nan, F), np.full(9, 77, np.int32), 9)
        kernels.slots(rows, counts, factors, batch, each, faces)
        boxes = [p.boxes_xyxy_px[:each] * np.tile(f, 2) for p, f in zip(plain, factors, strict=True)]
        whole = np.concatenate(boxes)[:9]
        frames = np.repeat(np.arange(batch), [len(b) for b in boxes])[:9]
        assert np.array_equal(faces.boxes[: len(whole)], whole)
        assert faces.frame_of.tolist() == [*frames.tolist(), *[-1] * (9 - len(whole))]
        assert not faces.boxes[len(whole) :].any()


@CASES
@given(
    seed=SEEDS,
    count=st.integers(1, 5),
    each=st.integers(1, 68),
    depth=st.sampled_from([2, 3]),
    pad=st.tuples(st.integers(0, 200), st.integers(0, 200)),
    scale=st.floats(0.05, 8.0),
)
def test_points(kernels, seed, count, each, depth, pad, scale):
    rng = np.random.RandomState(seed)
    points, regions = rng.normal(0.5, 1, (count, each, depth)).astype(F), rng.normal(0, 300, (count, 4)).astype(F)
    out = np.full_like(points, np.nan)
    kernels.points_to_frame(points, points.shape, regions, out)
    assert np.array_equal(out, twins.points_to_frame(points, regions))
    xy = np.ascontiguousarray(out[:, :, :2])
    back = np.full_like(xy, np.nan)
    kernels.points_to_original(xy, xy.size, pad, scale, back)
    assert np.array_equal(back, twins.points_to_original(xy, pad, scale))


def test_more_candidates_than_are_kept_are_the_best_ones(kernels, monkeypatch):
    monkeypatch.setattr("fexruntime.contracts.detection.TOP_K", 5)
    rng, size = np.random.RandomState(0), (64, 64)
    anchors = len(detect.anchors(*size))
    loc, landmarks = np.zeros((2, anchors, 4), F), np.zeros((2, anchors, 10), F)
    conf = rng.uniform(0.5, 1, (2, anchors, 2)).astype(F)
    found, _, _ = found_by(kernels, loc, conf, landmarks, 2, size, 0.5)
    walk = detect.find(loc, conf, landmarks, size, 0.5)
    assert [d.scores.tolist() for d in found] == [d.scores.tolist() for d in walk]
    assert sum(map(len, found)) > 0


def test_a_kind_of_crop_without_a_kernel_is_refused(kernels):
    with pytest.raises(InputError, match="no kernel for crops of kind 'rotated'"):
        kernels.cut(None, Faces(None, None, 1), None, Crop("rotated", 8, 1.0), None)


def test_the_library_is_kept_and_found_again(tmp_path):
    for _ in range(2):
        kernels = Kernels(devices.Host(Store(tmp_path / "store")))
        out, white = np.empty((3, 2, 2), F), np.full((2, 2, 3), 255, np.uint8)
        kernels.fill(view_of(white), 1, (2, 2), Preprocessing(), out)
        assert (out == 255).all()
    assert [i.key["kind"] for i in Store(tmp_path / "store").items()] == ["kernels for the CPU"]


def _nvrtc() -> bool:
    try:
        return bool(nvrtc.version())
    except EnvironmentMissingError:
        return False


@pytest.mark.nvrtc
@pytest.mark.skipif(not _nvrtc(), reason="NVRTC is not installed: pip install 'fexport[nvrtc]'")
@pytest.mark.parametrize("architecture", ["sm_87", "sm_90", "sm_120"])
def test_nvrtc_compiles_them_and_they_are_kept(architecture, tmp_path, monkeypatch):
    store = Store(tmp_path / "store")
    made = nvrtc.cubin(architecture, store)
    assert made[:4] == b"\x7fELF"
    for kernel in devices.signatures():
        assert kernel.encode() in made
    (item,) = store.items()
    assert (item.key["architecture"], item.key["nvrtc"]) == (architecture, nvrtc.version())
    monkeypatch.setattr(nvrtc, "compiled", lambda *given: pytest.fail("it was kept"))
    assert nvrtc.cubin(architecture, store) == made


@pytest.mark.nvrtc
@pytest.mark.skipif(not _nvrtc(), reason="NVRTC is not installed: pip install 'fexport[nvrtc]'")
@pytest.mark.parametrize("path", [*nvrtc.of_wheels()], ids=lambda path: path.name)
def test_every_nvrtc_that_is_here_compiles_them(path, monkeypatch):
    """CI has 12.2 too, JetPack 6.0's, which changes the thread's locale."""
    encoding = locale.nl_langinfo(locale.CODESET)
    monkeypatch.setattr(nvrtc, "_library", lambda: nvrtc.loaded(str(path)))
    for architecture in ("sm_87", "sm_90"):
        assert nvrtc.compiled(devices.SOURCE.read_bytes(), architecture)[:4] == b"\x7fELF"
    assert locale.nl_langinfo(locale.CODESET) == encoding


@pytest.mark.nvrtc
@pytest.mark.skipif(not _nvrtc(), reason="NVRTC is not installed: pip install 'fexport[nvrtc]'")
def test_what_nvrtc_refuses_is_said():
    with pytest.raises(EnvironmentMissingError, match=r"NVRTC .* does not compile the kernels for sm_10: "):
        nvrtc.cubin("sm_10", None)
    with pytest.raises(EnvironmentMissingError, match="error: "):
        nvrtc.compiled(b"nonsense;", "sm_90")


def test_without_nvrtc_the_message_names_the_package(monkeypatch):
    nvrtc._library.cache_clear()
    monkeypatch.setattr(nvrtc, "_NAMES", ("libnvrtc-that-is-not-there.so",))
    monkeypatch.setattr(nvrtc, "of_wheels", lambda: iter(()))
    with pytest.raises(EnvironmentMissingError, match=r"pip install '.*nvrtc"):
        nvrtc.cubin("sm_90", None)
    nvrtc._library.cache_clear()


def test_every_kernel_of_the_source_is_known():
    names = set(re.findall(r"KERNEL\((\w+)\)", devices.SOURCE.read_text(encoding="utf-8")))
    assert set(devices.signatures()) == names
    assert len(names) >= 10
    assert ctypes.sizeof(ctypes.c_longlong) == 8


def test_constants_of_many_frame_sizes_make_room_for_each_other():
    from fexruntime.ops.kernels import MOST_TABLES

    given, dropped = [], []

    class Counting(devices.Host):
        def put(self, array):
            given.append(super().put(array))
            return given[-1]

        def drop(self, buffer):
            dropped.append(buffer)

    kernels = Kernels(Counting())
    frame, plain = np.zeros((8, 8, 3), np.uint8), np.empty((3, 8, 8), F)
    for size in range(9, 9 + 2 * MOST_TABLES):
        out = np.empty((8, 8, 3), np.uint8)
        kernels.rescale(view_of(np.zeros((size, size, 3), np.uint8)), (size, size), (8, 8), (8, 8), (0, 0), out)
        out = np.empty((3, 8, 8), F)
        kernels.fill(view_of(frame), 1, (8, 8), PRE, out)
    assert np.array_equal(out, twins.fill(frame, PRE, plain))
    assert len(given) - len(dropped) == MOST_TABLES
    # those of every frame were put there once
    assert sum(1 for table in given if table.size == 3) == 2

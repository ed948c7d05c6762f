"""The CUDA kernels, compiled by g++, give the bits of their NumPy twins; NVRTC compiles them for each architecture."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fexruntime import crop as cropping
from fexruntime import detect
from fexruntime.contracts import Crop, Preprocessing
from fexruntime.errors import InputError
from fexruntime.ops import device as devices
from fexruntime.ops import twins
from fexruntime.ops.kernels import Kernels
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
    kernels.fill(frame, (height, width), PRE, out)
    assert np.array_equal(out, twins.fill(frame, PRE, plain))


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
    sample = cropping.locate(boxes, crop).sample_xyxy_px
    out, plain = np.full((2, 3, side, side), np.nan, F), np.empty((2, 3, side, side), F)
    kernels.cut(frame, (height, width), sample, 2, crop, out)
    assert np.array_equal(out, twins.cut(frame, sample, crop, plain))


@CASES
@given(seed=SEEDS, side=st.integers(1, 40), target=st.integers(1, 40), count=st.integers(1, 3))
def test_resize_and_normalise(kernels, seed, side, target, count):
    chips = np.random.RandomState(seed).rand(count, 3, side, side).astype(F)
    out = np.full((count, 3, target, target), np.nan, F)
    kernels.resize_normalise(chips, count, (side, target), PRE, out)
    assert np.array_equal(out, twins.resize_normalise(chips, target, PRE))


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
    found = kernels.find(loc, conf, landmarks, batch, size, threshold)
    plain = twins.find(loc, conf, landmarks, size, threshold)
    for mine, twin, walk in zip(found, plain, detect.find(loc, conf, landmarks, size, threshold), strict=True):
        assert np.array_equal(mine.scores, twin.scores)
        assert np.array_equal(mine.boxes_xyxy_px, twin.boxes_xyxy_px)
        assert np.array_equal(mine.points_xy_px, twin.points_xy_px)
        assert np.array_equal(mine.scores, walk.scores)  # the CPU's path differs by exp's last bits alone
        assert np.allclose(mine.boxes_xyxy_px, walk.boxes_xyxy_px, rtol=1e-5, atol=1e-3)


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
    found = kernels.find(loc, conf, landmarks, 2, size, 0.5)
    walk = detect.find(loc, conf, landmarks, size, 0.5)
    assert [d.scores.tolist() for d in found] == [d.scores.tolist() for d in walk]
    assert sum(map(len, found)) > 0


def test_a_kind_of_crop_without_a_kernel_is_refused(kernels):
    with pytest.raises(InputError, match="no kernel for crops of kind 'rotated'"):
        kernels.cut(None, (4, 4), None, 1, Crop("rotated", 8, 1.0), None)


def test_the_library_is_kept_and_found_again(tmp_path):
    for _ in range(2):
        kernels = Kernels(devices.Host(Store(tmp_path / "store")))
        out = kernels.fill(np.full((2, 2, 3), 255, np.uint8), (2, 2), Preprocessing(), np.empty((3, 2, 2), F))
        assert (out == 255).all()
    assert [i.key["kind"] for i in Store(tmp_path / "store").items()] == ["kernels for the CPU"]


def _nvrtc() -> Path | None:
    spec = find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        found = sorted(p for p in Path(folder).rglob("libnvrtc.so*") if re.fullmatch(r"libnvrtc\.so\.\d+", p.name))
        if found:
            return found[-1]
    return None


@pytest.mark.nvrtc
@pytest.mark.skipif(_nvrtc() is None, reason="NVRTC is not installed: pip install 'fexport[nvrtc]'")
@pytest.mark.parametrize("architecture", ["sm_87", "sm_90", "sm_120"])
def test_nvrtc_compiles_them(architecture, tmp_path):
    """In a process of its own: NVRTC looks for its built-ins where LD_LIBRARY_PATH says."""
    library, out = _nvrtc(), tmp_path / "kernels.cubin"
    environment = {"LD_LIBRARY_PATH": str(library.parent), "PYTHONPATH": ":".join(p for p in sys.path if p)}
    words = [sys.executable, "-c", COMPILE, str(library), architecture, str(out)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    made = out.read_bytes()
    assert made[:4] == b"\x7fELF"
    for kernel in devices.signatures():
        assert kernel.encode() in made


def test_every_kernel_of_the_source_is_known():
    names = set(re.findall(r"KERNEL\((\w+)\)", devices.SOURCE.read_text()))
    assert set(devices.signatures()) == names
    assert len(names) >= 10
    assert ctypes.sizeof(ctypes.c_longlong) == 8


COMPILE = """
import ctypes, sys
from fexruntime.ops.device import CUDA_OPTIONS, SOURCE
lib, (path, arch, out) = None, sys.argv[1:]
lib = ctypes.CDLL(path)
program = ctypes.c_void_p()
source = SOURCE.read_bytes()
assert lib.nvrtcCreateProgram(ctypes.byref(program), source, b"kernels.cu", 0, None, None) == 0
options = [f"--gpu-architecture={arch}".encode(), *(o.encode() for o in CUDA_OPTIONS)]
code = lib.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
if code:
    size = ctypes.c_size_t()
    lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetProgramLog(program, log)
    sys.exit(log.value.decode())
size = ctypes.c_size_t()
assert lib.nvrtcGetCUBINSize(program, ctypes.byref(size)) == 0
cubin = ctypes.create_string_buffer(size.value)
assert lib.nvrtcGetCUBIN(program, cubin) == 0
open(out, "wb").write(cubin.raw)
"""

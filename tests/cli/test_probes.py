"""Each of doctor's probes: what it says of an environment that is wrong, and that it is silent of one that is right."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from command import fexport

from fexport import probes


def test_two_onnxruntimes():
    assert probes.two_onnxruntimes({"onnxruntime": "1"}) is None
    found = probes.two_onnxruntimes({"onnxruntime": "1", "onnxruntime-gpu": "1"})
    assert not found.good
    assert found.fix == "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'fexport[gpu]'"


def test_two_opencvs():
    assert probes.two_opencvs({"opencv-python": "5"}) is None
    found = probes.two_opencvs({"opencv-python": "5", "opencv-python-headless": "5"})
    assert "overwrite each other" in found.found
    assert found.fix.startswith("pip uninstall -y opencv-python-headless opencv-python &&")


@pytest.mark.parametrize(
    ("installed", "good"),
    [
        ({}, True),
        ({"tensorrt": "10.1", "tensorrt-cu12": "10.1", "tensorrt-cu12-libs": "10.1"}, True),
        ({"tensorrt-cu12": "10.1", "tensorrt-cu13": "10.1"}, False),
        ({"tensorrt": "10.1", "tensorrt-cu12-libs": "10.0"}, False),
    ],
)
def test_two_tensorrts(installed, good):
    found = probes.two_tensorrts(installed)
    assert (found is None) is good
    if found:
        assert found.fix.endswith("pip install tensorrt")


@pytest.mark.parametrize(
    ("driver", "cuda", "good"),
    [
        ("550.54", "cu12", True),
        ("515.1", "cu12", False),
        ("550.54", "cu13", False),
        ("580.1", "cu13", True),
        (None, "cu13", True),
    ],
)
def test_a_driver_that_is_too_old_for_tensorrt(driver, cuda, good):
    found = probes.tensorrt_driver(driver, {f"tensorrt-{cuda}-libs": "10.1"})
    assert (found is None) is good
    assert found is None or driver in found.found


def test_a_provider_that_lacks_a_library_names_it():
    lacks = "libcudnn.so.9: cannot open shared object file: No such file or directory"
    assert probes.cuda_provider({"onnxruntime": "1"}, lambda: lacks) is None
    assert probes.cuda_provider({"onnxruntime-gpu": "1"}, lambda: "") is None
    found = probes.cuda_provider({"onnxruntime-gpu": "1"}, lambda: lacks)
    assert found.found == "installed, but cannot be used: libcudnn.so.9 missing"
    assert "cudnn" in found.fix
    assert (
        "driver" in probes.cuda_provider({"onnxruntime-gpu": "1"}, lambda: lacks.replace("cudnn.so.9", "cuda.so.1")).fix
    )


def test_a_provider_is_asked_for_what_it_lacks_itself(tmp_path, monkeypatch, capsys):
    """A stand-in for the wheel: its provider's library needs one that is not there, whatever CUDA's version is."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler, on Linux")
    capi = tmp_path / "onnxruntime" / "capi"
    capi.mkdir(parents=True)
    (tmp_path / "empty.c").write_text("int nothing;", encoding="utf-8")

    def make(name, *more):
        subprocess.run([compiler, "-shared", "-fPIC", "-o", name, tmp_path / "empty.c", *more], check=True)

    make(capi / "libonnxruntime_providers_shared.so")
    make(tmp_path / "libcudart.so.99", "-Wl,-soname,libcudart.so.99")
    make(capi / "libonnxruntime_providers_cuda.so", "-Wl,--no-as-needed", tmp_path / "libcudart.so.99")
    wheel = SimpleNamespace(
        __file__=str(tmp_path / "onnxruntime" / "__init__.py"), preload_dlls=lambda: sys.stdout.write("Failed to load")
    )
    monkeypatch.setattr("fexruntime.backends.onnxruntime.import_onnxruntime", lambda: wheel)
    found = probes.cuda_provider({"onnxruntime-gpu": "1"})
    assert found.found == "installed, but cannot be used: libcudart.so.99 missing"
    assert capsys.readouterr().out == ""
    wheel.preload_dlls = lambda: ctypes.CDLL(str(tmp_path / "libcudart.so.99"))
    assert probes.cuda_provider({"onnxruntime-gpu": "1"}) is None


@pytest.mark.parametrize(
    ("flags", "says"),
    [("sse4_2", "no AVX2"), ("avx2", "no VNNI"), ("avx2 avx512_vnni", "AVX2 and VNNI"), ("avx2 avx_vnni", "AVX2 and")],
)
def test_vector_units(tmp_path, flags, says):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: fpu {flags}\n", encoding="utf-8")
    assert says in probes.vector_units(probes.cpu_flags(tmp_path / "cpuinfo"), "x86_64").found
    assert probes.vector_units([], "aarch64") is None
    assert probes.cpu_flags(tmp_path / "missing") == []


def test_threads_above_the_quota():
    assert probes.threads_over_quota({"OMP_NUM_THREADS": "2"}, 2) is None
    found = probes.threads_over_quota({"OMP_NUM_THREADS": "16", "MKL_NUM_THREADS": "x"}, 2)
    assert "OMP_NUM_THREADS=16" in found.found
    assert found.fix == "export OMP_NUM_THREADS=2"


def test_caches_that_do_not_serve(tmp_path, monkeypatch):
    assert probes.cache_folder(tmp_path / "new", "V") is None
    assert "no home" in probes.cache_folder(None, "V").found
    (tmp_path / "file").touch()
    assert "is not a folder" in probes.cache_folder(tmp_path / "file" / "x", "V").found
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    assert probes.cache_folder(tmp_path / "open", "V").fix.startswith("chmod go-w")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "cannot be written" in probes.cache_folder(tmp_path / "new", "V").found
    monkeypatch.setattr(os, "getuid", lambda: -1)
    (tmp_path / "mine").mkdir(mode=0o700)
    assert "another user" in probes.cache_folder(tmp_path / "mine", "V").found


def test_a_module_that_cannot_be_imported_says_why(tmp_path, monkeypatch):
    (tmp_path / "broken_for_doctor.py").write_text(
        "raise OSError('libGL.so.1: cannot open shared object file')", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert "libGL.so.1" in probes.importable("broken_for_doctor")
    assert probes.importable("json") is None
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "libGL.so.1" in probes.importable_elsewhere("broken_for_doctor")
    assert probes.importable_elsewhere("json") is None


def test_the_command_shows_them(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    (tmp_path / "ncnn.py").write_text(
        "raise ImportError('libgomp.so.1: cannot open shared object file')", encoding="utf-8"
    )
    done = fexport(
        "doctor", FEXPORT_CACHE=str(tmp_path / "cache"), OMP_NUM_THREADS="4096", PYTHONPATH=str(tmp_path), COLUMNS="400"
    )
    assert done.returncode == 0, done.stdout
    for text in ("OMP_NUM_THREADS=4096", "others may write into", "libgomp.so.1", "vector units"):
        assert text in done.stdout, done.stdout

"""`benchmarks/gpu.py`, end to end on stand-ins of the driver, TensorRT and ONNX Runtime's CUDA provider; and how parts are carried."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu.py"
TESTS = Path(__file__).parent
STANDINS = """
import os, sys, time
part = sys.argv[2] if len(sys.argv) > 2 and sys.argv[1] == "part" else ""
if part == os.environ.get("STANDIN_ABORT"):
    os.abort()
if part == os.environ.get("STANDIN_HANG"):
    time.sleep(600)
sys.path.insert(0, {tests!r})
import ctypes, importlib.machinery
import cuda_standin, tensorrt_standin
from fexruntime import driver, engines
from fexruntime.ops import nvrtc
driver.LIBRARY = {driver!r}
library = ctypes.CDLL(driver.LIBRARY)
library.standin_kernels({kernels!r}.encode())
library.standin_count.restype = library.standin_open.restype = ctypes.c_longlong
nvrtc.cubin = lambda architecture, store: b"\\x7fELF of " + architecture.encode()
nvrtc.version = lambda: "0.0"
engines.FACE_BATCHES = (1, 4)

def queue(stream, run):
    cuda_standin.in_stream(library, stream, run)

trt = tensorrt_standin.standin("8.6.0", queue=queue)[0]
engines.import_tensorrt = lambda: trt
from fexruntime.backends import onnxruntime_cuda
onnxruntime_cuda.import_onnxruntime = lambda: cuda_standin.cuda_provider(library, [])
lean = tensorrt_standin.standin("10.16.1.11", queue=queue)[0]
lean.__spec__ = importlib.machinery.ModuleSpec("tensorrt_lean", None)
sys.modules["tensorrt_lean"] = lean
"""


@pytest.fixture
def host(driver_library, tmp_path):
    """Runs the script on a host with a GPU."""
    place = tmp_path / "host"
    place.mkdir()
    kernels = str(Path(driver_library).with_name("kernels.so"))
    program = STANDINS.format(tests=str(TESTS), driver=driver_library, kernels=kernels)
    (place / "sitecustomize.py").write_text(program, encoding="utf-8")

    def run(*words, **environment):
        return called("run", "--out", tmp_path / "out", *words, PYTHONPATH=str(place), **environment)

    return run


def called(*words, **environment):
    words = [sys.executable, str(SCRIPT), *map(str, words)]
    return subprocess.run(words, capture_output=True, encoding="utf-8", env=os.environ | environment, check=False)


def result(tmp_path):
    return json.loads((tmp_path / "out" / "gpu.json").read_text(encoding="utf-8"))


@pytest.mark.skipif(shutil.which("g++") is None, reason="the stand-in needs g++")
def test_everything_is_measured_and_kept(host, tmp_path):
    done = host("--bundle", "edge", "--rounds", 3, "--size", "512x512", "--seconds", 400)
    assert done.returncode == 0, done.stdout + done.stderr
    said = result(tmp_path)
    parts = said["parts"]
    assert {name for name, part in parts.items() if part["status"] == "done"} == set(parts) - {"pyfeat"}
    assert parts["pyfeat"]["why"] == "py-feat is not installed here"
    assert said["gpu"]["name"] == "Stand-in"
    names = {entry["kernel"] for entry in parts["kernels"]["kernels"]}
    assert len(names) >= 10
    assert all(entry["passed"] and entry["cases"] >= 10 and entry["ms"] > 0 for entry in parts["kernels"]["kernels"])
    for part in ("provider", "tensorrt"):
        (network,) = parts[part]["networks"]
        assert network["passed"]
        assert network["ms"]["1"] > 0
        assert {c["output"] for c in network["checks"]} >= {"conf", "loc"}
    for part in ("rows_tensorrt", "rows_provider"):
        (run,) = parts[part]["runs"]
        assert run["passed"]
        assert run["faces"] == 1
        assert len(run["walls_ms"]) == 3
        assert {"upload", "faces network", "finding", "copy back"} <= set(run["stages_ms"])
        assert run["engine_share"] > 0
    assert parts["rows_tensorrt"]["runs"][0]["vram_mb"] > 1
    assert parts["lean"]["built_by"] == "8.6.0"
    assert parts["lean"]["networks"][0]["tensorrt"] == "10.16.1.11"
    claims = said["claims"]
    assert claims["8 times as fast as py-feat's bf16"] is None
    for claim in (
        "kernels give NumPy's bits on the device",
        "TensorRT within every gate",
        "rows within the fp16 budgets",
    ):
        assert claims[claim] is True
    assert claims["a plan of 8.6 runs in the lean runtime"] is True


@pytest.mark.skipif(shutil.which("g++") is None, reason="the stand-in needs g++")
def test_a_part_that_ends_the_process_and_one_that_hangs_lose_nothing_else(host, tmp_path):
    done = host(
        "--bundle", "edge", "--only", "environment,kernels,bundles,provider,reference", "--seconds", 45,
        STANDIN_ABORT="kernels", STANDIN_HANG="provider",
    )  # fmt: skip
    assert done.returncode == 3
    parts = result(tmp_path)["parts"]
    assert parts["environment"]["status"] == parts["bundles"]["status"] == "done"
    assert "the process ended with signal 6" in parts["kernels"]["why"]
    assert "it did not end within" in parts["provider"]["why"]
    assert parts["reference"] == {"status": "no time was left"}  # the whole keeps its limit
    assert "kernels: failed" in done.stdout


def test_without_a_gpu_it_says_so_in_one_line(tmp_path):
    done = called("run", "--out", tmp_path / "out", CUDA_VISIBLE_DEVICES="-1")
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("no GPU: ")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def staging(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu_staging

    return gpu_staging


def test_claims_are_of_the_fastest_run_and_of_the_same_work(staging):
    import gpu

    run = {"pipeline": "detectorv2", "passed": True, "faces": 1, "engine_share": 0.9}
    parts = {
        "rows_tensorrt": {"runs": [run | {"p50_ms": 9.0, "engine_share": 0.6}, run | {"p50_ms": 4.0}]},
        "rows_provider": {"runs": [run | {"p50_ms": 1.0, "pipeline": "faces"}]},
        "pyfeat": {"p50_ms": 36.0, "faces": 1},
    }
    said = gpu.claims(parts)
    assert [said[c] for c in said if "bf16" in c or "70 %" in c or "fp16" in c] == [True, True, True]
    for built_by, holds in (("8.6.0", True), ("10.3.0", None)):
        parts["lean"] = {"built_by": built_by, "networks": [{"passed": True}]}
        assert gpu.claims(parts)["a plan of 8.6 runs in the lean runtime"] is holds
    parts["pyfeat"]["faces"] = 2
    assert gpu.claims(parts)["8 times as fast as py-feat's bf16"] is None
    parts["rows_provider"]["failed"] = ["small: no such engine"]
    parts["rows_tensorrt"]["runs"].pop()
    said = gpu.claims(parts)
    assert (said["rows within the fp16 budgets"], said["engines are 70 % of the time end to end"]) == (False, False)


def test_pieces_are_made_carried_and_joined(tmp_path, staging):
    from fexruntime.bundle import edge_bundle_path

    done = called("prepare", tmp_path / "pieces", "--parts", "", "--bundle", edge_bundle_path())
    assert done.returncode == 0, done.stderr
    assert [p.name for p in (tmp_path / "pieces").iterdir()] == ["p000"]
    done = called("take", tmp_path / "pieces" / "p000", tmp_path / "stage")
    assert "all 1 pieces are here" in done.stdout
    there = tmp_path / "stage" / "tree" / "bundles" / "edge"
    assert {p.name: p.read_bytes() for p in there.iterdir()} == {
        p.name: p.read_bytes() for p in edge_bundle_path().iterdir()
    }
    done = called("prepare", tmp_path / "pieces")
    assert "has something in it" in done.stderr
    assert "no part 'tensorflow'" in called("prepare", tmp_path / "more", "--parts", "tensorflow").stderr


def test_a_piece_that_is_not_whole_is_refused(tmp_path, staging):
    tree = tmp_path / "made" / "tree"
    tree.mkdir(parents=True)
    (tree / "noise").write_bytes(os.urandom(300_000))
    count, _ = staging.split(tree, tmp_path / "made", most=100_000)
    assert count >= 3
    pieces = [tmp_path / "made" / f"p{k:03d}" for k in range(count)]
    assert "lacking" in staging.taken(pieces[1], tmp_path / "stage")
    bad = pieces[0] / "part.000"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:-1])
    with pytest.raises(SystemExit, match=r"part\.000 is not what was sent"):
        staging.taken(pieces[0], tmp_path / "stage")
    bad.write_bytes(whole)
    said = [staging.taken(piece, tmp_path / "stage") for piece in pieces]
    assert "unpacked" in said[-1]
    assert (tmp_path / "stage" / "tree" / "noise").read_bytes() == (tree / "noise").read_bytes()
    with pytest.raises(SystemExit, match="is no piece"):
        staging.taken(tmp_path, tmp_path / "stage")


@pytest.mark.skipif(not all(map(shutil.which, ("gcc", "readelf"))), reason="stubs are made with gcc and binutils")
def test_stubs_have_the_names_and_versions_that_are_asked_for(tmp_path, staging):
    """A library that wants cuDNN is loaded with a stub in its place."""
    real, wants, stubs = (tmp_path / n for n in ("real", "wants", "stubs"))
    for folder in (real, wants):
        folder.mkdir()
    gcc = ["gcc", "-shared", "-fPIC", "-x", "c", "-"]
    (real / "map").write_text("libcudnn.so.8 { global: cudnnCreate; };\n", encoding="utf-8")
    soname = ["-Wl,-soname,libcudnn.so.8", f"-Wl,--version-script,{real / 'map'}"]
    subprocess.run(
        [*gcc, *soname, "-o", str(real / "libcudnn.so.8")],
        input="int cudnnCreate(void) { return 7; }",
        encoding="utf-8",
        check=True,
    )
    link = ["-x", "none", str(real / "libcudnn.so.8"), "-o", str(wants / "libwants.so"), f"-Wl,-rpath,{stubs}"]
    subprocess.run(
        [*gcc, *link],
        input="int cudnnCreate(void); int ask(void) { return cudnnCreate(); }",
        encoding="utf-8",
        check=True,
    )
    assert staging.wanted_symbols(wants) == {"libcudnn.so.8": {"cudnnCreate"}}
    staging.stubs(wants, stubs)
    assert [p.name for p in stubs.iterdir()] == ["libcudnn.so.8"]
    ctypes.CDLL(str(wants / "libwants.so"), mode=os.RTLD_NOW)


def test_the_python_of_a_part(tmp_path, staging):
    assert staging.python_of(None, True) == (sys.executable, {})
    assert staging.python_of(str(tmp_path), True) == (sys.executable, {})
    (tmp_path / "site").mkdir()
    python, environment = staging.python_of(str(tmp_path), False)
    assert (python, environment["PYTHONPATH"].split(os.pathsep)[0]) == (sys.executable, str(tmp_path / "site"))
    (tmp_path / "python310" / "bin").mkdir(parents=True)
    (tmp_path / "python310" / "bin" / "python3.10").touch()
    python, environment = staging.python_of(str(tmp_path), True)
    assert python == str(tmp_path / "python310" / "bin" / "python3.10")
    assert str(tmp_path / "stubs") in environment["LD_LIBRARY_PATH"]

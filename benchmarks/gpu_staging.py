"""How parts reach a GPU host that no package index is reached from: pieces of at most 55 MiB, each checked when it arrives.

`prepare` takes wheels from the package index through pip: ONNX Runtime for CUDA, NVRTC, TensorRT's lean runtime of 10.16, and all of
TensorRT 8.6.0, the last version whose wheel holds it. That one is for Python 3.10, which is staged with it, and wants libraries of
cuDNN and cuBLAS when it is loaded; none of their tactics is asked for, so libraries of the same names and symbols do, made with gcc.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

MIB = 1 << 20
PIECE = 55 * MIB
TREE, LIST = "tree", "pieces.json"
_NVRTC = "nvidia-cuda-nvrtc==13.0.88"
WHEELS = {
    "onnxruntime": ("site", "3.12", ("onnxruntime-gpu==1.31.1",)),
    "nvrtc": ("site", "3.12", (_NVRTC,)),
    "lean": ("site", "3.12", ("tensorrt-lean-cu13-libs==10.16.1.11", "tensorrt-lean-cu13-bindings==10.16.1.11")),
    "tensorrt": ("site310", "3.10", ("tensorrt==8.6.0", "numpy==1.26.4", "opencv-python-headless==4.10.0.84", _NVRTC)),
}
"""By what is asked for: the folder that its wheels are unpacked into, the Python they are for, and which they are."""
_LEFT_OUT = ("onnxruntime/transformers/", "onnxruntime/tools/", "onnxruntime/quantization/", "/tests/")
_STUBBED = ("libcudnn.so", "libcublas.so", "libcublasLt.so")


def add_verbs(verbs: Any) -> None:
    """`prepare` and `take`."""
    prepare = verbs.add_parser("prepare", help="make the pieces, here")
    prepare.add_argument("pieces", type=Path)
    prepare.add_argument("--parts", default=",".join(WHEELS), help="which, by comma")
    prepare.add_argument("--bundle", action="append", type=Path, default=[], help="take these along")
    prepare.add_argument("--python310", type=Path, help="a Python 3.10's prefix, to be staged for TensorRT 8.6.0")
    prepare.add_argument(
        "--wheels", type=Path, help="a folder of wheels that were downloaded before; pip looks nowhere else"
    )
    prepare.set_defaults(do=_prepare)
    take = verbs.add_parser("take", help="take a piece, there")
    take.add_argument("piece", type=Path)
    take.add_argument("stage", type=Path)
    take.set_defaults(do=lambda chosen: print(taken(chosen.piece, chosen.stage)))


def _prepare(chosen: argparse.Namespace) -> None:
    if chosen.pieces.exists() and any(chosen.pieces.iterdir()):
        raise SystemExit(f"{str(chosen.pieces)!r} has something in it: give a new folder")
    unknown = [p for p in chosen.parts.split(",") if p and p not in WHEELS]
    if unknown:
        raise SystemExit(f"no part {unknown[0]!r}: there are {', '.join(WHEELS)}")
    tree = chosen.pieces / TREE
    tree.mkdir(parents=True)
    try:
        for part in filter(None, chosen.parts.split(",")):
            folder, python, names = WHEELS[part]
            unpacked(downloaded(names, python, chosen.wheels, chosen.pieces / "wheels"), tree / folder)
        if "tensorrt" in chosen.parts:
            stubs(tree / "site310" / "tensorrt", tree / "stubs")
            python310(chosen.python310, tree / "python310")
        for bundle in chosen.bundle:
            shutil.copytree(bundle, tree / "bundles" / bundle.name)
        count, size = split(tree, chosen.pieces)
    finally:
        for made in (tree, chosen.pieces / "wheels"):
            shutil.rmtree(made, ignore_errors=True)
    print(f"{count} pieces, {size / MIB:.0f} MiB, in {chosen.pieces}")


def downloaded(names: tuple[str, ...], python: str, wheels: Path | None, folder: Path) -> list[Path]:
    """Wheels for another Python, of the package index or a folder; SystemExit with pip's last words."""
    folder.mkdir(exist_ok=True)
    platforms = (
        *(f"manylinux_2_{n}_x86_64" for n in (34, 28, 27, 24, 17, 12)),
        "manylinux2014_x86_64",
        "manylinux2010_x86_64",
        "any",
    )
    words = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--only-binary=:all:",
        "--python-version",
        python,
    ]
    words += [w for p in platforms for w in ("--platform", p)]
    words += ["--no-index", "--find-links", str(wheels)] if wheels else []
    before = set(folder.iterdir())
    done = subprocess.run([*words, "-d", str(folder), *names], capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise SystemExit(
            f"pip could not get {', '.join(names)}: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}"
        )
    return sorted(set(folder.iterdir()) - before)


def unpacked(wheels: list[Path], folder: Path) -> None:
    """Unpack wheels, less what nobody runs, into a folder of a path."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as file:
            for name in file.namelist():
                if not any(part in name for part in _LEFT_OUT):
                    file.extract(name, folder)


def python310(prefix: Path | None, folder: Path) -> None:
    """A Python 3.10 that runs where it is put: its program, shared library and standard library, less tests and caches."""
    found = shutil.which("python3.10")
    if prefix is None and found is None:
        raise SystemExit(
            "TensorRT 8.6.0 needs a Python 3.10, and there is none here: --python310 PREFIX, or --parts without tensorrt"
        )
    program = "import sys; print(sys.version_info[:2], sys.base_prefix)"
    python = str(prefix / "bin" / "python3.10") if prefix else str(found)
    done = subprocess.run([python, "-c", program], capture_output=True, encoding="utf-8", check=False)
    if "(3, 10)" not in done.stdout:
        raise SystemExit(f"{python!r} is no Python 3.10: --python310 PREFIX")
    base = Path(done.stdout.split(") ", 1)[1].strip())
    left = shutil.ignore_patterns(
        "test", "tests", "idlelib", "tkinter", "__pycache__", "site-packages", "*.a", "ensurepip", "lib2to3", "config-*"
    )
    shutil.copytree(base / "lib" / "python3.10", folder / "lib" / "python3.10", ignore=left)
    (folder / "bin").mkdir()
    shutil.copy(base / "bin" / "python3.10", folder / "bin" / "python3.10")
    for library in (base / "lib").glob("libpython3.10.so*"):
        shutil.copy(library, folder / "lib" / library.name)
    shutil.rmtree(folder / "lib" / "python3.10" / "site-packages", ignore_errors=True)


def wanted_symbols(libraries: Path) -> dict[str, set[str]]:
    """By file name (libcudnn.so.8): the symbols of it that libraries in a folder ask for, each in the version of that name."""
    found: dict[str, set[str]] = {}
    for library in sorted(libraries.glob("*.so*")):
        said = subprocess.run(
            ["readelf", "-W", "-V", "-d", "--dyn-syms", str(library)], capture_output=True, encoding="utf-8", check=True
        ).stdout
        needed = {n for n in re.findall(r"\(NEEDED\).*\[(.*?)\]", said) if n.startswith(_STUBBED)}
        for name in needed:
            found.setdefault(name, set())
        for symbol, version in re.findall(r"UND (\w+)@+([\w.]+)", said):
            if version in needed:
                found[version].add(symbol)
    return found


def stubs(libraries: Path, folder: Path) -> None:
    """Libraries with the names and versioned symbols of those that are asked for and will not be called; a call would trap."""
    compiler = shutil.which("gcc")
    if compiler is None:
        raise SystemExit("the stub libraries of cuDNN and cuBLAS need gcc: apt-get install gcc")
    folder.mkdir(parents=True, exist_ok=True)
    for name, symbols in wanted_symbols(libraries).items():
        source = (
            "".join(f"void {s}(void) {{ __builtin_trap(); }}\n" for s in sorted(symbols)) or "typedef int nothing;\n"
        )
        script = folder / f"{name}.map"
        script.write_text(f"{name} {{ global: {' '.join(f'{s};' for s in sorted(symbols))} }};\n", encoding="utf-8")
        words = [compiler, "-shared", "-fPIC", "-x", "c", "-", f"-Wl,-soname,{name}", f"-Wl,--version-script,{script}"]
        subprocess.run([*words, "-o", str(folder / name)], input=source, encoding="utf-8", check=True)
        script.unlink()


def split(tree: Path, out: Path, most: int = PIECE) -> tuple[int, int]:
    """(pieces, bytes): the tree as one compressed archive, cut; each piece a folder with what the whole consists of."""
    archive = out / "whole.tar.xz"
    compressor = shutil.which("xz")
    if compressor:
        with archive.open("wb") as file:
            xz = subprocess.Popen([compressor, "-T0", "-6", "-c"], stdin=subprocess.PIPE, stdout=file)
            assert xz.stdin is not None
            with tarfile.open(fileobj=xz.stdin, mode="w|") as tar:
                tar.add(tree, TREE)
            xz.stdin.close()
            if xz.wait():
                raise SystemExit("xz failed: is the disk full?")
    else:
        with tarfile.open(archive, "w:xz", preset=6) as tar:
            tar.add(tree, TREE)
    digests = []
    with archive.open("rb") as file:
        for k, data in enumerate(iter(lambda: file.read(most), b"")):
            folder = out / f"p{k:03d}"
            folder.mkdir()
            (folder / f"part.{k:03d}").write_bytes(data)
            digests.append(hashlib.sha256(data).hexdigest())
    for k in range(len(digests)):
        (out / f"p{k:03d}" / LIST).write_text(json.dumps(digests), encoding="utf-8")
    size = archive.stat().st_size
    archive.unlink()
    return len(digests), size


def taken(piece: Path, stage: Path) -> str:
    """Check a piece and keep it; with the last one, unpack all. What was done; SystemExit for a piece that is not whole."""
    try:
        digests = json.loads((piece / LIST).read_text(encoding="utf-8"))
        (part,) = sorted(piece.glob("part.*"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"{str(piece)!r} is no piece: {error}") from None
    data, number = part.read_bytes(), int(part.suffix[1:])
    if number >= len(digests) or hashlib.sha256(data).hexdigest() != digests[number]:
        raise SystemExit(f"{part.name} is not what was sent: carry it again")
    stage.mkdir(parents=True, exist_ok=True)
    (stage / part.name).write_bytes(data)
    there = [stage / f"part.{k:03d}" for k in range(len(digests))]
    lacking = [path.suffix[1:] for path in there if not path.is_file()]
    if lacking:
        return f"piece {number} of {len(digests)} is here; lacking {', '.join(lacking)}"
    for path, digest in zip(there, digests, strict=True):
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise SystemExit(f"{path.name} is of other pieces: carry it again")
    with tarfile.open(fileobj=_Joined(there), mode="r|xz") as tar:
        tar.extractall(stage, filter="data") if hasattr(tarfile, "data_filter") else tar.extractall(stage)
    for path in there:
        path.unlink()
    return f"all {len(digests)} pieces are here, unpacked into {stage / TREE}"


class _Joined(io.RawIOBase):
    """Files read one after another."""

    def __init__(self, paths: list[Path]) -> None:
        self._rest: Iterator[bytes] = (block for path in paths for block in _blocks(path))
        self._left = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._left) < size:
            block = next(self._rest, None)
            if block is None:
                break
            self._left += block
        size = len(self._left) if size < 0 else size
        found, self._left = self._left[:size], self._left[size:]
        return found


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from iter(lambda: file.read(MIB), b"")


def python_of(tree: str | None, staged: bool) -> tuple[str, dict[str, str]]:
    """(Python, environment) of a part: this one with what was staged for it in front, or the staged 3.10 with TensorRT 8.6.0."""
    if tree is None:
        return sys.executable, {}
    folder = Path(tree)
    own = folder / "python310" / "bin" / "python3.10"
    site = folder / ("site310" if staged and own.is_file() else "site")
    environment = {"PYTHONPATH": os.pathsep.join(p for p in (str(site), os.environ.get("PYTHONPATH", "")) if p)}
    libraries = [str(p) for p in (folder / "stubs", site / "tensorrt", folder / "python310" / "lib")]
    if not (staged and own.is_file()):
        return sys.executable, environment if site.is_dir() else {}
    paths = os.pathsep.join([*libraries, *filter(None, [os.environ.get("LD_LIBRARY_PATH", "")])])
    return str(own), environment | {"LD_LIBRARY_PATH": paths, "PYTHONHOME": str(folder / "python310")}


def run_lean(network: Any, plan: Path) -> dict[str, Any]:
    """A plan in TensorRT's lean runtime, on the network's recorded input: how far it is from the recorded answer."""
    trt = import_module("tensorrt_lean")

    from fexruntime.cuda import Cuda

    with np.load(io.BytesIO(network.read(network.record.variants[0].canonical))) as file:
        recorded = dict(file)
    logger = trt.Logger(trt.Logger.ERROR)
    runtime = trt.Runtime(logger)
    runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan.read_bytes())
    if engine is None:
        return {
            "network": network.row.name,
            "tensorrt": trt.__version__,
            "passed": False,
            "why": "the runtime refuses the plan",
        }
    cuda = Cuda()
    context = engine.create_execution_context()
    context.set_optimization_profile_async(0, cuda.stream)
    for t in network.record.inputs:
        value = np.ascontiguousarray(recorded[f"input.{t.name}"], np.float32)
        at = cuda.empty(value.nbytes)
        cuda.write(at, value)
        context.set_input_shape(t.name, value.shape)
        context.set_tensor_address(t.name, at)
    places = {}
    for t in network.record.outputs:
        expected = recorded[f"output.{t.name}"]
        places[t.name] = (cuda.empty(expected.nbytes), expected)
        context.set_tensor_address(t.name, places[t.name][0])
    ran = context.execute_async_v3(cuda.stream)
    apart = {}
    for name, (at, expected) in places.items():
        out = np.empty_like(expected)
        cuda.read(at, out)
        apart[name] = float(np.abs(out - expected).max())
    cuda.close()
    within = bool(ran) and all(v < 1e-2 for v in apart.values())
    return {"network": network.row.name, "tensorrt": trt.__version__, "max": apart, "passed": within}

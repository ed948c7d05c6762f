"""A CUDA driver on the CPU (`cuda_standin.cpp`), and TensorRT's stand-in in its streams."""

from __future__ import annotations

import ctypes
import subprocess
from importlib.util import find_spec
from pathlib import Path

from fexruntime.ops import device

SOURCE = Path(__file__).with_name("cuda_standin.cpp")
HOST_FN = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_kept = []
"""Functions that a stream will call, which have to outlive it."""


def headers() -> list[Path]:
    """Folders with cuda.h, of NVIDIA's wheels or CUDA itself."""
    spec = find_spec("nvidia")
    wheels = [p for f in (spec.submodule_search_locations or []) for p in Path(f).glob("*/include")] if spec else []
    return [p for p in (*wheels, Path("/usr/local/cuda/include")) if (p / "cuda.h").is_file()]


def built(folder: Path) -> Path:
    """The driver's library, and beside it the kernels' own, in a folder."""
    made, kernels = folder / "libcuda-standin.so", folder / "kernels.so"
    options = ["-std=c++17", "-O1", "-shared", "-fPIC", "-Wall"]
    header = [f"-DSTANDIN_HEADER=1 -I{p}" for p in headers()[:1]]
    flags = header[0].split() if header else []
    subprocess.run(["g++", *options, *flags, str(SOURCE), "-o", str(made), "-ldl"], check=True)
    command = ["g++", *device._HOST_OPTIONS, "-", "-o", str(kernels)]
    subprocess.run(command, input=device.host_source(), text=True, check=True)
    library = ctypes.CDLL(str(made))
    library.standin_kernels(str(kernels).encode())
    library.standin_count.restype = library.standin_open.restype = ctypes.c_longlong
    return made


def in_stream(library, stream: int, run) -> None:
    """Put a function of Python's into a stream."""

    def called(_):
        run()

    _kept.append(HOST_FN(called))
    library.cuLaunchHostFunc(ctypes.c_void_p(stream), _kept[-1], None)

"""Where kernels run: constants and launches. The CPU's device runs the same source, compiled by g++.

A launch's arguments travel as the CUDA driver takes them, an array of pointers to values, so one launcher serves all.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fexruntime.errors import EnvironmentMissingError
from fexruntime.store import Store

SOURCE = Path(__file__).with_name("kernels.cu")
BLOCK = 256
"""Threads of a block."""
CUDA_OPTIONS = ("--std=c++17", "--fmad=false", '-DKERNEL(name)=extern "C" __global__ void name')
"""NVRTC's options, beside the architecture's."""
_HOST_OPTIONS = ("-std=c++17", "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-Wall", "-Wextra", "-x", "c++")

Argument = Any
"""A device's buffer, or a NumPy scalar of the kernel's own type (an address is a uint64)."""


class Device(Protocol):
    """What the kernels ask of a device."""

    def put(self, array: NDArray[Any]) -> Any:
        """A buffer with the content of a host array."""
        ...

    def drop(self, buffer: Any) -> None:
        """Give such a buffer back, once what was asked for is done."""
        ...

    def launch(self, kernel: str, threads: int, *arguments: Argument) -> None:
        """Run a kernel with at least so many threads, after everything that was asked for before."""
        ...


class Host:
    """The CPU: buffers are NumPy arrays, kernels are the shared library that g++ made of their source.

    Raises EnvironmentMissingError without g++. With a `store` the library is kept.
    """

    def __init__(self, store: Store | None = None) -> None:
        self._library = _library(store)

    def put(self, array: NDArray[Any]) -> NDArray[Any]:
        """A copy, since a device's memory is not the caller's."""
        return np.array(array, order="C")

    def drop(self, buffer: NDArray[Any]) -> None:
        """An array goes by itself."""

    def launch(self, kernel: str, threads: int, *arguments: Argument) -> None:
        """Run a kernel, one thread after another."""
        values = [np.array(a.ctypes.data if a.ndim or not a.dtype.isbuiltin else a) for a in map(_as_array, arguments)]
        pointers = (ctypes.c_void_p * max(len(values), 1))(*(v.ctypes.data for v in values))
        getattr(self._library, f"run_{kernel}")(ctypes.c_longlong(-(-threads // BLOCK)), ctypes.c_int(BLOCK), pointers)


def _as_array(argument: Argument) -> NDArray[Any]:
    """A buffer as it is; a scalar as an array without axes."""
    return argument if isinstance(argument, np.ndarray) else np.asarray(argument)


def signatures() -> dict[str, tuple[str, ...]]:
    """By kernel, the C types of its parameters, read off the source."""
    found = re.findall(r"^KERNEL\((\w+)\)\((.*?)\) \{", SOURCE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return {name: tuple(" ".join(p.split()).rsplit(" ", 1)[0] for p in given.split(",")) for name, given in found}


def host_source() -> str:
    """The kernels as C++ for a CPU: CUDA's words defined, and for each kernel a loop over its grid."""
    lines = [
        "#define FEXPORT_HOST 1",
        "#include <cmath>",
        "#include <cstdint>",
        "#define __device__",
        "#define KERNEL(name) static void name",
        "struct Index { unsigned x; };",
        "static thread_local Index blockIdx, blockDim, threadIdx;",
        "static int atomicAdd(int* at, int more) { const int before = *at; *at += more; return before; }",
        SOURCE.read_text(encoding="utf-8"),
    ]
    for name, types in signatures().items():
        given = ", ".join(f"*({kind}*)a[{k}]" for k, kind in enumerate(types))
        lines.append(
            f'extern "C" void run_{name}(long long blocks, int block, void** a) {{ blockDim.x = (unsigned)block;'
            " for (long long b = 0; b < blocks; ++b) { blockIdx.x = (unsigned)b;"
            f" for (int t = 0; t < block; ++t) {{ threadIdx.x = (unsigned)t; {name}({given}); }} }} }}"
        )
        sizes = ", ".join(f"(int)sizeof({kind})" for kind in types)
        lines.append(f'extern "C" {{ extern const int sizes_{name}[]; const int sizes_{name}[] = {{{sizes}, 0}}; }}')
    return "\n".join(lines) + "\n"


@lru_cache(maxsize=4)
def _library(store: Store | None) -> ctypes.CDLL:
    compiler = shutil.which("g++")
    if compiler is None:
        raise EnvironmentMissingError("the kernels' CPU build needs g++, which is not there: apt-get install g++")
    source = host_source()
    version = subprocess.run([compiler, "--version"], capture_output=True, encoding="utf-8", check=False).stdout
    key = {
        "kind": "kernels for the CPU",
        "network": "",
        "source_sha256": hashlib.sha256(source.encode()).hexdigest(),
        "compiler": version.partition("\n")[0],
        "options": " ".join(_HOST_OPTIONS),
    }
    kept = store.find(key) if store else None
    if kept is not None:
        return ctypes.CDLL(str(kept))
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "kernels.so"
        command = [compiler, *_HOST_OPTIONS, "-", "-o", str(made)]
        done = subprocess.run(command, input=source, capture_output=True, encoding="utf-8", check=False)
        if done.returncode or done.stderr:
            said = (done.stderr.strip() or "no reason given").splitlines()[0]
            raise EnvironmentMissingError(f"g++ cannot build the kernels: {said}")
        if store is not None:
            with store.writing(key) as path:
                if path is not None:
                    shutil.copy(made, path)
        return ctypes.CDLL(str(made))

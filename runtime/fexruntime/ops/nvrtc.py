"""The kernels as machine code of a GPU: compiled by NVRTC for its real architecture, and kept.

A cubin, never PTX: a driver refuses PTX of a newer NVRTC than itself. NVRTC is CUDA's own, or that of the wheel
`nvidia-cuda-nvrtc`; it is asked by ctypes, in the names of nvrtc.h, which are the same from 11 to 13.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fexruntime.errors import EnvironmentMissingError
from fexruntime.ops.device import CUDA_OPTIONS, SOURCE
from fexruntime.store import Store

KIND = "CUDA kernels"
_NAMES = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2", "libnvrtc.so")
_MENDS = "pip install 'fexport[nvrtc]', or let the CPU work on pixels (pixels='cpu')"


def cubin(architecture: str, store: Store | None) -> bytes:
    """The kernels for an architecture ("sm_87"), from the store if they were compiled before by this NVRTC of this source.

    Raises EnvironmentMissingError without NVRTC, or with what it said of an architecture that it does not know.
    """
    source = SOURCE.read_bytes()
    key = {
        "kind": KIND,
        "network": "",
        "architecture": architecture,
        "nvrtc": version(),
        "source_sha256": hashlib.sha256(source).hexdigest(),
        "options": " ".join(CUDA_OPTIONS),
    }
    kept = store.find(key) if store else None
    if kept is not None:
        return kept.read_bytes()
    made = compiled(source, architecture)
    if store is not None:
        with store.writing(key) as path:
            if path is not None:
                path.write_bytes(made)
    return made


def version() -> str:
    """NVRTC's own, "13.5"."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def compiled(source: bytes, architecture: str) -> bytes:
    """A source's cubin for an architecture; EnvironmentMissingError with the first lines of NVRTC's log if it refuses."""
    nvrtc, program = _library(), ctypes.c_void_p()
    if nvrtc.nvrtcCreateProgram(ctypes.byref(program), ctypes.c_char_p(source), b"kernels.cu", 0, None, None):
        raise EnvironmentMissingError(f"NVRTC {version()} takes no program")
    try:
        options = [f"--gpu-architecture={architecture}".encode(), *(o.encode() for o in CUDA_OPTIONS)]
        with _same_locale():
            refused = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        if refused:
            said = _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program).rstrip(b"\0").decode()
            lines = [line for line in said.splitlines() if line.strip()] or ["it gave no reason"]
            raise EnvironmentMissingError(
                f"NVRTC {version()} does not compile the kernels for {architecture}: {'; '.join(lines[:2])}"
            )
        return _text(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


@contextmanager
def _same_locale() -> Iterator[None]:
    """Give the thread its locale back: NVRTC 12.2 leaves it with "C", and files that are opened after it would be read as ASCII."""
    use = getattr(ctypes.CDLL(None), "uselocale", None)  # POSIX; of other systems none is known to need it
    if use is None:
        yield
        return
    use.restype, use.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    before = use(None)
    try:
        yield
    finally:
        use(before)


def _text(size_of: Any, get: Any, program: Any) -> bytes:
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    get(program, text)
    return text.raw


@lru_cache(maxsize=1)
def _library() -> Any:
    for name in (*_NAMES, *map(str, of_wheels())):
        try:
            return loaded(name)
        except OSError:
            continue
    raise EnvironmentMissingError(f"the CUDA kernels need NVRTC, which cannot be loaded ({_NAMES[0]}): {_MENDS}")


def loaded(name: str) -> Any:
    """An NVRTC by its name or path; OSError if it cannot be loaded."""
    if "/" in name:  # its built-ins are looked for by their name: loaded before, they are found
        for beside in Path(name).parent.glob("libnvrtc-builtins.so*"):
            ctypes.CDLL(str(beside))
    return ctypes.CDLL(name)


def of_wheels() -> Iterator[Path]:
    """NVRTC in NVIDIA's wheels, the newest first."""
    spec = find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        found = [p for p in Path(folder).glob("*/lib/libnvrtc.so.*") if re.fullmatch(r"libnvrtc\.so\.[\d.]+", p.name)]
        yield from sorted(found, key=lambda path: [int(n) for n in path.name.split(".so.")[1].split(".")], reverse=True)

"""The CUDA driver, asked by ctypes: whether there is a GPU, and what it is. Nothing of CUDA is imported for that.

TensorRT's Runtime ends the process where there is no GPU, so this is asked before it is made.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from fexruntime.errors import EnvironmentMissingError

LIBRARY = "libcuda.so.1"
_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """The first GPU: its name, compute capability ("8.7"), and the CUDA version of its driver ("12.2")."""

    name: str
    capability: str
    driver: str

    @property
    def architecture(self) -> str:
        """What NVRTC calls it."""
        return f"sm_{self.capability.replace('.', '')}"


def library() -> Any:
    """The driver's library, initialised; EnvironmentMissingError where there is none or it finds no GPU."""
    try:
        cuda = ctypes.CDLL(LIBRARY)
    except OSError:
        raise EnvironmentMissingError(
            f"no NVIDIA driver here ({LIBRARY} cannot be loaded): install it, or run on another backend (backend='onnxruntime')"
        ) from None
    count = ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        raise EnvironmentMissingError(
            "the NVIDIA driver finds no GPU here: see `nvidia-smi`, or run on another backend (backend='onnxruntime')"
        )
    return cuda


def gpu() -> Gpu:
    """The first GPU; EnvironmentMissingError where there is none."""
    cuda = library()
    name, version, numbers = ctypes.create_string_buffer(256), ctypes.c_int(), []
    cuda.cuDeviceGetName(name, len(name), 0)
    cuda.cuDriverGetVersion(ctypes.byref(version))
    for attribute in (_MAJOR, _MINOR):
        number = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, 0)
        numbers.append(number.value)
    driver = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Gpu(name.value.decode(errors="replace"), ".".join(map(str, numbers)), driver)

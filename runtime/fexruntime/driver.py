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
    """A GPU: its name, compute capability ("8.7"), the CUDA version of its driver ("12.2"), and which it is."""

    name: str
    capability: str
    driver: str
    index: int = 0

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
            f"no NVIDIA driver here ({LIBRARY} cannot be loaded): install it, or run on the CPU (device='cpu', backend='onnxruntime')"
        ) from None
    if not _count(cuda):
        raise EnvironmentMissingError(
            "the NVIDIA driver finds no GPU here: see `nvidia-smi`, or run on the CPU (device='cpu', backend='onnxruntime')"
        )
    return cuda


def gpu(index: int | None = None) -> Gpu:
    """A GPU (None: the first); EnvironmentMissingError where there is none, or none of that number."""
    cuda, number = library(), index or 0
    if number >= _count(cuda):
        raise EnvironmentMissingError(
            f"there is no device 'cuda:{number}' here: the driver finds {_count(cuda)}, counted from cuda:0"
        )
    name, version, numbers = ctypes.create_string_buffer(256), ctypes.c_int(), []
    cuda.cuDeviceGetName(name, ctypes.c_int(len(name)), ctypes.c_int(number))
    cuda.cuDriverGetVersion(ctypes.byref(version))
    for attribute in (_MAJOR, _MINOR):
        said = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(said), ctypes.c_int(attribute), ctypes.c_int(number))
        numbers.append(said.value)
    driver = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Gpu(name.value.decode(errors="replace"), ".".join(map(str, numbers)), driver, number)


def _count(cuda: Any) -> int:
    count = ctypes.c_int()
    if cuda.cuInit(ctypes.c_uint(0)) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value

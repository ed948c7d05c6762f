"""Memory, streams and copies of the first GPU through the CUDA driver, by ctypes: no CUDA package is needed.

The driver's names and signatures are those of CUDA 12's cuda.h. Each object has a stream of its own in the device's
primary context, which TensorRT uses too.
"""

from __future__ import annotations

import ctypes
from typing import Any

from numpy.typing import NDArray

from fexruntime.driver import library
from fexruntime.errors import InferenceError

_OUT_OF_MEMORY = 2


class CudaMemory:
    """Buffers and one stream; see `backends.tensorrt.Memory`. A buffer is its address."""

    def __init__(self) -> None:
        self._cuda = library()
        device, self._context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._device = device
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self._enter()
        handle = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(handle), 0)
        self.stream = int(handle.value or 0)
        self._buffers: list[int] = []

    def empty(self, size_bytes: int) -> int:
        """A buffer; InferenceError if the GPU's memory does not hold it."""
        self._enter()
        at = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(at), ctypes.c_size_t(max(size_bytes, 1)))
        self._buffers.append(at.value)
        return at.value

    def address(self, buffer: int) -> int:
        """Itself."""
        return buffer

    def write(self, buffer: int, array: NDArray[Any]) -> None:
        """Copy a C-contiguous host array to the beginning of a buffer."""
        self._enter()
        data, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
        self._call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(buffer), data, size, ctypes.c_void_p(self.stream))

    def read(self, buffer: int, out: NDArray[Any]) -> None:
        """Copy the beginning of a buffer into a C-contiguous host array, and wait for it."""
        self._enter()
        data, size, stream = ctypes.c_void_p(out.ctypes.data), ctypes.c_size_t(out.nbytes), ctypes.c_void_p(self.stream)
        self._call("cuMemcpyDtoHAsync_v2", data, ctypes.c_uint64(buffer), size, stream)
        self._call("cuStreamSynchronize", stream)

    def close(self) -> None:
        """Release the buffers and the stream."""
        self._enter()
        for at in self._buffers:
            self._call("cuMemFree_v2", ctypes.c_uint64(at))
        self._buffers = []
        if self.stream:
            self._call("cuStreamDestroy_v2", ctypes.c_void_p(self.stream))
            self._call("cuDevicePrimaryCtxRelease_v2", self._device)
        self.stream = 0

    def _enter(self) -> None:
        """The context is a thread's own: a workspace may be lent to another thread each time."""
        self._call("cuCtxSetCurrent", self._context)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._cuda, name)(*arguments)
        if code == _OUT_OF_MEMORY:
            raise InferenceError("the GPU's memory is full: fewer workspaces, or engines with smaller profiles")
        if code:
            raise InferenceError(f"the CUDA driver refused {name} with error {code}")

"""A GPU through the CUDA driver, by ctypes: memory, copies, kernels, events, graphs, in the order of one stream.

No CUDA package is needed. The driver's names and signatures are those of CUDA 12's cuda.h, and 13's library has them too. A
`Cuda` has a stream of its own in the device's primary context, which TensorRT and ONNX Runtime use too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fexruntime.driver import gpu, library
from fexruntime.errors import InferenceError, OutOfMemoryError

_OUT_OF_MEMORY = 2
_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: it does not wait for the legacy default stream, on which others may work."""
_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: what other threads do meanwhile does not spoil a capture."""
_EXTERNAL = 1
"""CU_EVENT_RECORD_EXTERNAL: a captured mark is a node of the graph."""
_ADDRESS, _SIZE, _HANDLE, _UINT = ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_uint
BLOCK = 256
"""Threads of a block."""


class Cuda:
    """Buffers (addresses, whole numbers) and one stream of a GPU. Threads may take turns with it.

    Raises EnvironmentMissingError without that GPU; every call InferenceError where the driver refuses.
    """

    def __init__(self, index: int | None = None) -> None:
        self.gpu = gpu(index)
        self.index = self.gpu.index
        self._cuda = library()
        self._device, self._context = ctypes.c_int(), _HANDLE()
        self._call("cuDeviceGet", ctypes.byref(self._device), ctypes.c_int(self.index))
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self.enter()
        self.stream = self._made("cuStreamCreate", _UINT(_NON_BLOCKING))
        """The stream's handle."""
        self._buffers: set[int] = set()
        self._pinned: list[int] = []
        self._events: list[int] = []
        self._graphs: list[tuple[int, int]] = []
        self._modules: list[int] = []
        self._capturing = False

    def enter(self) -> None:
        """Make this GPU the calling thread's: a workspace may be lent to another thread each time."""
        self._call("cuCtxSetCurrent", self._context)

    def empty(self, size_bytes: int) -> int:
        """A buffer, at a multiple of 256 bytes; OutOfMemoryError if the GPU's memory does not hold it."""
        self.enter()
        at = _ADDRESS()
        self._call("cuMemAlloc_v2", ctypes.byref(at), _SIZE(max(size_bytes, 1)))
        self._buffers.add(at.value)
        return at.value

    def address(self, buffer: int) -> int:
        """Itself."""
        return buffer

    def free(self, buffer: int) -> None:
        """Give a buffer back, once what was asked for is done."""
        self.synchronise()
        self._call("cuMemFree_v2", _ADDRESS(buffer))
        self._buffers.discard(buffer)

    def pinned(self, size_bytes: int) -> NDArray[np.uint8]:
        """Host memory that the GPU copies to and from by itself; it lasts as long as this."""
        self.enter()
        at = _HANDLE()
        self._call("cuMemHostAlloc", ctypes.byref(at), _SIZE(max(size_bytes, 1)), _UINT(0))
        self._pinned.append(int(at.value or 0))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size_bytes).from_address(int(at.value or 0)))

    def write(self, buffer: int, array: NDArray[Any]) -> None:
        """Copy a C-contiguous host array to the beginning of a buffer. It may change as soon as this is back.

        (Not so pinned memory: that may change when the copy is done.)
        """
        self.enter()
        data, size = _HANDLE(array.ctypes.data), _SIZE(array.nbytes)
        self._call("cuMemcpyHtoDAsync_v2", _ADDRESS(buffer), data, size, _HANDLE(self.stream))

    def fetch(self, buffer: int, out: NDArray[Any]) -> None:
        """Copy the beginning of a buffer into C-contiguous pinned memory; it is there after `synchronise`."""
        self.enter()
        data, size = _HANDLE(out.ctypes.data), _SIZE(out.nbytes)
        self._call("cuMemcpyDtoHAsync_v2", data, _ADDRESS(buffer), size, _HANDLE(self.stream))

    def read(self, buffer: int, out: NDArray[Any]) -> None:
        """Copy the beginning of a buffer into a C-contiguous host array, and wait for it."""
        self.fetch(buffer, out)
        self.synchronise()

    def zero(self, buffer: int, words: int) -> None:
        """So many 32-bit words of zeros."""
        self.enter()
        self._call("cuMemsetD32Async", _ADDRESS(buffer), _UINT(0), _SIZE(words), _HANDLE(self.stream))

    def synchronise(self) -> None:
        """Wait until everything that was asked for is done."""
        self.enter()
        self._call("cuStreamSynchronize", _HANDLE(self.stream))

    def kernels(self, cubin: bytes) -> Callable[[str], int]:
        """The kernels of a cubin, by name."""
        self.enter()
        module = self._made("cuModuleLoadData", ctypes.c_char_p(cubin))
        self._modules.append(module)
        known: dict[str, int] = {}

        def kernel(name: str) -> int:
            if name not in known:
                known[name] = self._made("cuModuleGetFunction", _HANDLE(module), ctypes.c_char_p(name.encode()))
            return known[name]

        return kernel

    def launch(self, kernel: int, threads: int, arguments: Sequence[Any]) -> None:
        """Run a kernel with at least so many threads. Arguments are NumPy scalars of its own types, addresses as uint64."""
        self.enter()
        values = [np.array(a) for a in arguments]
        pointers = (_HANDLE * max(len(values), 1))(*(v.ctypes.data for v in values))
        grid, one, block, none = _UINT(max(-(-threads // BLOCK), 1)), _UINT(1), _UINT(BLOCK), _UINT(0)
        places = (grid, one, one, block, one, one, none, _HANDLE(self.stream), pointers, None)
        self._call("cuLaunchKernel", _HANDLE(kernel), *places)

    def event(self) -> int:
        """A mark that can be put into the stream."""
        self.enter()
        self._events.append(self._made("cuEventCreate", _UINT(0)))
        return self._events[-1]

    def record(self, event: int) -> None:
        """Put a mark behind what was asked for; in what is captured, one that every run of the graph sets anew."""
        self.enter()
        if self._capturing:
            self._call("cuEventRecordWithFlags", _HANDLE(event), _HANDLE(self.stream), _UINT(_EXTERNAL))
        else:
            self._call("cuEventRecord", _HANDLE(event), _HANDLE(self.stream))

    def elapsed_ms(self, first: int, last: int) -> float:
        """Milliseconds on the GPU between two marks that it has passed."""
        self.enter()
        milliseconds = ctypes.c_float()
        self._call("cuEventElapsedTime", ctypes.byref(milliseconds), _HANDLE(first), _HANDLE(last))
        return float(milliseconds.value)

    def follow(self, stream: int) -> None:
        """Wait, on the GPU, for what another's stream has been asked for so far."""
        self.enter()
        event = self._made("cuEventCreate", _UINT(2))  # CU_EVENT_DISABLE_TIMING
        self._call("cuEventRecord", _HANDLE(event), _HANDLE(stream))
        self._call("cuStreamWaitEvent", _HANDLE(self.stream), _HANDLE(event), _UINT(0))
        self._call("cuEventDestroy_v2", _HANDLE(event))  # it goes when it was passed

    def captured(self, asked: Callable[[], None]) -> int:
        """What `asked` asks for, as a graph that is not run yet. It may not allocate, wait, or copy from memory that is not pinned."""
        self.enter()
        self._call("cuStreamBeginCapture_v2", _HANDLE(self.stream), ctypes.c_int(_THREAD_LOCAL))
        graph, whole = _HANDLE(), False
        self._capturing = True
        try:
            asked()
            whole = True
        finally:
            self._capturing = False
            code = self._cuda.cuStreamEndCapture(_HANDLE(self.stream), ctypes.byref(graph))
            if graph.value and not whole:
                self._cuda.cuGraphDestroy(graph)
        self._check("cuStreamEndCapture", code)
        ready = self._made("cuGraphInstantiateWithFlags", graph, ctypes.c_ulonglong(0))
        self._graphs.append((int(graph.value or 0), ready))
        return ready

    def replay(self, graph: int) -> None:
        """Run a graph."""
        self.enter()
        self._call("cuGraphLaunch", _HANDLE(graph), _HANDLE(self.stream))

    def forget(self, graph: int) -> None:
        """Release a graph."""
        for pair in [p for p in self._graphs if p[1] == graph]:
            self._graphs.remove(pair)
            self.enter()
            self._call("cuGraphExecDestroy", _HANDLE(pair[1]))
            self._call("cuGraphDestroy", _HANDLE(pair[0]))

    def memory(self) -> tuple[int, int]:
        """Free and all bytes of the GPU, as everybody on it has left them."""
        self.enter()
        free, total = _SIZE(), _SIZE()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def close(self) -> None:
        """Release everything, once what was asked for is done."""
        if not self.stream:
            return
        self.synchronise()
        for _, graph in list(self._graphs):
            self.forget(graph)
        for event in self._events:
            self._call("cuEventDestroy_v2", _HANDLE(event))
        for module in self._modules:
            self._call("cuModuleUnload", _HANDLE(module))
        for buffer in sorted(self._buffers):
            self._call("cuMemFree_v2", _ADDRESS(buffer))
        for at in self._pinned:
            self._call("cuMemFreeHost", _HANDLE(at))
        self._buffers, self._pinned, self._events, self._modules = set(), [], [], []
        self._call("cuStreamDestroy_v2", _HANDLE(self.stream))
        self._call("cuDevicePrimaryCtxRelease_v2", self._device)
        self.stream = 0

    def _made(self, name: str, *arguments: Any) -> int:
        """The handle that a call of the driver makes."""
        handle = _HANDLE()
        self._call(name, ctypes.byref(handle), *arguments)
        return int(handle.value or 0)

    def _call(self, name: str, *arguments: Any) -> None:
        self._check(name, getattr(self._cuda, name)(*arguments))

    def _check(self, name: str, code: int) -> None:
        if code == _OUT_OF_MEMORY:
            raise OutOfMemoryError("the GPU's memory is full: fewer workspaces, or engines with smaller profiles")
        if code:
            raise InferenceError(f"the CUDA driver refused {name} with error {code}")

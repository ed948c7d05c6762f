"""A device's memory by name: used again, and grown where a call needs more; and what is copied back, as one buffer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fexruntime.cuda import Cuda

_ALIGNED = 256


class Buffers:
    """Buffers of one stream."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._at: dict[str, tuple[int, int]] = {}
        self._host = cuda.pinned(0)
        self.moved = 0
        """How often one was made or made anew: addresses of before may be none any more."""

    def at(self, name: str, size: int) -> int:
        """The address of a buffer of at least so many bytes."""
        at, holds = self._at.get(name, (0, -1))
        if holds < size:
            if at:
                self._cuda.free(at)
            at = self._cuda.empty(size)
            self._at[name] = (at, size)
            self.moved += 1
        return at

    def written(self, name: str, array: NDArray[Any]) -> np.uint64:
        """The address of a buffer with the content of a C-contiguous host array."""
        at = self.at(name, array.nbytes)
        self._cuda.write(at, array)
        address: np.uint64 = np.uint64(at)
        return address

    def reserve_host(self, size: int) -> None:
        """Have so many bytes for what is copied back."""
        if len(self._host) < size:
            self._host = self._cuda.pinned(size)

    def back(self, base: int, size: int) -> NDArray[np.uint8]:
        """Ask for one copy back: its bytes are there once the stream was waited for, until the next one."""
        self.reserve_host(size)
        self._cuda.fetch(base, self._host[:size])
        return self._host[:size]


class Answer:
    """What is copied back: arrays one after another, each at its place."""

    def __init__(self) -> None:
        self.places: dict[Any, tuple[int, tuple[int, ...], Any]] = {}
        self.size = 0

    def add(self, key: Any, shape: tuple[int, ...], dtype: Any = np.float32) -> None:
        """A further array."""
        self.places[key] = (self.size, shape, dtype)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.size += -(-max(size, 1) // _ALIGNED) * _ALIGNED

    def array(self, key: Any, data: NDArray[np.uint8]) -> NDArray[Any]:
        """One of them, in the bytes that came back."""
        start, shape, dtype = self.places[key]
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        found: NDArray[Any] = data[start : start + size].view(dtype).reshape(shape)
        return found

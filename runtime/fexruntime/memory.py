"""Memory that was freed and that the C library keeps; files as memory."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

import numpy as np


def give_back() -> None:
    """Return it to the system: what loading a network needed for a moment, glibc would keep for the life of the process.

    Elsewhere than on glibc nothing is done.
    """
    try:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (OSError, TypeError):  # Windows has no such handle
        return
    if trim is not None:
        trim(0)


BLOCK = 1 << 16
"""Bytes that are written at once to a file that will be mapped."""


def write_to_map(path: Path, data: bytes | memoryview) -> None:
    """Write a file that `MappedFile` will read a little of.

    Linux keeps a file that was just written in pieces as large as the writes were, and from 6.18 on whoever touches a byte of a
    piece has all of it in memory: of 150 MB that were written at once, that is most.
    """
    with path.open("wb", buffering=0) as file, memoryview(data) as whole:
        for start in range(0, len(whole), BLOCK):
            part = whole[start : start + BLOCK]
            while len(part):
                part = part[file.write(part) :]


class MappedFile:
    """A file as memory: read where it is touched, shared by the processes that map it, and given back when it is not needed.

    OSError where it cannot be read, ValueError if it is empty. Nobody may change the file in place meanwhile.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            # a private copy of what is written to: libraries ask for memory that could be, and nothing is
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self.bytes = np.frombuffer(self._map, np.uint8)

    def give_back(self) -> None:
        """Drop what was read; it is read from the file again if it is touched. Windows does that by itself."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

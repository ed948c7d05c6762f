"""Memory that was freed and that the C library keeps."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Return it to the system: what loading a network needed for a moment, glibc would keep for the life of the process.

    Elsewhere than on glibc nothing is done.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

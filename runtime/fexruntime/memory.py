"""Memory that was freed and that the C library keeps."""

from __future__ import annotations

import ctypes


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

"""How large a frame may be: a few kilobytes may stand for gigabytes, and an array, a video, a camera may be as large."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence

from fexruntime.errors import InputError

MOST_PIXELS, PIXELS_VARIABLE = 64_000_000, "FEXPORT_MAX_PIXELS"


def bound(given: int | None = None) -> int:
    """The most pixels of a frame: as given, else FEXPORT_MAX_PIXELS, else `MOST_PIXELS`. InputError for what is no such number."""
    if given is not None:
        try:
            number = operator.index(given)
        except TypeError:
            number = 0
        if number < 1 or isinstance(given, bool):
            raise InputError(f"max_pixels must be a whole number of 1 or more, not {given!r}")
        return number
    said = os.environ.get(PIXELS_VARIABLE, "")
    if said and not (said.isdecimal() and int(said)):
        raise InputError(f"{PIXELS_VARIABLE}={said!r} must be a whole number of 1 or more")
    return int(said) if said else MOST_PIXELS


def bound_decoders(most: int) -> None:
    """For a process of its own, before OpenCV is loaded (it reads this once): its decoders refuse more, of kinds whose head is not read here too."""
    os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(most)


def check_pixels(size_wh: Sequence[int] | None, called: str, most: int | None = None) -> None:
    """InputError for a frame (width, height) of more pixels than the bound; nothing where its size is not known."""
    if size_wh is None:
        return
    width, height = size_wh
    if width * height > (most := bound(most)):
        raise InputError(
            f"{called} has {width} x {height} pixels, more than the {most / 1e6:g} million that are read: make it smaller, or, where "
            f"there is the memory for it, set {PIXELS_VARIABLE}={width * height} (or max_pixels)"
        )

"""What people hand over -> frames: paths, folders, encoded bytes, file objects, arrays, tensors, PIL images, lists of these.

Frames of different sizes may share a run (py-feat's may not). Each input that gives no frame, for whatever reason, is one
error of its own: it takes a number, so that what comes after keeps its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fexruntime.arrays import U8
from fexruntime.errors import FexportError, InputError
from fexruntime.options import OutputSize
from fexruntime.sources.arrays import checked, from_pil, from_tensor, is_pil, is_tensor
from fexruntime.sources.frame import Frame, frame_of
from fexruntime.sources.images import IMAGE_SUFFIXES, decode_image, read_image

ARRAY_NAME = "tensor"
"""py-feat's word in the `input` column for a frame that came from memory."""

Inputs = Any
"""A path, a folder, encoded bytes, a file object, a PIL image, an array [H,W,3] or [N,H,W,3] uint8 RGB, a torch tensor
[3,H,W] or [B,3,H,W], or an iterable of these."""
OnBad = Callable[[FexportError], None]
Source = tuple[Callable[[], U8], str]
"""A function that gives the pixels, or raises InputError, and what the input is called."""


class Frames:
    """Frames of `inputs`, read one at a time, numbered from 0; `count` inputs were seen so far, bad ones included.

    An input that cannot be read raises InputError, or is handed to `on_bad` and passed over. `own` gives each frame its
    own copy of an array, for callers that hold several while the producer goes on (a camera may refill one buffer).
    """

    def __init__(
        self,
        inputs: Inputs,
        output_size: OutputSize = None,
        exif: bool = False,
        on_bad: OnBad | None = None,
        own: bool = False,
    ) -> None:
        self.count = 0
        self._sources = _sources(inputs, exif, own)
        self._output_size = output_size
        self._on_bad = on_bad

    def __iter__(self) -> Iterator[Frame]:
        for pixels, name in self._sources:
            index, self.count = self.count, self.count + 1
            try:
                frame = frame_of(pixels(), index, name, self._output_size)
            except InputError as error:
                if self._on_bad is None:
                    raise
                self._on_bad(error)
            else:
                yield frame


def _sources(inputs: Inputs, exif: bool, own: bool) -> Iterator[Source]:
    if isinstance(inputs, (str, os.PathLike)):
        yield from _of_path(inputs, exif)
    elif isinstance(inputs, (bytes, bytearray, memoryview)):
        yield lambda: decode_image(bytes(inputs), "an image given as bytes", exif), "bytes"
    elif is_tensor(inputs):
        yield from _of_tensor(inputs, own)
    elif is_pil(inputs):
        yield lambda: checked(from_pil(inputs, exif), "a PIL image"), str(getattr(inputs, "filename", "") or "image")
    elif isinstance(inputs, np.ndarray) and inputs.ndim == 0 and inputs.dtype.kind in "OSU":
        yield from _sources(inputs.item(), exif, own)
    elif isinstance(inputs, np.ndarray) and inputs.dtype.kind not in "OSU":
        yield from _of_array(inputs, own)
    elif hasattr(inputs, "read"):
        yield from _of_file(inputs, exif)
    elif hasattr(inputs, "__array__") and not isinstance(inputs, np.ndarray) and not hasattr(inputs, "iloc"):
        yield from _of_array(np.asarray(inputs), own)
    elif isinstance(inputs, Iterable) and not isinstance(inputs, dict):
        for item in inputs:
            yield from _sources(item, exif, own)
    else:
        yield _bad(f"cannot read frames from a {type(inputs).__name__}: give paths, bytes or [H,W,3] uint8 arrays")


def _bad(message: str, name: str = "") -> Source:
    def fail() -> U8:
        raise InputError(message)

    return fail, name


def _of_path(given: str | os.PathLike[str], exif: bool) -> Iterator[Source]:
    name = os.fspath(given)
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    path = Path(name)
    if not name:
        yield _bad("an empty path was given: name a file or a folder ('.' is the current one)")
    elif "://" in name:
        yield _bad(f"{name!r} is an address: download it first, and give the file or its bytes")
    elif path.is_dir():
        yield from _of_folder(path, exif)
    else:
        yield lambda: read_image(path, exif), name


def _of_folder(folder: Path, exif: bool) -> Iterator[Source]:
    try:
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    except OSError as error:
        yield _bad(f"cannot read the folder {str(folder)!r}: {error.strerror or error}")
        return
    if not files:
        looked = ", ".join(IMAGE_SUFFIXES)
        yield _bad(f"no images in the folder {str(folder)!r} (subfolders are not searched): looked for {looked}")
    for path in files:
        yield (lambda path=path: read_image(path, exif)), str(path)  # type: ignore[misc]


def _of_array(array: Any, own: bool) -> Iterator[Source]:
    for image in array if array.ndim == 4 else (array,):
        yield (lambda image=image: np.array(checked(image)) if own else checked(image)), ARRAY_NAME  # type: ignore[misc]


def _of_tensor(tensor: Any, own: bool) -> Iterator[Source]:
    try:
        array = from_tensor(tensor)
    except InputError as error:
        yield _bad(str(error), ARRAY_NAME)
    else:
        yield from _of_array(array, own)


def _of_file(file: Any, exif: bool) -> Iterator[Source]:
    name = getattr(file, "name", None)
    called = name if isinstance(name, str) else "file"

    def pixels() -> U8:
        try:
            data = file.read()
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {called!r}: {error}") from None
        if not isinstance(data, (bytes, bytearray)):
            raise InputError(f"{called!r} gives text, not bytes: open it with mode 'rb'")
        return decode_image(bytes(data), repr(called), exif)

    yield pixels, called

"""What people hand over -> sources: paths, folders, globs, videos, encoded bytes, file objects, arrays, tensors, PIL images, lists
of these. Nothing is read yet.

Each input that gives no frame, for whatever reason, is a source of its own whose reading is an error: it takes a number, so that what
comes after keeps its own.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from fexruntime.arrays import U8, ArrayLike, ByteFile, PictureLike
from fexruntime.errors import InputError
from fexruntime.files import user_path
from fexruntime.sources.arrays import checked, from_pil, from_tensor, is_pil, is_tensor
from fexruntime.sources.folders import files_in
from fexruntime.sources.images import IMAGE_SUFFIXES, decode_image, read_image
from fexruntime.sources.limits import check_pixels
from fexruntime.sources.on_device import frames_of, from_dlpack, lies_on_gpu, refused
from fexruntime.sources.video import VIDEO_SUFFIXES, is_video

ARRAY_NAME = "tensor"
"""py-feat's word in the `input` column for a frame that came from memory."""

Inputs: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | ArrayLike | PictureLike | ByteFile | Iterable[Inputs]"
)
"""A path (of an image, a video, a folder; a pattern with *), encoded bytes, a file object, a PIL image, an array [H,W,3] or
[N,H,W,3] uint8 RGB (also by DLPack, and on a GPU where pixels are worked on there), a torch tensor [3,H,W] or [B,3,H,W], or an
iterable of these."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How pictures are read: turned as their tag says, of how many pixels at most, and whether they may lie on a GPU."""

    exif: bool
    most: int
    on_gpu: bool = False


@dataclass(frozen=True, slots=True)
class Still:
    """One input of one picture: a function that gives the pixels, or raises InputError, and what the input is called."""

    pixels: Callable[[], U8]
    name: str
    sequence: bool = False
    """Whether it is one of frames that follow each other in time."""


@dataclass(frozen=True, slots=True)
class Film:
    """One input that is a video."""

    path: Path
    name: str


def listed(inputs: Iterable[str], recursive: bool = False) -> list[str]:
    """Paths with folders and patterns replaced by the files in them, in order; what is not there stays as it is. `recursive`: with
    the files of folders in folders.
    """
    files: list[str] = []
    for name in inputs:
        path = Path(name)
        found = [str(p) for p in _in_folder(path, recursive)] if path.is_dir() else _matching(name)
        files += found or [name]
    return files


def are_files(inputs: Inputs) -> bool:
    """Whether everything is a path: only then may another thread take the inputs."""
    if isinstance(inputs, (str, os.PathLike)):
        return True
    return isinstance(inputs, (list, tuple)) and all(isinstance(i, (str, os.PathLike)) for i in inputs)


def sources(inputs: Any, how: Reading, own: bool) -> Iterator[Still | Film]:
    """The sources of `inputs`, in order; `own` gives each frame of an array its own copy."""
    if isinstance(inputs, (str, os.PathLike)):
        yield from _of_path(inputs, how)
    elif isinstance(inputs, (bytes, bytearray, memoryview)):
        yield Still(lambda: decode_image(bytes(inputs), "an image given as bytes", how.exif, how.most), "bytes")
    elif isinstance(inputs, np.ndarray) and inputs.dtype.kind not in "OSU":  # early: one a frame of a stream
        yield from _of_array(inputs, own)
    elif lies_on_gpu(inputs) and (how.on_gpu or not is_tensor(inputs)):  # of torch's a copy is made, as ever
        yield from _of_gpu(inputs, how)
    elif is_tensor(inputs):
        yield from _of_tensor(inputs, own)
    elif is_pil(inputs):
        name = str(getattr(inputs, "filename", "") or "image")
        yield Still(lambda: checked(_pil(inputs, how), "a PIL image"), name)
    elif isinstance(inputs, np.ndarray) and inputs.ndim == 0 and inputs.dtype.kind in "OSU":
        yield from sources(inputs.item(), how, own)
    elif hasattr(inputs, "read"):
        yield from _of_file(inputs, how)
    elif hasattr(inputs, "__array__") and not isinstance(inputs, np.ndarray) and not hasattr(inputs, "iloc"):
        yield from _of_array(np.asarray(inputs), own)
    elif hasattr(inputs, "__dlpack__") and not isinstance(inputs, (np.ndarray, type)):  # of NumPy: names
        yield from _of_dlpack(inputs, own)
    elif isinstance(inputs, Iterable) and not isinstance(inputs, dict):
        for item in inputs:
            yield from sources(item, how, own)
    else:
        kind = type(inputs).__name__
        yield _bad(
            f"cannot read frames from {'an' if kind[0] in 'aeiou' else 'a'} {kind}: give paths, bytes or [H,W,3] uint8 arrays"
        )


def _pil(image: Any, how: Reading) -> U8:
    check_pixels(image.size, "a PIL image", how.most)
    return from_pil(image, how.exif)


def _bad(message: str, name: str = "") -> Still:
    def fail() -> U8:
        raise InputError(message)

    return Still(fail, name)


def _of_path(given: str | os.PathLike[str], how: Reading) -> Iterator[Still | Film]:
    name = os.fspath(given)
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    if "://" not in name:
        try:
            name = user_path(name)
        except InputError as error:
            yield _bad(str(error))
            return
    path = Path(name)
    if "://" in name:
        yield _bad(
            f"{name!r} is an address: download it first, and give the file or its bytes (a live stream: Detector.live)"
        )
    elif os.path.isdir(name):  # which says no to a name that no file can have
        yield from _of_folder(path, how)
    elif not os.path.exists(name) and (matching := _matching(name)):
        for match in matching:
            yield _of_file_at(Path(match), match, how)
    elif not os.path.exists(name) and glob.has_magic(name):
        yield _bad(f"no file matches {name!r}")
    else:
        yield _of_file_at(path, name, how)


def _of_file_at(path: Path, name: str, how: Reading) -> Still | Film:
    return Film(path, name) if is_video(path) else Still(lambda: read_image(path, how.exif, how.most), name)


def _matching(name: str) -> list[str]:
    """Files that a pattern names, if it is one and no file is called so."""
    if not glob.has_magic(name) or os.path.exists(name):
        return []
    return sorted(m for m in glob.glob(name) if Path(m).is_file())


def _in_folder(folder: Path, recursive: bool = False) -> list[Path]:
    return files_in(folder, (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES), recursive)


def _of_folder(folder: Path, how: Reading) -> Iterator[Still | Film]:
    try:
        files = _in_folder(folder)
    except OSError as error:
        yield _bad(f"cannot read the folder {str(folder)!r}: {error.strerror or error}")
        return
    if not files:
        looked = ", ".join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
        yield _bad(
            f"no images in the folder {str(folder)!r} (subfolders are read with --recursive alone): looked for {looked}"
        )
    for path in files:
        yield _of_file_at(path, str(path), how)


def _of_array(array: Any, own: bool) -> Iterator[Still]:
    for image in array if array.ndim == 4 else (array,):
        yield Still(lambda image=image: np.array(checked(image)) if own else checked(image), ARRAY_NAME, True)  # type: ignore[misc]


def _of_tensor(tensor: Any, own: bool) -> Iterator[Still]:
    try:
        array = from_tensor(tensor)
    except InputError as error:
        yield _bad(str(error), ARRAY_NAME)
    else:
        yield from _of_array(array, own)


def _of_gpu(value: Any, how: Reading) -> Iterator[Still]:
    """Frames that stay where they are, on a GPU."""
    if not how.on_gpu:
        yield _bad(str(refused(value)), ARRAY_NAME)
        return
    try:
        found = list(frames_of(value))
    except InputError as error:
        yield _bad(str(error), ARRAY_NAME)
    else:
        for pixels in found:
            yield Still(lambda pixels=pixels: pixels, ARRAY_NAME, True)  # type: ignore[misc]


def _of_dlpack(value: Any, own: bool) -> Iterator[Still]:
    try:
        array = from_dlpack(value)
    except InputError as error:
        yield _bad(str(error), ARRAY_NAME)
        return
    if array is None:
        yield _bad(f"a {type(value).__name__} does not say on which device it is: give a NumPy array", ARRAY_NAME)
    else:
        yield from _of_array(array, own)


def _of_file(file: Any, how: Reading) -> Iterator[Still]:
    name = getattr(file, "name", None)
    called = name if isinstance(name, str) else "file"

    def pixels() -> U8:
        try:
            data = file.read()
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {called!r}: {error}") from None
        if not isinstance(data, (bytes, bytearray)):
            raise InputError(f"{called!r} gives text, not bytes: open it with mode 'rb'")
        return decode_image(bytes(data), repr(called), how.exif, how.most)

    yield Still(pixels, called)

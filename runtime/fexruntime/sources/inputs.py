"""What people hand over -> frames: paths, folders, globs, videos, encoded bytes, file objects, arrays, tensors, PIL images,
lists of these.

Frames of different sizes may share a run (py-feat's may not). Each input that gives no frame, for whatever reason, is one
error of its own: it takes a number, so that what comes after keeps its own.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from fexruntime.arrays import U8, ArrayLike, ByteFile, PictureLike
from fexruntime.errors import FexportError, InputError, OutOfMemoryError
from fexruntime.files import user_path
from fexruntime.options import Options
from fexruntime.sources.ahead import Ahead
from fexruntime.sources.arrays import checked, from_pil, from_tensor, is_pil, is_tensor
from fexruntime.sources.folders import files_in
from fexruntime.sources.frame import Frame, frame_of
from fexruntime.sources.images import IMAGE_SUFFIXES, decode_image, read_image
from fexruntime.sources.limits import bound, check_pixels
from fexruntime.sources.on_device import frames_of, from_dlpack, is_on_device, lies_on_gpu, on_the_cpu, refused
from fexruntime.sources.video import VIDEO_SUFFIXES, Video, is_video

ARRAY_NAME = "tensor"
"""py-feat's word in the `input` column for a frame that came from memory."""
MEMORY = -1
"""Number of the source of frames that come from memory: one sequence, in the order they come."""

Inputs: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | ArrayLike | PictureLike | ByteFile | Iterable[Inputs]"
)
"""A path (of an image, a video, a folder; a pattern with *), encoded bytes, a file object, a PIL image, an array [H,W,3] or
[N,H,W,3] uint8 RGB (also by DLPack, and on a GPU where pixels are worked on there), a torch tensor [3,H,W] or [B,3,H,W], or an
iterable of these."""
OnBad = Callable[[FexportError], None]


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


@dataclass(frozen=True, slots=True)
class Position:
    """Where reading stands: the number of an input, and the frame of it that was read last."""

    source: int
    frame: int


class Frames:
    """Frames of `inputs`, numbered: pictures from 0 over all inputs, frames of a video by their place in it.

    `count` inputs and `read` frames were seen so far, bad ones included. An input that cannot be read raises InputError,
    or is handed to `on_bad` and passed over. `own` gives each frame its own copy of an array, for callers that hold
    several while the producer goes on (a camera may refill one buffer). Files are read ahead by a thread; what is in
    memory is taken when it is needed. `after`: go on behind that frame, leaving out what is before it unread. `on_gpu`: arrays
    on a GPU are taken as they lie there (never copied, `own` or not); else they are errors.
    """

    def __init__(
        self,
        inputs: Inputs,
        options: Options | None = None,
        on_bad: OnBad | None = None,
        own: bool = False,
        after: Position | None = None,
        ahead: bool = True,
        max_pixels: int | None = None,
        on_gpu: bool = False,
    ) -> None:
        self.count = self.read = 0
        self._options = options or Options()
        self._most = bound(max_pixels)
        self._sources = _sources(inputs, Reading(self._options.exif, self._most, on_gpu), own)
        self._on_bad = on_bad
        self._after = after
        self._ahead = ahead and _are_files(inputs)
        self._reading: Ahead[Frame | FexportError] | None = None

    def begin(self) -> None:
        """Read ahead from now on, while the caller still gets ready; `close` if it then does not come to iterate."""
        if self._ahead and self._reading is None:
            self._reading = Ahead(self._found(), _size)

    def close(self) -> None:
        """Read no further ahead."""
        if self._reading is not None:
            self._reading.close()

    def __iter__(self) -> Iterator[Frame]:
        self.begin()
        for item in self._reading or self._found():
            if isinstance(item, Frame):
                yield item
            elif self._on_bad is None:
                raise item
            else:
                self._on_bad(item)

    def _found(self) -> Iterator[Frame | FexportError]:
        """Frames and the errors of inputs that cannot be read, in order."""
        for source in self._sources:
            number, self.count = self.count, self.count + 1
            if self._after is not None and number < self._after.source:
                self.read += 1
                continue
            try:
                if isinstance(source, Film):
                    yield from self._film(source, number)
                elif self._after is None or number > self._after.source:
                    order, self.read = self.read, self.read + 1
                    pixels = source.pixels()
                    self._check(pixels.shape[:2], source.name)
                    if self._options.output_size is not None and is_on_device(pixels):
                        raise on_the_cpu("output_size is")
                    frame = frame_of(pixels, number, source.name, self._options.output_size)
                    yield replace(frame, order=order, source=MEMORY if source.sequence else number, number=number)
                else:
                    self.read += 1
            except (InputError, OutOfMemoryError) as error:
                yield error
            except MemoryError:
                yield OutOfMemoryError(f"there is not enough memory to read {source.name!r}: make it smaller")

    def _check(self, height_width: tuple[int, ...], name: str) -> None:
        """Check the size of a frame, as it is and as it is to become, before it is made."""
        height, width = height_width
        check_pixels((width, height), repr(name), self._most)
        if self._options.output_size is not None:
            size = self._options.output_size
            high, wide = size if isinstance(size, tuple) else (size, size)
            check_pixels((wide, high), f"{name!r} at output_size={size}", self._most)

    def _film(self, film: Film, number: int) -> Iterator[Frame]:
        options = self._options
        video = Video(film.path, options.rotate)
        self._check(video.size_hw, film.name)
        numbers = video.timeline.numbers(options.skip_frames, options.start_s, options.end_s)
        if not numbers:
            times = f"{(video.timeline.frames / video.timeline.rate if video.timeline.rate else 0):.2f} s"
            raise InputError(
                f"no frame of {film.name!r} lies between start and end: it has {video.timeline.frames} ({times})"
            )
        if self._after is not None and number == self._after.source:
            numbers = numbers[numbers.index(self._after.frame) + 1 :] if self._after.frame in numbers else numbers
        for picked in video.frames(numbers):
            order, self.read = self.read, self.read + 1
            frame = frame_of(picked.rgb_u8, picked.index, film.name, options.output_size, padded=False)
            yield replace(frame, moment=picked.moment, order=order, source=number, number=number)


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


def _are_files(inputs: Inputs) -> bool:
    """Whether everything is a path: only then may another thread take the inputs."""
    if isinstance(inputs, (str, os.PathLike)):
        return True
    return isinstance(inputs, (list, tuple)) and all(isinstance(i, (str, os.PathLike)) for i in inputs)


def _size(item: Frame | FexportError) -> int:
    if not isinstance(item, Frame):
        return 0
    return item.rgb_u8.nbytes + (item.original_rgb_u8.nbytes if item.original_rgb_u8 is not None else 0)


def _sources(inputs: Any, how: Reading, own: bool) -> Iterator[Still | Film]:
    if isinstance(inputs, (str, os.PathLike)):
        yield from _of_path(inputs, how)
    elif isinstance(inputs, (bytes, bytearray, memoryview)):
        yield Still(lambda: decode_image(bytes(inputs), "an image given as bytes", how.exif, how.most), "bytes")
    elif (
        isinstance(inputs, np.ndarray) and inputs.dtype.kind not in "OSU"
    ):  # the first of its kind: one a frame of a stream
        yield from _of_array(inputs, own)
    elif lies_on_gpu(inputs) and (how.on_gpu or not is_tensor(inputs)):  # of torch's a copy is made, as ever
        yield from _of_gpu(inputs, how)
    elif is_tensor(inputs):
        yield from _of_tensor(inputs, own)
    elif is_pil(inputs):
        name = str(getattr(inputs, "filename", "") or "image")
        yield Still(lambda: checked(_pil(inputs, how), "a PIL image"), name)
    elif isinstance(inputs, np.ndarray) and inputs.ndim == 0 and inputs.dtype.kind in "OSU":
        yield from _sources(inputs.item(), how, own)
    elif hasattr(inputs, "read"):
        yield from _of_file(inputs, how)
    elif hasattr(inputs, "__array__") and not isinstance(inputs, np.ndarray) and not hasattr(inputs, "iloc"):
        yield from _of_array(np.asarray(inputs), own)
    elif hasattr(inputs, "__dlpack__") and not isinstance(inputs, (np.ndarray, type)):  # of NumPy: names
        yield from _of_dlpack(inputs, own)
    elif isinstance(inputs, Iterable) and not isinstance(inputs, dict):
        for item in inputs:
            yield from _sources(item, how, own)
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

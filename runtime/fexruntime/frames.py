"""Images, folders and arrays -> uint8 RGB frames with index and name, rescaled where asked.

Mirrors py-feat's `ImageDataset` and `Rescale`: alpha is dropped, grey is repeated, EXIF orientation is ignored unless asked for;
`output_size` scales the longer side and pads to a square. Two things are kinder than py-feat's: 16-bit images are
brought to 8 bits, and frames of different sizes may share a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fexruntime.errors import EnvironmentMissingError, InputError
from fexruntime.resample import resize_u8

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".wmv")
ARRAY_NAME = "tensor"
LEAST_SIDE = 2

Inputs = Any
"""A path, a folder, an array [H,W,3] or [N,H,W,3] uint8 RGB, or an iterable of paths and arrays [H,W,3]."""
OutputSize = int | tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as the detector sees it, and how it came from the original.

    `rgb_u8` [H,W,3] is contiguous. A point p of it is the point (p - pad_xy) / scale of the original, whose size py-feat
    reports as (seen size - padding) / scale in float32: with `output_size` that is not quite the true one.
    """

    rgb_u8: NDArray[np.uint8]
    index: int
    name: str
    scale: float = 1.0
    pad_xy: tuple[int, int] = (0, 0)
    reported_hw: tuple[float, float] = (0.0, 0.0)


def read_frames(
    inputs: Inputs,
    output_size: OutputSize = None,
    exif: bool = False,
    on_bad: Callable[[InputError], None] | None = None,
) -> Iterator[Frame]:
    """Frames of `inputs`, read one at a time, numbered from 0.

    Raises InputError, or calls `on_bad` with it and goes on, for anything that is not an image: missing, empty, truncated, not decodable, of the wrong
    dtype or shape.
    """
    if output_size is not None:
        _check_output_size(output_size)
    for index, (source, name) in enumerate(_sources(inputs)):
        try:
            rgb = read_image(source, exif) if isinstance(source, Path) else check_array(source)
            frame = _rescaled(rgb, index, name, output_size)
        except InputError as error:
            if on_bad is None:
                raise
            on_bad(error)
        else:
            yield frame


def _sources(inputs: Inputs) -> Iterator[tuple[Path | NDArray[Any], str]]:
    if isinstance(inputs, (str, Path)):
        path = Path(inputs)
        if path.is_dir():
            files = _images_in(path)
            if not files:
                raise InputError(
                    f"no images in the folder {str(path)!r} (subfolders are not searched): looked for {', '.join(IMAGE_SUFFIXES)}"
                )
            yield from ((p, str(p)) for p in files)
        else:
            yield path, str(inputs)
    elif isinstance(inputs, np.ndarray):
        if inputs.ndim == 4:
            yield from ((image, ARRAY_NAME) for image in inputs)
        else:
            yield inputs, ARRAY_NAME
    elif isinstance(inputs, Iterable):
        for item in inputs:
            yield from _sources(item)
    else:
        raise InputError(f"cannot read frames from a {type(inputs).__name__}: give paths or [H,W,3] uint8 arrays")


def _images_in(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    except OSError as error:
        raise InputError(f"cannot read the folder {str(folder)!r}: {error.strerror or error}") from None


def check_array(image: Any) -> NDArray[np.uint8]:
    """An array as a contiguous uint8 RGB image [H,W,3]; InputError says what is wrong with it."""
    if not isinstance(image, np.ndarray):
        raise InputError(f"an image must be a NumPy array or a path, not a {type(image).__name__}")
    if image.dtype != np.uint8:
        raise InputError(f"an image array must be uint8 in 0..255, not {image.dtype}: convert it first")
    if image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"an image array must be [height, width, 3] RGB, not of shape {image.shape}")
    if min(image.shape[:2]) < LEAST_SIDE:
        raise InputError(
            f"an image of {image.shape[1]} x {image.shape[0]} pixels is too small: each side needs {LEAST_SIDE} or more"
        )
    return np.ascontiguousarray(image)


def read_image(path: Path, exif: bool = False) -> NDArray[np.uint8]:
    """Decode an image file as [H,W,3] uint8 RGB; `exif` turns it as its orientation tag says."""
    try:
        import cv2
    except ImportError:
        raise EnvironmentMissingError("reading images needs OpenCV: pip install opencv-python-headless") from None
    if path.suffix.lower() in VIDEO_SUFFIXES:
        raise InputError(f"{str(path)!r} is a video; this version reads images: extract its frames first")
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputError(f"cannot read {str(path)!r}: {getattr(error, 'strerror', None) or error}") from None
    if not data:
        raise InputError(f"{str(path)!r} is empty")
    if _is_truncated(data):
        raise InputError(f"{str(path)!r} is cut off: its end marker is missing; copy the file again")
    flags = cv2.IMREAD_COLOR if exif else cv2.IMREAD_UNCHANGED
    try:
        image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        image = None
    if image is None:
        raise InputError(f"{str(path)!r} is not an image that OpenCV can decode")
    return check_array(_as_rgb_u8(image, str(path)))


def _as_rgb_u8(image: NDArray[Any], name: str) -> NDArray[np.uint8]:
    import cv2

    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.dtype != np.uint8:
        raise InputError(f"{name!r} has {image.dtype} pixels: convert it to 8 or 16 bits first")
    if image.ndim == 2 or image.shape[2] == 1:
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    rgb: Any = cv2.cvtColor(np.ascontiguousarray(image[:, :, :3]), cv2.COLOR_BGR2RGB)
    return np.asarray(rgb, np.uint8)


def _is_truncated(data: bytes) -> bool:
    """Whether a JPEG or PNG stops before its end marker: decoders fill the rest with grey instead of failing."""
    if data.startswith(b"\xff\xd8"):
        return not _jpeg_ends(data)
    if data.startswith(b"\x89PNG"):
        return not _png_ends(data)
    return False


def _jpeg_ends(data: bytes) -> bool:
    """Walk a JPEG's segments and scans up to its own end marker; thumbnails and what is appended are passed over."""
    at = 2
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            return False
        marker = data[at + 1]
        if marker == 0xD9:
            return True
        if marker == 0xFF:  # padding
            at += 1
        elif marker == 0x00 or 0xD0 <= marker <= 0xD8:  # a stuffed byte of a scan, or a marker without a length
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def _png_ends(data: bytes) -> bool:
    at = 8
    while at + 8 <= len(data):
        if data[at + 4 : at + 8] == b"IEND":
            return True
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return False


def _check_output_size(output_size: OutputSize) -> None:
    sides = output_size if isinstance(output_size, tuple) and len(output_size) == 2 else (output_size,)
    if any(isinstance(s, bool) or not isinstance(s, int) or s < 32 for s in sides):
        raise InputError(f"output_size must be an integer (or two: height, width) of 32 or more, not {output_size!r}")


def _rescaled(rgb: NDArray[np.uint8], index: int, name: str, output_size: OutputSize) -> Frame:
    height, width = rgb.shape[:2]
    if output_size is None:
        return Frame(rgb, index, name, reported_hw=(float(height), float(width)))
    scale, new_h, new_w = _scale(height, width, output_size)
    target_h, target_w = output_size if isinstance(output_size, tuple) else (output_size, output_size)
    if min(new_h, new_w) < 1:
        raise InputError(f"{name!r} ({width} x {height}) has no pixels left at output_size={output_size}")
    # the odd pixel of padding goes to the bottom and the right
    top, left = max(target_h - new_h, 0) // 2, max(target_w - new_w, 0) // 2
    padded = np.zeros((max(target_h, new_h), max(target_w, new_w), 3), np.uint8)
    padded[top : top + new_h, left : left + new_w] = resize_u8(rgb, new_h, new_w)
    reported = (float(np.float32(new_h / scale)), float(np.float32(new_w / scale)))
    return Frame(padded, index, name, scale, (left, top), reported)


def _scale(height: int, width: int, output_size: int | tuple[int, int]) -> tuple[float, int, int]:
    """py-feat's `Rescale`: the scale and the new height and width, truncated."""
    if isinstance(output_size, int):
        scale = output_size / max(height, width)
        return scale, int(height * scale), int(width * scale)
    new_h, new_w = output_size
    # py-feat writes `new_height >= height & new_width >= width`: & binds first, so this chain is what it means
    if new_h >= (height & new_w) >= width:
        scale = new_h / height if height > width else new_w / width
    elif height > new_h and width <= new_w:
        scale = new_h / height
    elif width > new_w and height <= new_h:
        scale = new_w / width
    else:
        scale = new_h / height if height > width else new_w / width
    return scale, int(scale * height), int(scale * width)

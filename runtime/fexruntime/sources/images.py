"""Encoded images -> uint8 RGB.

Mirrors py-feat's reading: alpha is dropped, grey is repeated, EXIF orientation is ignored unless asked for. One thing
is kinder: 16-bit images are brought to 8 bits.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fexruntime.arrays import U8
from fexruntime.errors import EnvironmentMissingError, InputError, OutOfMemoryError
from fexruntime.sources.arrays import checked
from fexruntime.sources.limits import check_pixels
from fexruntime.sources.tiff import UPRIGHT, as_stored, orientation
from fexruntime.sources.tiff import size as tiff_size

_log = logging.getLogger("fexruntime.images")
_noted: list[str] = []
"""The picture that was named for its orientation tag: one is enough."""

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".dib", ".gif", ".webp", ".avif", ".jp2", ".tif", ".tiff",
    ".pbm", ".pgm", ".ppm", ".pnm",
)  # fmt: skip
"""What is read of a folder: every kind that OpenCV's wheels decode, all of which are read when they are named, too."""


def read_image(path: Path, exif: bool = False, max_pixels: int | None = None) -> U8:
    """Decode an image file as [H,W,3] uint8 RGB; `exif` turns it as its orientation tag says.

    Raises InputError for what is not an image, and for one that is cut off.
    """
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputError(f"cannot read {str(path)!r}: {getattr(error, 'strerror', None) or error}") from None
    return decode_image(data, repr(str(path)), exif, max_pixels)


def decode_image(data: bytes, called: str, exif: bool = False, max_pixels: int | None = None) -> U8:
    """Decode an image file's bytes as [H,W,3] uint8 RGB; `called` is how errors name it. `max_pixels`: see `limits.bound`."""
    try:
        import cv2
    except ImportError as error:
        raise EnvironmentMissingError(
            f"reading images needs OpenCV ({error}): pip install opencv-python-headless"
        ) from None
    if not data:
        raise InputError(f"{called} is empty")
    if _is_truncated(data):
        raise InputError(f"{called} is cut off: its end marker is missing; copy the file again")
    check_pixels(encoded_size(data), called, max_pixels)
    if not exif:
        _note_turned(data, called)
    flags = cv2.IMREAD_COLOR if exif else cv2.IMREAD_UNCHANGED
    try:
        image: Any = cv2.imdecode(np.frombuffer(data if exif else as_stored(data), np.uint8), flags)
    except cv2.error as error:
        if "Insufficient memory" in str(error):
            raise OutOfMemoryError(f"there is not enough memory to read {called}: make it smaller") from None
        image = None
    if image is None:
        raise InputError(f"{called} is {_kind(data)}")
    check_pixels(image.shape[1::-1], called, max_pixels)
    return checked(_as_rgb_u8(image, called), called)


def _note_turned(data: bytes, called: str) -> None:
    """Say once in a process that a picture would be turned by others."""
    if not _noted and orientation(data) != UPRIGHT:
        _noted.append(called)
        _log.warning(
            "%s has an orientation tag, and is read as it is stored, as py-feat reads it: --exif (exif=True) turns such pictures; "
            "others like it are not named",
            called,
        )


def _kind(data: bytes) -> str:
    """What is said of bytes that could not be decoded."""
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"):
        return "HEIC, which OpenCV cannot decode: convert it to JPEG or PNG"
    return "not an image that OpenCV can decode"


def encoded_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) as the head of a PNG, JPEG, GIF, BMP, WebP or TIFF says, before anything is decoded; None where it is not known."""
    if data.startswith(b"\x89PNG") and len(data) >= 24:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if data.startswith(b"GIF8") and len(data) >= 10:
        return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    if data.startswith(b"BM") and len(data) >= 26:
        width, height = (int.from_bytes(data[k : k + 4], "little", signed=True) for k in (18, 22))
        return abs(width), abs(height)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP" and len(data) >= 30:
        return _webp_size(data)
    return _jpeg_size(data) if data.startswith(b"\xff\xd8") else tiff_size(data)


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Of a WebP's first chunk: a canvas, a lossless picture, or a lossy one (RFC 9649)."""
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _as_rgb_u8(image: NDArray[Any], called: str) -> U8:
    import cv2

    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.dtype != np.uint8:
        raise InputError(f"{called} has {image.dtype} pixels: convert it to 8 or 16 bits first")
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
    """Whether each chunk up to the end marker is all there: decoders make room for what a chunk says that it has."""
    at = 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IEND":
            return at + 12 + length <= len(data)
        at += 12 + length
    return False

"""What the first directory of a TIFF says: its size, and the orientation tag, which OpenCV's decoder obeys whatever it is told: it does of no other
kind of image."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_WIDTH, _HEIGHT, _ORIENTATION = 0x0100, 0x0101, 0x0112
UPRIGHT = 1
"""The orientation tag of a picture that is not to be turned."""
_LAYOUTS = {
    # by version: (struct letters of the first directory's offset, of the number of entries), bytes of an entry, its value's place
    42: ("I", "H", 12, 8),
    43: ("Q", "Q", 20, 12),  # BigTIFF
}
_NUMBERS = {3: "H", 4: "I", 16: "Q"}
"""Struct letters of the types that a size may have."""


def as_stored(data: bytes) -> bytes:
    """The same bytes, but of a TIFF whose tag says that it is to be turned: that one as upright. What is no TIFF stays as it is."""
    for order, tag, _, place, _ in _entries(data):
        if tag == _ORIENTATION:
            upright = bytearray(data)
            struct.pack_into(f"{order}H", upright, place, UPRIGHT)
            return bytes(upright)
    return data


def orientation(data: bytes) -> int:
    """The orientation tag of an image file, 1 (upright) where it has none. The EXIF block of a JPEG, PNG or WebP is a TIFF, too."""
    for head, begin in ((b"\xff\xd8", b"Exif\0\0"), (b"\x89PNG", b"eXIf"), (b"RIFF", b"EXIF")):
        if data.startswith(head):
            # a WebP's comes last, behind its length; the others' stands before the pixels
            at = data.rfind(begin) + 4 if head == b"RIFF" else data.find(begin, 0, 1 << 20)
            data = data[at + len(begin) : at + len(begin) + (1 << 16)] if at >= len(head) else b""
            break
    for order, tag, kind, place, _ in _entries(data):
        if tag == _ORIENTATION and kind == 3:
            value: int = struct.unpack_from(f"{order}H", data, place)[0]
            return value if 1 <= value <= 8 else UPRIGHT
    return UPRIGHT


def size(data: bytes) -> tuple[int, int] | None:
    """(width, height) that a TIFF says; None for what is no TIFF, or does not say it."""
    said: dict[int, int] = {}
    for order, tag, kind, place, room in _entries(data):
        # a number that has no room in its entry stands elsewhere, and decoders read none there
        if tag in (_WIDTH, _HEIGHT) and kind in _NUMBERS and struct.calcsize(_NUMBERS[kind]) <= room:
            said.setdefault(
                tag, struct.unpack_from(f"{order}{_NUMBERS[kind]}", data, place)[0]
            )  # of a repeated tag the first counts
    return (said[_WIDTH], said[_HEIGHT]) if len(said) == 2 else None


def _entries(data: bytes) -> Iterator[tuple[str, int, int, int, int]]:
    """(byte order, tag, type, where its value is, bytes it has there) of the first directory's entries, as far as they are there."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 16:
        return
    (version,) = struct.unpack_from(f"{order}H", data, 2)
    if version not in _LAYOUTS:
        return
    offset, count, length, place = _LAYOUTS[version]
    try:
        (at,) = struct.unpack_from(f"{order}{offset}", data, 4 if version == 42 else 8)
        (entries,) = struct.unpack_from(f"{order}{count}", data, at)
        for k in range(min(entries, 4096)):
            entry = at + struct.calcsize(f"{order}{count}") + k * length
            tag, kind = struct.unpack_from(f"{order}HH", data, entry)
            if entry + length <= len(data):
                yield order, tag, kind, entry + place, length - place
    except (struct.error, OverflowError):  # damaged: the decoder says so
        return

"""The orientation tag of a TIFF, which OpenCV's decoder obeys whatever it is told: it does of no other kind of image."""

from __future__ import annotations

import struct

_ORIENTATION = 0x0112
_UPRIGHT = 1
_LAYOUTS = {
    # by version: (struct letters of the first directory's offset, of the number of entries), bytes of an entry, its value's place
    42: ("I", "H", 12, 8),
    43: ("Q", "Q", 20, 12),  # BigTIFF
}


def as_stored(data: bytes) -> bytes:
    """The same bytes, but of a TIFF whose tag says that it is to be turned: that one as upright. What is no TIFF stays as it is."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 16:
        return data
    (version,) = struct.unpack_from(f"{order}H", data, 2)
    if version not in _LAYOUTS:
        return data
    offset, count, size, place = _LAYOUTS[version]
    try:
        (at,) = struct.unpack_from(f"{order}{offset}", data, 4 if version == 42 else 8)
        (entries,) = struct.unpack_from(f"{order}{count}", data, at)
        for k in range(min(entries, 4096)):
            entry = at + struct.calcsize(f"{order}{count}") + k * size
            (tag,) = struct.unpack_from(f"{order}H", data, entry)
            if tag == _ORIENTATION:
                upright = bytearray(data)
                struct.pack_into(f"{order}H", upright, entry + place, _UPRIGHT)
                return bytes(upright)
    except (struct.error, OverflowError):  # damaged: the decoder says so
        pass
    return data

"""A corpus of broken and hostile input, made up on the spot: the same bytes on every run."""

from __future__ import annotations

import copy
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

FORMATS = {
    "jpg": [cv2.IMWRITE_JPEG_QUALITY, 90],
    "png": [],
    "webp": [cv2.IMWRITE_WEBP_QUALITY, 90],
    "tiff": [],
    "bmp": [],
}


def picture() -> np.ndarray:
    """[96,128,3] uint8, of smooth colours and noise."""
    y, x = np.mgrid[:96, :128]
    noise = np.random.RandomState(0).randint(0, 32, (96, 128, 3))
    return (np.stack([2 * y, x, x + y], axis=2) % 224 + noise).astype(np.uint8)


def encoded() -> dict[str, bytes]:
    image = picture()
    return {name: cv2.imencode(f".{name}", image, options)[1].tobytes() for name, options in FORMATS.items()}


def truncated() -> Iterator[tuple[str, bytes]]:
    for name, data in encoded().items():
        for share in (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99):
            yield f"{name} cut at {share:.1%}", data[: max(1, int(share * len(data)))]


def flipped() -> Iterator[tuple[str, bytes]]:
    for name, data in encoded().items():
        for seed in range(16):
            rng, changed = np.random.RandomState(seed), bytearray(data)
            for at in rng.randint(0, len(data) if seed % 2 else min(200, len(data)), 1 + seed):
                changed[at] ^= 1 << rng.randint(8)
            yield f"{name} with {1 + seed} bits flipped, seed {seed}", bytes(changed)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bombs() -> Iterator[tuple[str, bytes]]:
    """Small files that say that they are enormous."""
    pixels = zlib.compress(bytes(1 << 20))
    for side in (40_000, 100_000, 0x7FFFFFFF):
        head = _chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        yield f"png of {side} px a side", b"\x89PNG\r\n\x1a\n" + head + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")
        yield f"pgm of {side} px a side", f"P5 {side} {side} 255\n".encode() + bytes(100)
        yield (
            f"bmp of {side} px a side",
            b"BM"
            + struct.pack("<IHHIIiiHHIIiiII", 200, 0, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
            + bytes(100),
        )
    jpeg = bytearray(encoded()["jpg"])
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 65500, 65500)
    yield "jpg of 65500 px a side", bytes(jpeg)
    tiff = bytearray(encoded()["tiff"])
    offset = struct.unpack("<I", tiff[4:8])[0]
    for entry in range(struct.unpack("<H", tiff[offset : offset + 2])[0]):
        where = offset + 2 + 12 * entry
        if struct.unpack("<H", tiff[where : where + 2])[0] in (256, 257):  # width, height
            tiff[where : where + 12] = tiff[where : where + 2] + struct.pack("<HII", 4, 1, 1_000_000)
    yield "tiff of 1000000 px a side", bytes(tiff)


def oddities() -> Iterator[tuple[str, bytes]]:
    image = encoded()
    starts = {
        "jpg": b"\xff\xd8\xff",
        "png": b"\x89PNG\r\n\x1a\n",
        "webp": b"RIFF\xff\xff\xff\xffWEBPVP8 ",
        "tiff": b"II*\0",
        "gif": b"GIF89a",
    }
    for name, start in starts.items():
        for size in (0, 16, 4096):
            yield f"{name} of noise, {size} bytes", start + np.random.RandomState(size).bytes(size)
    yield "nothing", b""
    yield "zeros", bytes(1000)
    yield "text", b"not an image at all\n" * 50
    yield "html", b"<!doctype html><html>404</html>"
    yield "a pickle", b"cos\nsystem\n(S'touch fexport-was-here'\ntR."
    yield "svg", b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"
    yield (
        "a png with a picture of no pixels",
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", bytes(8) + b"\x08\x02\0\0\0") + _chunk(b"IEND", b""),
    )
    yield (
        "tiff that is its own next page",
        image["tiff"][:4] + struct.pack("<I", 8) + struct.pack("<H", 0) + struct.pack("<I", 8),
    )
    one = cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))[1].tobytes()
    yield "one pixel", one
    yield "deep floats", cv2.imencode(".tiff", np.full((8, 8), np.nan, np.float32))[1].tobytes()


def images() -> dict[str, bytes]:
    """Everything that is given as the bytes of an image."""
    return dict([*truncated(), *flipped(), *bombs(), *oddities()])


def videos(folder: Path) -> dict[str, bytes]:
    """A short MP4 cut off or with bits flipped, its index before or behind its pictures."""
    import clips

    made = {}
    for name, flags in (("index behind", {}), ("index first", {"movflags": "faststart"})):
        data = clips.write(folder / "whole.mp4", clips.numbered(12), container=flags).read_bytes()
        for share in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
            made[f"mp4, {name}, cut at {share:.0%}"] = data[: int(share * len(data))]
        for seed in range(14):
            rng, changed = np.random.RandomState(seed), bytearray(data)
            for at in rng.randint(0, len(data), 1 + 3 * seed):
                changed[at] ^= 1 << rng.randint(8)
            made[f"mp4, {name}, {1 + 3 * seed} bits flipped"] = bytes(changed)
    return made


def _leaves(value: object, path: tuple = ()) -> Iterator[tuple]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from _leaves(item, (*path, key))


WRONG = (None, -1, "../../etc/passwd", "/etc/passwd", "a\0b", [], {"x": 1}, True, 1e400, "x" * 5000)


def manifests(folder: Path) -> dict[str, bytes]:
    """A bundle's manifest with one thing wrong in each."""
    data = (folder / "manifest.json").read_bytes()
    value, made = json.loads(data), {}
    for number, path in enumerate(_leaves(value)):
        for wrong in (WRONG[number % len(WRONG)], WRONG[(number + 3) % len(WRONG)]):
            changed = copy.deepcopy(value)
            at = changed
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = wrong
            made[f"{'.'.join(map(str, path))} = {str(wrong)[:20]!r}"] = json.dumps(changed).encode()
    for version in (0, 1, 3, 10**6, "2", 2.5):
        made[f"format {version!r}"] = json.dumps(value | {"format": version}).encode()
    made |= {
        "nested a hundred thousand deep": b"[" * 100_000,
        "an object nested deep": b'{"a":' * 100_000,
        "a number of ten thousand digits": b'{"format": ' + b"9" * 10_000 + b"}",
        "cut in half": data[: len(data) // 2],
        "utf-16": data.decode().encode("utf-16"),
        "not utf-8": data.replace(b"fexport", b"\xff\xfe"),
        "a list": b"[1, 2]",
        "nothing": b"",
        "zeros": bytes(100),
    }
    return made


ARRAYS = {
    "NaN": np.full((64, 64, 3), np.nan, np.float32),
    "infinite": np.full((64, 64, 3), np.inf),
    "objects": np.full((64, 64, 3), None),
    "booleans": np.zeros((64, 64, 3), bool),
    "complex": np.zeros((64, 64, 3), complex),
    "uint16": np.zeros((64, 64, 3), np.uint16),
    "int64": np.zeros((64, 64, 3), int),
    "dates": np.zeros((64, 64, 3), "datetime64[s]"),
    "records": np.zeros((64, 64), [("r", "u1"), ("g", "u1"), ("b", "u1")]),
    "no dimension": np.uint8(3),
    "one dimension": np.zeros(64, np.uint8),
    "two dimensions": np.zeros((64, 64), np.uint8),
    "five dimensions": np.zeros((1, 1, 64, 64, 3), np.uint8),
    "alpha": np.zeros((64, 64, 4), np.uint8),
    "channels first": np.zeros((3, 64, 64), np.uint8),
    "no height": np.zeros((0, 64, 3), np.uint8),
    "no width": np.zeros((64, 0, 3), np.uint8),
    "no channels": np.zeros((64, 64, 0), np.uint8),
    "one row": np.zeros((1, 64, 3), np.uint8),
}
"""What a program may hand over as an image and is none: each is refused."""

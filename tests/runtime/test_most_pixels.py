"""Images that stand for more memory than anybody meant are refused by their head."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest

from fexruntime import Detector, InputError
from fexruntime.sources.images import decode_image, encoded_size


def bomb(side):
    """A PNG whose head says side x side, with next to no data."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    packed = (struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_a_bomb_is_named_with_its_size_and_the_fix(tmp_path):
    (tmp_path / "bomb.png").write_bytes(bomb(14_000))
    with pytest.raises(InputError, match=r"bomb\.png' has 14000 x 14000 pixels.*FEXPORT_MAX_PIXELS=196000000"):
        Detector().detect(tmp_path / "bomb.png")


def heads():
    """(what, file) of pictures of 30 x 20 pixels in every kind whose head is read."""
    from PIL import Image

    image, made = np.random.RandomState(0).randint(0, 256, (20, 30, 3)).astype(np.uint8), {}
    for suffix in (".png", ".jpg", ".bmp", ".gif", ".tiff", ".webp"):
        made[suffix] = cv2.imencode(suffix, image)[1].tobytes()
    alpha = Image.fromarray(np.dstack([image, image[:, :, 0]]), "RGBA")
    for name, kind, picture, options in (
        ("lossy WebP", "WEBP", Image.fromarray(image), {"quality": 50}),
        ("lossless WebP", "WEBP", Image.fromarray(image), {"lossless": True}),
        ("WebP with alpha", "WEBP", alpha, {"quality": 50}),
        ("BigTIFF", "TIFF", Image.fromarray(image), {"big_tiff": True}),
    ):
        file = io.BytesIO()
        picture.save(file, kind, **options)
        made[name] = file.getvalue()
    made["TIFF of the other byte order"] = _motorola(image)
    return made


def _motorola(image):
    """A TIFF as big-endian machines wrote it: one strip, no compression."""
    height, width = image.shape[:2]
    tags = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
        (273, 4, 1, 200), (277, 3, 1, 1), (278, 3, 1, height), (279, 4, 1, width * height),
    ]  # fmt: skip
    packed = b"".join(
        struct.pack(">HHI", *t[:3]) + (struct.pack(">HH", t[3], 0) if t[1] == 3 else struct.pack(">I", t[3]))
        for t in tags
    )
    head = b"MM\0*" + struct.pack(">IH", 8, len(tags)) + packed + bytes(4)
    return head.ljust(200, b"\0") + image[:, :, 0].tobytes()


@pytest.mark.parametrize("name", heads())
def test_a_head_says_the_size_that_is_decoded(name):
    data = heads()[name]
    assert encoded_size(data) == (30, 20)
    assert decode_image(data, "it").shape == (20, 30, 3)
    for length in range(0, min(len(data), 300)):  # cut off anywhere: not known, or known
        assert encoded_size(data[:length]) in (None, (30, 20))


def test_a_tiff_whose_size_has_no_room_in_its_entry_says_none():
    """Eight bytes where four are: behind them the file ends."""
    entry = struct.pack("<HHIHH", 256, 16, 1, 30, 0)
    data = b"II*\0" + struct.pack("<IH", 8, 1) + entry
    assert encoded_size(data) is None
    with pytest.raises(InputError, match="is not an image that OpenCV can decode"):
        decode_image(data, "it")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".gif", ".webp", ".tiff"])
def test_the_bound_holds_in_every_format(suffix, monkeypatch):
    data = cv2.imencode(suffix, np.zeros((20, 30, 3), np.uint8))[1].tobytes()
    monkeypatch.setenv("FEXPORT_MAX_PIXELS", "600")
    assert decode_image(data, "it").shape == (20, 30, 3)
    monkeypatch.setenv("FEXPORT_MAX_PIXELS", "599")
    with pytest.raises(InputError, match="it has 30 x 20 pixels"):
        decode_image(data, "it")
    monkeypatch.setenv("FEXPORT_MAX_PIXELS", "many")
    with pytest.raises(InputError, match="FEXPORT_MAX_PIXELS='many'"):
        decode_image(data, "it")

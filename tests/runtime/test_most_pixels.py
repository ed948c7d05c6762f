"""Images that stand for more memory than anybody meant are refused by their head."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest

from fexruntime import Detector, InputError
from fexruntime.sources.images import decode_image


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


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".gif", ".webp"])
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

"""Encoded images."""

from __future__ import annotations

import os
import random
import zlib

import cv2
import numpy as np

from fexruntime.errors import InputError
from fexruntime.sources import images, limits
from fuzz_targets.target import READ, Broken, Target, refusal

MOST_PIXELS = 1_000_000


def _images() -> list[bytes]:
    y, x = np.mgrid[:24, :32]
    image = np.stack([8 * y, 6 * x, x + y], axis=2).astype(np.uint8)
    four = np.dstack([image, 255 - image[:, :, :1]])
    made = [
        cv2.imencode(f".{kind}", image)[1].tobytes() for kind in ("jpg", "png", "webp", "tiff", "bmp", "ppm", "gif")
    ]
    made += [cv2.imencode(f".{kind}", image[:, :, 0])[1].tobytes() for kind in ("jpg", "png", "tiff", "pgm")]
    made += [cv2.imencode(".png", four)[1].tobytes(), cv2.imencode(".webp", four)[1].tobytes()]
    made += [cv2.imencode(f".{kind}", image.astype(np.uint16) * 256)[1].tobytes() for kind in ("png", "tiff")]
    made.append(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes())
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    made.append(made[0][:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + made[0][2:])
    return made


def check_image(data: bytes) -> str:
    """An image is read, in the size that its head says, or refused."""
    os.environ[limits.PIXELS_VARIABLE] = str(MOST_PIXELS)
    said = images.encoded_size(data)
    try:
        image = images.decode_image(data, "the image", exif=bool(len(data) & 1))
    except InputError as error:
        return refusal(error)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.flags.c_contiguous:
        raise Broken(f"not an image: {image.shape} {image.dtype}")
    if image.shape[0] * image.shape[1] > MOST_PIXELS:
        raise Broken(f"more pixels than are allowed: {image.shape}")
    if said is not None and said[0] * said[1] < image.shape[0] * image.shape[1]:
        raise Broken(f"{image.shape[1]} x {image.shape[0]} pixels, its head said {said}: the limit could be passed")
    return READ


def _mutate_image(data: bytes, rng: random.Random) -> bytes:
    """Bytes changed here and there; a PNG's chunks get right checksums, or no change but the checksum's would be seen."""
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        if changed:
            changed[rng.randrange(min(len(changed), rng.choice((32, 64, 1 << 30))))] = rng.choice(
                (0, 1, 2, 127, 128, 255, rng.randrange(256))
            )
    at = 8
    while changed.startswith(b"\x89PNG") and at + 12 <= len(changed):
        end = at + 8 + int.from_bytes(changed[at : at + 4], "big")
        if end + 4 <= len(changed):
            changed[end : end + 4] = zlib.crc32(changed[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(changed)


TARGET = Target(_images, check_image, _mutate_image, ("sources/images.py",), 1 << 13)

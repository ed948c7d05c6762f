"""Videos made for tests: the packaged photograph moved about, in any container, codec and timing."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

SIZE = 160


def pictures(photo, frames: int, size: int = SIZE) -> list[np.ndarray]:
    """The astronaut's face [size,size,3] RGB, drifting and growing."""
    whole = cv2.cvtColor(cv2.imread(str(photo)), cv2.COLOR_BGR2RGB)
    made = []
    for n in range(frames):
        left, top, side = 140 + n % 40, 30 + (n * 2) % 30, 170 + n % 20
        made.append(cv2.resize(whole[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA))
    return made


def write(
    path: Path,
    images,
    times=None,
    codec="libx264",
    pix_fmt="yuv420p",
    options=None,
    container=None,
    display_rotation=0,
    **context,
) -> Path:
    """Write images as a video; `times` are pts in units of 1/600 s (none: 30 a second)."""
    with av.open(str(path), "w", options=container or {}) as container:
        stream = container.add_stream(codec, rate=30, options=options or {})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pix_fmt
        base = Fraction(1, 30) if times is None else Fraction(1, 600)
        stream.time_base = stream.codec_context.time_base = base
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        for n, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            if pix_fmt != "rgb24":
                frame = frame.reformat(format=pix_fmt)
            frame.pts, frame.time_base = (n if times is None else times[n]), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    if display_rotation:
        _turn(path)
    return path


def _turn(path: Path) -> None:
    """Write a quarter turn into the display matrix of an MP4's only track."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: the matrix stands 40 bytes behind the name
    one = 1 << 16
    for k, value in enumerate((0, one, 0, -one, 0, 0, 0, 0, 1 << 30)):
        data[at + 4 * k : at + 4 * k + 4] = value.to_bytes(4, "big", signed=True)
    path.write_bytes(data)


def pictures_of_noise(frames: int, size: int = 64) -> list[np.ndarray]:
    """Frames that take many bytes each."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (size, size, 3), np.uint8) for _ in range(frames)]


def numbered(frames: int, size: int = 64) -> list[np.ndarray]:
    """Frames whose number stands in them, in stripes: one a bit, dark or bright."""
    stripes = [[200 if n >> bit & 1 else 40 for bit in range(8)] for n in range(frames)]
    return [np.tile(np.repeat(np.array(s, np.uint8), size // 8)[None, :, None], (size, 1, 3)) for s in stripes]


def number_of(rgb: np.ndarray) -> int:
    stripes = rgb.astype(float).mean(axis=(0, 2)).reshape(8, -1).mean(axis=1)
    return sum(1 << bit for bit in range(8) if stripes[bit] > 120)


def sound_only(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path

"""A frame as the detector sees it, and how it came from the original.

Mirrors py-feat's `Rescale`: `output_size` scales the longer side and pads to a square.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from fexruntime.arrays import U8
from fexruntime.errors import InputError
from fexruntime.options import OutputSize
from fexruntime.resample import resize_u8


@dataclass(frozen=True, slots=True)
class Moment:
    """When a frame of a video is shown."""

    pts: int | None
    """Presentation time as the file has it, in units of `time_base`; None where the file has none."""
    time_base: Fraction
    """Seconds of one unit of `pts`."""
    time_s: float
    """Seconds on a player's clock: from the start of the file (of its earliest stream), so that sound lines up with it."""
    approx: str = ""
    """py-feat's `approx_time`: minutes and seconds of the frame's number over the average rate, cut to whole seconds."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One frame: `rgb_u8` [H,W,3] is contiguous; where pixels are worked on by a GPU it may be `on_device.DevicePixels`.

    A point p of it is the point (p - pad_xy) / scale of the original, whose size py-feat reports as (seen size -
    padding) / scale in float32: with `output_size` that is not quite the true one.
    """

    rgb_u8: U8
    index: int
    name: str
    scale: float = 1.0
    pad_xy: tuple[int, int] = (0, 0)
    reported_hw: tuple[float, float] = (0.0, 0.0)
    """(0, 0) stands for the size of the pixels."""
    moment: Moment | None = None
    """Of a frame of a video, when it is shown."""
    order: int = 0
    """Running number over everything that was read, frames of videos one by one."""
    source: int = 0
    """Number of the sequence that it is of: frames of one source follow each other in time."""
    number: int = 0
    """Number of the input that it is of."""
    original_rgb_u8: U8 | None = None
    """The original's pixels where `rgb_u8` was rescaled."""

    def __post_init__(self) -> None:
        if self.reported_hw == (0.0, 0.0):
            height, width = self.rgb_u8.shape[:2]
            object.__setattr__(self, "reported_hw", (float(height), float(width)))


def frame_of(rgb: U8, index: int, name: str, output_size: OutputSize = None, padded: bool = True) -> Frame:
    """A frame from pixels [H,W,3] uint8 RGB, rescaled where asked. InputError if nothing would be left of it.

    `padded` False: not brought to the asked shape with black, as py-feat treats videos.
    """
    height, width = rgb.shape[:2]
    if output_size is None:
        return Frame(rgb, index, name)
    scale, new_h, new_w = rescaled_size(height, width, output_size)
    target_h, target_w = output_size if isinstance(output_size, tuple) else (output_size, output_size)
    if min(new_h, new_w) < 1:
        raise InputError(f"{name!r} ({width} x {height}) has no pixels left at output_size={output_size}")
    # the odd pixel of padding goes to the bottom and the right
    if not padded:
        target_h, target_w = new_h, new_w
    top, left = max(target_h - new_h, 0) // 2, max(target_w - new_w, 0) // 2
    canvas = np.zeros((max(target_h, new_h), max(target_w, new_w), 3), np.uint8)
    canvas[top : top + new_h, left : left + new_w] = resize_u8(rgb, new_h, new_w)
    reported = (float(np.float32(new_h / scale)), float(np.float32(new_w / scale)))
    return Frame(canvas, index, name, scale, (left, top), reported, original_rgb_u8=rgb)


def rescaled_size(height: int, width: int, output_size: int | tuple[int, int]) -> tuple[float, int, int]:
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

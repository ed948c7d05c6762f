"""The frames of a video before any is decoded: how many, which pts each has, where decoding can begin.

Mirrors torchcodec's exact mode, which py-feat reads videos with: a scan of all packets, frames numbered by their pts,
average rate = frames / (end of the last − start of the first).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fexruntime.sources.frame import Moment

_NO_PTS = ("avi", "h264", "hevc", "m4v", "mpegvideo", "mjpeg")
"""Containers that store no presentation times: what FFmpeg says there is a guess, and wrong where frames are reordered."""
_SLACK_S, _SLACK = 0.5, 0.02
"""By how much the content of a Matroska file may be shorter than its header says before it counts as cut off."""


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """What a scan of the packets found."""

    frames: int
    time_base: Fraction
    start: int | None
    """The file's start on its own clock, in millionths of a second."""
    rate: float
    """Average frames per second, as torchcodec has it."""
    pts: NDArray[np.int64] | None
    """[frames] ascending; None where the file's times cannot number its frames (absent, repeated, going back)."""
    keys: NDArray[np.int64]
    """Numbers of the frames at which decoding can begin, ascending; [0] without `pts`."""
    cut: str | None = None
    """How the file shows that it ends before its end."""
    stored: bool = True
    """Whether the file stores presentation times at all."""

    def moment(self, index: int, pts: int | None, time_base: Fraction) -> Moment:
        """When the frame with this number is shown."""
        pts = pts if self.stored else None
        return Moment(pts, time_base, self._time_s(index, pts, time_base), self.approx(index))

    def _time_s(self, index: int, pts: int | None, time_base: Fraction) -> float:
        if pts is None:
            return index / self.rate if self.rate else 0.0
        return float(pts * time_base - Fraction(self.start or 0, 1_000_000))

    def approx(self, index: int) -> str:
        """py-feat's `approx_time` of a frame."""
        if not self.rate:
            return "00:00"
        seconds = min(index, self.frames) / self.rate
        return f"{int(seconds // 60):02d}:{int(seconds % 60):02d}"

    def numbers(self, skip: int, start: float | None, end: float | None) -> range:
        """Numbers of the frames to read: multiples of `skip` that are shown from `start` to before `end` (seconds).

        Without usable times, by the average rate.
        """
        first, last = 0, self.frames
        if start is not None:
            first = self._number_at(start)
        if end is not None:
            last = self._number_at(end)
        return range(-(-first // skip) * skip, last, skip)

    def _number_at(self, seconds: float) -> int:
        """The first frame that is shown at this time or later."""
        if self.pts is None:
            return min(self.frames, int(np.ceil(seconds * self.rate - 1e-9)))
        # exact: a time that was written with fewer digits than it has still means its frame
        limit = (Fraction(seconds).limit_denominator(10**9) + Fraction(self.start or 0, 1_000_000)) / self.time_base
        return int(np.searchsorted(self.pts, int(-(-limit.numerator // limit.denominator)), side="left"))

    def key_before(self, index: int) -> int:
        """The last frame at or before this one at which decoding can begin."""
        return int(self.keys[max(int(np.searchsorted(self.keys, index, side="right")) - 1, 0)])


def scan(container: Any, stream: Any) -> Timeline:
    """Read all packets of a stream of an opened PyAV container, decoding none."""
    pts: list[int | None] = []
    durations: list[int] = []
    keys: list[bool] = []
    seen, last_dts, ordered, cut = 0, None, True, None
    error_class = _av_error()
    try:
        for packet in container.demux(stream):
            if packet.size == 0 and packet.dts is None:  # the flush at the end
                continue
            seen += 1
            if packet.is_discard or packet.size == 0:  # before an edit list's start; a repeat of the frame before
                continue
            pts.append(packet.pts)
            durations.append(packet.duration or 0)
            keys.append(packet.is_keyframe)
            if packet.dts is not None:
                ordered = ordered and (last_dts is None or packet.dts >= last_dts)
                last_dts = packet.dts
    except error_class as error:
        cut = str(getattr(error, "strerror", None) or error)
    known = [p for p in pts if p is not None]
    span = max((p + d for p, d in zip(pts, durations, strict=True) if p is not None), default=0) - min(known, default=0)
    stored = container.format.name not in _NO_PTS
    ordered = ordered and len(set(known)) == len(known) == len(pts)
    rate = _rate(len(pts), span if ordered else 0, stream)
    cut = cut or _cut(container, stream, seen, known, durations)
    usable = stored and ordered and len(pts) > 0
    times = np.sort(np.array(known, np.int64)) if usable else None
    at = [0] if times is None else [int(np.searchsorted(times, p)) for p in itertools.compress(known, keys)]
    begins = np.array(sorted(at) or [0], np.int64)
    return Timeline(len(pts), stream.time_base, container.start_time, rate, times, begins, cut, stored)


def _rate(frames: int, span: int, stream: Any) -> float:
    if span > 0:
        return frames / float(span * stream.time_base)
    return float(stream.average_rate or stream.base_rate or 0)


def _cut(container: Any, stream: Any, seen: int, known: list[int], durations: list[int]) -> str | None:
    """Why a file that was read to its end without an error is not whole all the same."""
    if stream.frames and seen < stream.frames:
        return f"{seen} of {stream.frames} frames are in it"
    if "matroska" in container.format.name and container.duration and known and len(container.streams) == 1:
        content = float((max(known) + durations[-1]) * stream.time_base)
        whole = container.duration / 1_000_000
        if content < whole - max(_SLACK_S, _SLACK * whole):
            return f"{content:.1f} of {whole:.1f} seconds are in it"
    return None


def _av_error() -> type[Exception]:
    from av.error import FFmpegError

    return FFmpegError

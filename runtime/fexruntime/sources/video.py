"""Videos -> frames with exact numbers and times, decoded by PyAV (FFmpeg's libraries).

Mirrors py-feat's VideoDataset over torchcodec: pixels of 8-bit video are torchcodec's bit for bit (both are libswscale's
default conversion, with the matrix and range that the frame says). Frames are turned as the file's display matrix says, and sample aspect
ratios ignored, as there.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fexruntime.arrays import U8
from fexruntime.errors import CutOffError, EnvironmentMissingError, InputError, one_line
from fexruntime.sources.frame import Moment
from fexruntime.sources.timeline import Timeline, scan

VIDEO_SUFFIXES = (
    ".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".wmv", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".flv", ".3gp",
    ".ogv", ".mxf", ".h264",
)  # fmt: skip
_WORTH_A_SEEK = 32
"""Frames to the next key frame from which on a seek is cheaper than decoding them."""
_log = logging.getLogger("fexruntime.video")


def is_video(path: str | os.PathLike[str]) -> bool:
    """Whether a path's suffix is a video's."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def import_av() -> Any:
    """PyAV; EnvironmentMissingError with the fix if it is not there."""
    try:
        import av
    except ImportError as error:
        raise EnvironmentMissingError(f"reading videos needs PyAV ({error}): pip install 'fexport[video]'") from None
    # what goes wrong is said in one sentence here; FFmpeg's own log would go to the terminal
    av.logging.set_level(None)
    return av


@dataclass(frozen=True, slots=True)
class Picked:
    """A decoded frame."""

    index: int
    rgb_u8: U8
    moment: Moment


class Video:
    """A video file: its timeline (read when it is opened), and its frames.

    `rotate` turns frames as the file's display matrix says. Raises InputError for what is not a video or has no frames.
    """

    def __init__(self, path: Path, rotate: bool = True) -> None:
        self.path, self.rotate = path, rotate
        self.turned = 0
        """Degrees by which the file says that it is to be turned, counter-clockwise; known once a frame was read."""
        with self._opened() as (container, stream):
            self.size_hw: tuple[int, int] = (int(stream.height), int(stream.width))
            """As its head says."""
            self.timeline: Timeline = scan(container, stream)
        if not self.timeline.frames:
            cut = f" ({self.timeline.cut})" if self.timeline.cut else ""
            raise InputError(f"{str(path)!r} has no frames of video in it{cut}")
        if self.timeline.pts is None:
            _log.info("%s: its times cannot number its frames; they are counted, and read from the beginning", path)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        av = import_av()
        try:
            if self.path.stat().st_size == 0:
                raise InputError(f"{str(self.path)!r} is empty")
            container = av.open(str(self.path), mode="r")
        except OSError as error:  # some of FFmpeg's errors too: those of the file system
            raise InputError(f"cannot read {str(self.path)!r}: {error.strerror or error}") from None
        except (_errors(), ValueError) as error:
            said = getattr(error, "strerror", None) or one_line(error)
            raise InputError(
                f"{str(self.path)!r} is not a video that can be read: {said}; if it was cut off while it was recorded or "
                "copied, copy or repair it first"
            ) from None
        with container:
            # a picture of an album's cover is a stream of one frame
            streams = [s for s in container.streams.video if not int(s.disposition) & int(_attached(s))]
            if not streams:
                kinds = sorted({s.type for s in container.streams}) or ["nothing"]
                raise InputError(f"{str(self.path)!r} has no video in it, only {', '.join(kinds)}")
            if streams[0].codec_context is None:
                raise InputError(f"{str(self.path)!r} has video in a coding that FFmpeg has no decoder for")
            streams[0].thread_type = "AUTO"
            yield container, streams[0]

    def frames(self, numbers: range) -> Iterator[Picked]:
        """The frames with these numbers (ascending), in order; what lies between is decoded only where it must be.

        Raises CutOffError at the end if some of them are not there or could not be decoded.
        """
        if not numbers:
            return
        given, undecoded = 0, 0
        with self._opened() as (container, stream):
            reformatter = import_av().video.reformatter.VideoReformatter()
            decoded = _Decoded(container, stream, self.timeline, self._opened)
            for frame, index in decoded.of(numbers):
                given += 1
                try:
                    pixels = reformatter.reformat(frame, format="rgb24").to_ndarray()
                except (OSError, ValueError, MemoryError, _errors()) as error:
                    raise InputError(
                        f"frame {index} of {str(self.path)!r} ({frame.width} x {frame.height}, {frame.format.name}) cannot be made "
                        f"RGB: {getattr(error, 'strerror', None) or one_line(error)}"
                    ) from None
                self.turned = int(frame.rotation)
                if self.turned and self.rotate:
                    pixels = np.rot90(pixels, round(self.turned / 90))
                moment = self.timeline.moment(index, frame.pts, frame.time_base or self.timeline.time_base)
                yield Picked(index, np.ascontiguousarray(pixels), moment)
            undecoded = decoded.undecoded
        if given < len(numbers):
            cut = self.timeline.cut or f"{undecoded} packets of it could not be decoded"
            raise CutOffError(
                f"{str(self.path)!r} is cut off or damaged ({cut}): {given} of {len(numbers)} frames were read"
            )
        if self.timeline.cut and numbers[-1] + numbers.step >= self.timeline.frames:
            raise CutOffError(
                f"{str(self.path)!r} is cut off ({self.timeline.cut}): all {given} frames that are there were read"
            )


class _Decoded:
    """Frames of a stream by number: seeks where that saves decoding, counts where times cannot number."""

    def __init__(self, container: Any, stream: Any, timeline: Timeline, reopen: Any) -> None:
        self._container, self._stream, self._timeline = container, stream, timeline
        self.undecoded = 0
        self._at = 0
        """Number of the frame that decoding gives next, as far as is known."""

    def of(self, numbers: range) -> Iterator[tuple[Any, int]]:
        frames = self._from(numbers[0])
        for number in numbers:
            key = self._timeline.key_before(number)
            if key - self._at > _WORTH_A_SEEK:
                frames = self._from(number)
            for frame, index in frames:
                if index == number:
                    yield frame, index
                if index >= number:
                    break
            else:
                return

    def _from(self, number: int) -> Iterator[tuple[Any, int]]:
        """Frames from some number that is not beyond this one."""
        key = self._timeline.key_before(number)
        for before in (key, self._timeline.key_before(max(key - 1, 0)), 0):
            if not self._seek(before):
                continue
            frames = self._decode(before)
            first = next(frames, None)
            if first is None:
                continue
            if first[1] <= number or before == 0:  # where a file's index is off, a seek may land too late
                return _again(first, frames)
        return iter(())

    def _seek(self, number: int) -> bool:
        if number == 0 and self._at == 0:
            return True
        pts = self._timeline.pts
        target = 0 if pts is None else int(pts[number])
        try:
            if number == 0:  # from the very beginning, whatever the first frame's time is
                start = self._stream.start_time
                target = min(target, start if start is not None else target)
            self._container.seek(target, stream=self._stream, backward=True)
        except _errors():
            return False
        return True

    def _decode(self, counted_from: int) -> Iterator[tuple[Any, int]]:
        """(frame, its number) as they come out of the decoder: in the order they are shown."""
        pts, count = self._timeline.pts, counted_from
        for frame in self._raw():
            index = count
            if pts is not None and frame.pts is not None:
                index = int(np.searchsorted(pts, frame.pts))
            count = index + 1
            self._at = count
            yield frame, index

    def _raw(self) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except _errors():  # the end of what is there
                self.undecoded += 1
                packet = None
            try:
                frames = self._stream.codec_context.decode(packet) if packet is not None else self._flush()
            except _errors():
                self.undecoded += 1
                frames = []
            yield from frames
            if packet is None or (packet.size == 0 and packet.dts is None):
                return

    def _flush(self) -> list[Any]:
        frames: list[Any] = self._stream.codec_context.decode(None)
        return frames


def _again(first: tuple[Any, int], rest: Iterator[tuple[Any, int]]) -> Iterator[tuple[Any, int]]:
    yield first
    yield from rest


def _attached(stream: Any) -> int:
    return int(type(stream.disposition).attached_pic)


def _errors() -> type[Exception]:
    from av.error import FFmpegError

    return FFmpegError

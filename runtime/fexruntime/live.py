"""Faces of a live source: the newest frame wins, what was not in time for it is dropped and counted.

with Detector("bundle").live(0) as live:
    for seen in live:
        print(seen.result.au, seen.latency_s, live.dropped)
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias

from fexruntime.arrays import U8
from fexruntime.errors import EnvironmentMissingError, InputError, one_line
from fexruntime.options import Options
from fexruntime.results import FrameResult
from fexruntime.sources.arrays import checked
from fexruntime.sources.frame import Frame, Moment, frame_of
from fexruntime.sources.limits import check_pixels
from fexruntime.sources.video import import_av

if TYPE_CHECKING:
    from fexruntime.walk import Walk

LiveSource: TypeAlias = int | str | Iterable[U8]
"""The index of a webcam, an address that FFmpeg reads (rtsp://…, http://…, a device's path), or an iterable of arrays
[H,W,3] uint8 RGB."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 10.0
_SILENT_S = 10.0
"""An address that says nothing for so long is taken to be lost."""
_CLOCK = Fraction(1, 1_000_000)
_Grabbed = tuple[U8, "int | None", Fraction]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A frame of a live source, and what was read of it."""

    frame: Frame
    result: FrameResult
    latency_s: float
    """From the moment the source gave the frame to its result."""


class Live:
    """Results as they come: iterate once, in one thread; `stop` may be called from another. A context, which stops at its end.

    A frame's `index` is its number among all that the source gave, so gaps are what was dropped; `moment.time_s` is seconds
    since the first one, by this machine's clock. An address or a webcam that is lost is opened again (`reconnects` tries in a
    row, None: until stopped, each after a longer wait, ten seconds at most); one that cannot be opened at first is an error.
    """

    def __init__(
        self, source: LiveSource, options: Options, reconnects: int | None = None, max_pixels: int | None = None
    ) -> None:
        for name, value in (("start", options.start), ("end", options.end)):
            if value is not None:
                raise InputError(f"{name} is of files: a live source has none")
        if options.batch_size != 1 or options.skip_frames != 1:
            raise InputError("a live source gives its newest frame: batch_size and skip_frames must be 1")
        if reconnects is not None and reconnects < 0:
            raise InputError(f"reconnects must be 0 or more, or None, not {reconnects!r}")
        if not isinstance(source, (int, str)) and not isinstance(source, Iterable):
            raise InputError(
                f"cannot watch a {type(source).__name__}: give a webcam's index, an address or an iterable"
            )
        self._source, self._options, self._most, self._pixels = source, options, reconnects, max_pixels
        self.grabbed = self.dropped = self.reconnected = 0
        """Frames that the source gave; those of them that nobody read; times it was opened again."""
        self._newest: tuple[Frame, float] | None = None
        self._began: float | None = None
        self._error: BaseException | None = None
        self._done = False
        self._stopped = threading.Event()
        self._changed = threading.Condition()
        self._walk: Walk | None = None
        self._since: dict[int, float] = {}
        self._thread = threading.Thread(target=self._grab, name="fexport-live", daemon=True)

    @property
    def name(self) -> str:
        """What rows call the source."""
        return f"camera {self._source}" if isinstance(self._source, int) else (
            self._source if isinstance(self._source, str) else "live"
        )  # fmt: skip

    def frames(self) -> Iterator[Frame]:
        """The newest frame, each time one is asked for; waits for one that was not given yet."""
        self._thread.start()
        while True:
            with self._changed:
                while self._newest is None and not self._done and not self._stopped.is_set():
                    self._changed.wait()
                newest, self._newest = self._newest, None
            if newest is None:
                break
            frame, at = newest
            self._since = {frame.index: at}
            yield frame
        if self._error is not None:
            raise self._error

    def through(self, walk: Walk) -> Live:
        """Give the frames to this walk, which must be over `frames()`."""
        self._walk = walk
        return self

    def __iter__(self) -> Generator[Seen, None, None]:
        assert self._walk is not None
        if self._thread.ident is not None:
            raise InputError("a live source can be iterated once: call Detector.live again")
        try:
            for batch in self._walk.batches():
                for frame, result in batch:
                    yield Seen(frame, result, time.monotonic() - self._since[frame.index])
        finally:
            self.stop()

    def stop(self) -> None:
        """Take no more frames; the one that waits is still read, then iteration ends."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()

    def __enter__(self) -> Live:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._thread.is_alive():
            self._thread.join(timeout=2)

    def _grab(self) -> None:
        try:
            self._grab_all()
        except BaseException as error:  # raised again where results are read
            self._error = error
        finally:
            with self._changed:
                self._done = True
                self._changed.notify_all()

    def _grab_all(self) -> None:
        tries, connection = 0, 0
        while not self._stopped.is_set():
            before, lost = self.grabbed, ""
            try:
                with contextlib.closing(_opened(self._source)) as grabbed:
                    for rgb, pts, base in grabbed:
                        if self._stopped.is_set():
                            return
                        self._put(rgb, pts, base, connection)
            except _Lost as error:
                if not self.grabbed:
                    raise InputError(f"cannot watch {self.name!r}: {one_line(error)}") from None
                lost = one_line(error)
            if not isinstance(self._source, (int, str)):
                return
            if not self.grabbed:
                raise InputError(f"{self.name!r} gave no frame")
            tries = 1 if self.grabbed > before else tries + 1
            if self._most is not None and tries > self._most:
                raise InputError(
                    f"{self.name!r} was lost{f' ({lost})' if lost else ''}, and not found again in {self._most} tries"
                )
            self._stopped.wait(min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** (tries - 1)))
            connection += 1
            self.reconnected += 1

    def _put(self, rgb: U8, pts: int | None, base: Fraction, connection: int) -> None:
        check_pixels((rgb.shape[1], rgb.shape[0]), repr(self.name), self._pixels)
        now = time.monotonic()
        if self._began is None:
            self._began = now
        seconds = now - self._began
        moment = Moment(pts, base, seconds, f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}")
        frame = frame_of(rgb, self.grabbed, self.name, self._options.output_size, padded=False)
        # tracks begin anew after a loss: nobody knows what happened meanwhile
        frame = replace(frame, moment=moment, order=self.grabbed, source=connection)
        with self._changed:
            self.grabbed += 1
            self.dropped += self._newest is not None
            self._newest = (frame, now)
            self._changed.notify_all()


class _Lost(Exception):
    """A source ended that should not have."""


def _opened(source: LiveSource) -> Generator[_Grabbed, None, None]:
    """A generator of what the source gives."""
    if isinstance(source, int):
        return _camera(source)
    if isinstance(source, str):
        return _address(source)
    # a producer may refill one buffer: each frame is its own
    return ((checked(image).copy(), None, _CLOCK) for image in source)


def _camera(index: int) -> Generator[_Grabbed, None, None]:
    try:
        import cv2
    except ImportError as error:
        raise EnvironmentMissingError(f"a webcam needs OpenCV ({error}): pip install opencv-python-headless") from None
    capture = cv2.VideoCapture(index)
    try:
        if not capture.isOpened():
            raise _Lost(f"there is no webcam {index} here, or another program has it")
        while True:
            there, bgr = capture.read()
            if not there:
                raise _Lost("the webcam gives no more frames")
            yield checked(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)), None, _CLOCK
    finally:
        capture.release()


def _address(address: str) -> Generator[_Grabbed, None, None]:
    av = import_av()
    # over UDP a lost packet is a torn picture
    options = {"rtsp_transport": "tcp"} if address.startswith("rtsp") else {}
    try:
        with av.open(address, options=options, timeout=_SILENT_S) as container:
            if not container.streams.video:
                raise _Lost("it has no video in it")
            stream = container.streams.video[0]
            stream.thread_type = "SLICE"  # threads by frame give each frame some frames late
            for frame in container.decode(stream):
                yield frame.to_ndarray(format="rgb24"), frame.pts, frame.time_base or stream.time_base
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise _Lost(one_line(error)) from None

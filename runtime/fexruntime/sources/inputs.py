"""What people hand over (`given`) -> frames, read one after another, files ahead of need.

Frames of different sizes may share a run (py-feat's may not). An input that gives no frame, for whatever reason, is one error of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from fexruntime.errors import FexportError, InputError, OutOfMemoryError
from fexruntime.options import Options
from fexruntime.sources.ahead import Ahead
from fexruntime.sources.frame import Frame, frame_of
from fexruntime.sources.given import Film, Inputs, Reading, are_files, sources
from fexruntime.sources.limits import bound, check_pixels
from fexruntime.sources.on_device import is_on_device, on_the_cpu
from fexruntime.sources.video import Video

MEMORY = -1
"""Number of the source of frames that come from memory: one sequence, in the order they come."""
OnBad = Callable[[FexportError], None]


@dataclass(frozen=True, slots=True)
class Position:
    """Where reading stands: the number of an input, and the frame of it that was read last."""

    source: int
    frame: int


class Frames:
    """Frames of `inputs`, numbered: pictures from 0 over all inputs, frames of a video by their place in it.

    `count` inputs and `read` frames were seen so far, bad ones included. An input that cannot be read raises InputError,
    or is handed to `on_bad` and passed over. `own` gives each frame its own copy of an array, for callers that hold
    several while the producer goes on (a camera may refill one buffer). Files are read ahead by a thread; what is in
    memory is taken when it is needed. `after`: go on behind that frame, leaving out what is before it unread. `on_gpu`: arrays
    on a GPU are taken as they lie there (never copied, `own` or not); else they are errors.
    """

    def __init__(
        self,
        inputs: Inputs,
        options: Options | None = None,
        on_bad: OnBad | None = None,
        own: bool = False,
        after: Position | None = None,
        ahead: bool = True,
        max_pixels: int | None = None,
        on_gpu: bool = False,
    ) -> None:
        self.count = self.read = 0
        self._options = options or Options()
        self._most = bound(max_pixels)
        self._sources = sources(inputs, Reading(self._options.exif, self._most, on_gpu), own)
        self._on_bad = on_bad
        self._after = after
        self._ahead = ahead and are_files(inputs)
        self._reading: Ahead[Frame | FexportError] | None = None

    def begin(self) -> None:
        """Read ahead from now on, while the caller still gets ready; `close` if it then does not come to iterate."""
        if self._ahead and self._reading is None:
            self._reading = Ahead(self._found(), _size)

    def close(self) -> None:
        """Read no further ahead."""
        if self._reading is not None:
            self._reading.close()

    def __iter__(self) -> Iterator[Frame]:
        self.begin()
        for item in self._reading or self._found():
            if isinstance(item, Frame):
                yield item
            elif self._on_bad is None:
                raise item
            else:
                self._on_bad(item)

    def _found(self) -> Iterator[Frame | FexportError]:
        """Frames and the errors of inputs that cannot be read, in order."""
        for source in self._sources:
            number, self.count = self.count, self.count + 1
            if self._after is not None and number < self._after.source:
                self.read += 1
                continue
            try:
                if isinstance(source, Film):
                    yield from self._film(source, number)
                elif self._after is None or number > self._after.source:
                    order, self.read = self.read, self.read + 1
                    pixels = source.pixels()
                    self._check(pixels.shape[:2], source.name)
                    if self._options.output_size is not None and is_on_device(pixels):
                        raise on_the_cpu("output_size is")
                    frame = frame_of(pixels, number, source.name, self._options.output_size)
                    yield replace(frame, order=order, source=MEMORY if source.sequence else number, number=number)
                else:
                    self.read += 1
            except (InputError, OutOfMemoryError) as error:
                yield error
            except MemoryError:
                yield OutOfMemoryError(f"there is not enough memory to read {source.name!r}: make it smaller")

    def _check(self, height_width: tuple[int, ...], name: str) -> None:
        """Check the size of a frame, as it is and as it is to become, before it is made."""
        height, width = height_width
        check_pixels((width, height), repr(name), self._most)
        if self._options.output_size is not None:
            size = self._options.output_size
            high, wide = size if isinstance(size, tuple) else (size, size)
            check_pixels((wide, high), f"{name!r} at output_size={size}", self._most)

    def _film(self, film: Film, number: int) -> Iterator[Frame]:
        options = self._options
        video = Video(film.path, options.rotate)
        self._check(video.size_hw, film.name)
        numbers = video.timeline.numbers(options.skip_frames, options.start_s, options.end_s)
        if not numbers:
            times = f"{(video.timeline.frames / video.timeline.rate if video.timeline.rate else 0):.2f} s"
            raise InputError(
                f"no frame of {film.name!r} lies between start and end: it has {video.timeline.frames} ({times})"
            )
        if self._after is not None and number == self._after.source:
            numbers = numbers[numbers.index(self._after.frame) + 1 :] if self._after.frame in numbers else numbers
        for picked in video.frames(numbers):
            order, self.read = self.read, self.read + 1
            frame = frame_of(picked.rgb_u8, picked.index, film.name, options.output_size, padded=False)
            yield replace(frame, moment=picked.moment, order=order, source=number, number=number)


def _size(item: Frame | FexportError) -> int:
    if not isinstance(item, Frame):
        return 0
    return item.rgb_u8.nbytes + (item.original_rgb_u8.nbytes if item.original_rgb_u8 is not None else 0)

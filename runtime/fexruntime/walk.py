"""One call's way through its frames: read, found (or followed), walked through the stages, handed over in batches.

What lasts from frame to frame (tracks, smoothed boxes) is here and can be written down, so that a call that was cut off
can be gone on with as if it had not been.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fexruntime.arrays import F32
from fexruntime.errors import FexportError, InferenceError, InputError
from fexruntime.options import GivenBoxes, Options
from fexruntime.results import FrameResult
from fexruntime.sources.frame import Frame
from fexruntime.sources.inputs import Frames
from fexruntime.track import Find, Smoother, Tracker

if TYPE_CHECKING:
    from fexruntime.contracts import Pipeline
    from fexruntime.landmark_track import LandmarkTracker

OnBad = Callable[[FexportError], None]
Finding = Callable[[Sequence[Frame], Find], "list[dict[str, F32]]"]
"""What stands between frames and their detection: (frames, detection) -> the finder's values of each frame."""
Read = Callable[[Sequence[Frame], Options, "Sequence[F32] | None", "Finding | None"], "list[FrameResult]"]
"""The detector's run: (frames, options, boxes of each or None, finding or None) -> results."""


class Walk:
    """Results of `frames`, a batch at a time; `tracker` (see `tracker_of`) follows faces from one to the next."""

    def __init__(
        self,
        frames: Frames | Iterator[Frame],
        options: Options,
        read: Read,
        boxes: GivenBoxes | None = None,
        on_bad: OnBad | None = None,
        tracker: Tracker | LandmarkTracker | None = None,
    ) -> None:
        self._frames, self._options, self._read = frames, options, read
        self._boxes, self._on_bad = boxes, on_bad
        following = boxes is None
        self.tracker = tracker if following else None
        self._smoother = Smoother(options.bbox_smoothing_alpha) if options.bbox_smoothing_alpha and following else None

    def begin(self) -> None:
        """Read files ahead from now on; `close` if `batches` is then not called."""
        if isinstance(self._frames, Frames):
            self._frames.begin()

    def close(self) -> None:
        """Read no further ahead."""
        if isinstance(self._frames, Frames):
            self._frames.close()

    def batches(self) -> Iterator[list[tuple[Frame, FrameResult]]]:
        """(frame, its result) of each batch; a batch whose frames could not be run may be shorter, or empty."""
        reading = iter(self._frames)
        while batch := list(itertools.islice(reading, self._options.batch_size)):
            yield self._results(batch)
        if self._boxes is not None:
            assert isinstance(self._frames, Frames)
            self._boxes.check_number(self._frames.read)

    def _results(self, batch: Sequence[Frame]) -> list[tuple[Frame, FrameResult]]:
        """Results of a batch; if it could not be run and `on_bad` is there, each frame is tried alone."""
        if len(batch) > 1 and self.tracker is not None and self.tracker.one_at_a_time:
            return [pair for frame in batch for pair in self._results([frame])]
        boxes = None if self._boxes is None else [self._boxes.of(frame.order) for frame in batch]
        # only a batch that may be tried again needs to know where it began
        lasting = self.state() if self._on_bad is not None else {}
        try:
            results = self._read(batch, self._options, boxes, self._finding)
        except InferenceError as error:
            if self._on_bad is None:
                raise
            self.restore(lasting)
            if len(batch) > 1:
                return [pair for frame in batch for pair in self._results([frame])]
            self._on_bad(error)
            return []
        if self.tracker is not None:
            results = self.tracker.remember(results)
        return list(zip(batch, results, strict=True))

    @property
    def _finding(self) -> Finding | None:
        if self.tracker is None and self._smoother is None:
            return None
        return self._found

    def _found(self, frames: Sequence[Frame], find: Find) -> list[dict[str, F32]]:
        # frame by frame where faces are followed; in one run otherwise
        found = find(frames) if self.tracker is None else self.tracker.found(frames, find)
        if self._smoother is not None:
            found = [self._smoother.smoothed(f, v) for f, v in zip(frames, found, strict=True)]
        return found

    @property
    def remembers(self) -> bool:
        """Whether anything lasts from frame to frame."""
        return self.tracker is not None or self._smoother is not None

    def state(self) -> dict[str, Any]:
        """What lasts from frame to frame, for JSON."""
        return {
            "tracker": None if self.tracker is None else self.tracker.state(),
            "smoother": None if self._smoother is None else self._smoother.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        if self.tracker is not None and state.get("tracker") is not None:
            self.tracker.restore(state["tracker"])
        if self._smoother is not None and state.get("smoother") is not None:
            self._smoother.restore(state["smoother"])


def tracker_of(
    pipeline: Pipeline, gives: Sequence[str], options: Options, carry: Sequence[str]
) -> Tracker | LandmarkTracker | None:
    """What follows faces as the options say, if anything does. `gives` are the finder's values, `carry` those computed once a track.

    Raises InputError if the pipeline has no landmarks that a face can be followed by.
    """
    if not options.use_prev_landmarks:
        return Tracker(options.detect_every, carry) if options.track else None
    if not pipeline.follow_by:
        raise InputError(
            f"use_prev_landmarks: {pipeline.name!r} has no mesh to follow faces by; leave it out, or use detect_every"
        )
    from fexruntime.landmark_track import LandmarkTracker

    points, presence = pipeline.follow_by
    return LandmarkTracker(points, presence, gives, options)

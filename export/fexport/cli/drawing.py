"""Pictures and videos with what was found drawn on them, written while a run goes on."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from fexruntime import overlay
from fexruntime.arrays import U8
from fexruntime.errors import FexportError, InputError, OutputError
from fexruntime.files import check_folder, check_ours
from fexruntime.overlay_video import OVERLAY_SUFFIXES, OverlayVideo
from fexruntime.results import FrameResult
from fexruntime.sources.frame import Frame
from fexruntime.sources.video import is_video

if TYPE_CHECKING:
    from fexruntime import Detector

Draw = Callable[[Frame, FrameResult], U8]
"""(frame, its result) -> the original frame with its faces on it."""


def drawing_of(detector: Detector) -> Draw:
    """How the results of a detector are drawn."""
    pipeline, made_up = detector.pipeline, detector.bundle.stand_ins

    def draw(frame: Frame, result: FrameResult) -> U8:
        pixels = frame.rgb_u8 if frame.original_rgb_u8 is None else frame.original_rgb_u8
        return overlay.draw(pixels, result, made_up, pipeline.pitch_up, pipeline.labels, magnify=frame.moment is None)

    return draw


class Drawings:
    """Overlays of a run's inputs in a folder (a PNG a picture, an MP4 a video), or one video as one file: a context.

    A picture that cannot be written is kept in `failed`, and costs nothing else. After an error nothing is left.
    """

    def __init__(self, where: Path, files: Sequence[str], draw: Draw) -> None:
        self._draw = draw
        self._film = where if where.suffix.lower() in OVERLAY_SUFFIXES and not where.is_dir() else None
        self._folder = where
        self._kept = {Path(f).resolve() for f in files}
        if self._film is not None:
            if len(files) != 1 or not is_video(files[0]):
                raise InputError(
                    f"--overlay {str(where)!r} is one video: give one video to draw on, or a folder for the drawings"
                )
            if self._film.resolve() in self._kept:
                raise InputError(f"--overlay {str(where)!r} is the input itself: give another name")
            check_folder(where.parent)
            check_ours(where, overlay.MARK)
        else:
            check_folder(where)
            if any(Path(f).parent.resolve() == where.resolve() and is_video(f) for f in files):
                raise InputError(f"--overlay {str(where)!r} is where the videos are: give another folder")
        self.failed: list[FexportError] = []
        self.written: list[Path] = []
        self._made_folder = self._film is None and not where.exists()
        self._taken: set[Path] = set()
        self._open = contextlib.ExitStack()
        self._video: OverlayVideo | None = None
        self._number = -1

    @property
    def what(self) -> str:
        """What was written, in a word."""
        return "picture" if all(p.suffix == ".png" for p in self.written) else "drawing"

    def __enter__(self) -> Drawings:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)
        if kind is not None:
            for path in self.written:
                path.unlink(missing_ok=True)
            if self._made_folder:
                with contextlib.suppress(OSError):
                    self._folder.rmdir()

    def add(self, frame: Frame, result: FrameResult) -> None:
        """Draw a frame."""
        drawn = self._draw(frame, result)
        if frame.moment is None:
            try:
                target = self._target(Path(frame.name), ".png")
                overlay.write_png(drawn, target)
                self.written.append(target)
            except FexportError as error:
                self.failed.append(error)
            return
        if frame.number != self._number:
            self._close_video()
            self._number = frame.number
            target = self._film or self._target(Path(frame.name), ".mp4")
            self._video = self._open.enter_context(OverlayVideo(target))
            self.written.append(target)
        assert self._video is not None
        self._video.add(drawn, frame.moment)

    def _close_video(self) -> None:
        if self._video is not None:
            try:
                self._open.close()
            except OutputError as error:
                self.failed.append(error)
            self._open, self._video = contextlib.ExitStack(), None

    def _target(self, path: Path, suffix: str) -> Path:
        """A file in the folder named after an input; numbered where a name is taken, by an input or by somebody's picture."""
        names = itertools.chain([path.stem], (f"{path.stem}_{k}" for k in itertools.count(2)))
        candidates = (self._folder / f"{name}{suffix}" for name in names)
        target = next(c for c in candidates if c not in self._taken and c.resolve() not in self._kept and _ours(c))
        self._taken.add(target)
        return target


def _ours(path: Path) -> bool:
    """Whether a drawing may be written there: nothing is, or an earlier drawing."""
    return not path.is_file() or overlay.is_drawing(path)

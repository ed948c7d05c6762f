"""How far a run is: a bar on a terminal, nothing where the output is none."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fexport.cli.tables import console
from fexruntime.errors import FexportError
from fexruntime.options import Options
from fexruntime.sources.video import import_av, is_video


class Bar:
    """A bar of frames, with their rate, faces, and the time left: a context."""

    def __init__(self, files: Sequence[str], options: Options) -> None:
        screen = console(stderr=True)
        self._progress = Progress(
            TextColumn("reading faces"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[faces]} faces"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=screen,
            transient=True,
            disable=not screen.is_terminal,
        )
        self._frames = self._faces = 0
        total = expected_frames(files, options) if screen.is_terminal else None
        self._task = self._progress.add_task("frames", total=total, faces=0, rate="")

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def advance(self, frames: int, faces: int) -> None:
        """Say that so many more were read."""
        self._frames += frames
        self._faces += faces
        speed = self._progress.tasks[0].finished_speed or self._progress.tasks[0].speed
        rate = f"{speed:.1f} frames/s" if speed else ""
        self._progress.update(self._task, advance=frames, faces=self._faces, rate=rate)


def expected_frames(files: Sequence[str], options: Options) -> int | None:
    """About how many frames will be read, by what the files' headers say; None where one does not say."""
    total = 0
    for name in files:
        if not is_video(name):
            total += 1
            continue
        try:
            with import_av().open(name) as container:
                stream = container.streams.video[0]
                rate = float(stream.average_rate or 0)
                length = float(container.duration or 0) / 1e6
                frames = stream.frames or int(length * rate)
        except (FexportError, OSError, ValueError, IndexError):
            continue  # what cannot be read is said when its turn comes
        if not frames:
            return None
        if rate and (options.start_s is not None or options.end_s is not None):
            last = min(frames, int((options.end_s or length) * rate))
            frames = max(0, last - int((options.start_s or 0) * rate))
        total += -(-frames // options.skip_frames)
    return total

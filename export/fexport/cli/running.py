"""What `fexport run` does once everything was checked: rows, drawings, a window, a bar, and an end that keeps what was read."""

from __future__ import annotations

import contextlib
import signal
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from fexport.cli import faces_table
from fexport.cli.drawing import Drawings, drawing_of
from fexport.cli.options import as_options
from fexport.cli.pipe import Pipe
from fexport.cli.progress import Bar
from fexport.cli.tables import console
from fexruntime.bundle import EDGE_DETECTOR_SIZE
from fexruntime.errors import FexportError, OutputError
from fexruntime.options import OptionFields, options_of
from fexruntime.provenance import sentence
from fexruntime.results import FrameResult
from fexruntime.sources.frame import Frame
from fexruntime.sources.given import listed
from fexruntime.sources.video import is_video

if TYPE_CHECKING:
    from fexport.cli.window import Window
    from fexruntime import Detector
    from fexruntime.live import Seen
    from fexruntime.recording import OnBatch, Recorded

SKIPPED, INTERRUPTED, TERMINATED = 3, 130, 143
"""Exit statuses: some inputs were passed over; stopped by Ctrl-C, or by SIGTERM."""

_LATENCIES = 1000


class Stop(threading.Event):
    """Set by the first Ctrl-C or SIGTERM, so that a run ends behind the frames under way; a second one ends it at once."""

    status = 0

    def __init__(self) -> None:
        super().__init__()
        self._also: Callable[[], None] | None = None

    @contextlib.contextmanager
    def listening(self, also: Callable[[], None] | None = None) -> Iterator[Stop]:
        """Listen for the block; `also` is called too."""
        self._also = also
        before = {s: signal.signal(s, self._heard) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.is_set():
            raise KeyboardInterrupt
        self.status = INTERRUPTED if number == signal.SIGINT else TERMINATED
        self.set()
        if self._also is not None:
            self._also()


class Job:
    """One call of `fexport run`; `files` and `live` answer its exit status. `piped`: the format of rows on standard output; `shrinks`: nobody
    asked for the detector's size, so it is said.
    """

    def __init__(
        self,
        detector: Detector,
        inputs: Sequence[str],
        options: OptionFields,
        out: Path | None,
        overlay: Path | None,
        skip_bad: bool,
        resume: bool,
        show: bool,
        piped: str | None = None,
        shrinks: bool = False,
        recursive: bool = False,
    ) -> None:
        self._detector, self._inputs, self._options = detector, listed(inputs, recursive), options
        self._out, self._overlay, self._resume, self._show = out, overlay, resume, show
        self._piped, self._shrinks = piped, shrinks
        self._skipped: list[FexportError] | None = [] if skip_bad else None
        self._results: list[FrameResult] = []
        self._rows_only = overlay is None and not show

    def files(self) -> int:
        """Read files."""
        stop = Stop()
        with contextlib.ExitStack() as stack:
            stack.enter_context(stop.listening())
            window = self._window(stack)
            status = self._read_files(stop, window)
            if window is not None and not stop.is_set():
                window.stay(stop.is_set)
            return status

    def _read_files(self, stop: Stop, window: Window | None) -> int:
        shrunk = 0
        undrawn: list[FexportError] = []
        with contextlib.ExitStack() as stack:
            drawings = self._drawings(stack)
            bar = stack.enter_context(Bar(self._inputs, options_of(self._options)))

            def on_batch(batch: Sequence[tuple[Frame, FrameResult]]) -> None:
                nonlocal shrunk
                for frame, result in batch:
                    shrunk += self._shrinks and max(frame.rgb_u8.shape[:2]) > EDGE_DETECTOR_SIZE
                    if drawings is not None:
                        drawings.add(frame, result)
                    if window is not None and not window.show(frame, result):
                        stop.set()
                bar.advance(len(batch), sum(len(result) for _, result in batch))

            done = self._record(on_batch, stop) if self._out is not None else self._collect(on_batch, stop)
        if self._out is None:
            if self._piped is None:
                fex = self._detector.to_fex(self._results, **self._options)
                faces_table.show(fex, self._options.get("columns") is not None)
        else:
            click.echo(self._said(done))
        click.echo(sentence(self._detector.bundle), err=self._piped is not None)
        if drawings is not None:
            undrawn = drawings.failed
            click.echo(
                f"{counts(len(drawings.written), drawings.what)} in {self._overlay}", err=self._piped is not None
            )
        if shrunk:
            click.echo(
                f"Faces were looked for at {EDGE_DETECTOR_SIZE} px in {counts(shrunk, 'larger frame')}, where this detector does better "
                "(--detector-size whole: as it is)",
                err=True,
            )
        for error in self._skipped or []:
            click.echo(f"Skipped: {as_options(str(error), click.get_current_context().command.params)}", err=True)
        if undrawn:
            raise OutputError("; ".join(str(error) for error in undrawn[:3]))
        if stop.status:
            return stop.status
        return SKIPPED if self._skipped else 0

    def live(self, source: str) -> int:
        """Watch a webcam or an address until it is stopped."""
        from fexruntime.recording_live import record_live

        stop = Stop()
        options = options_of(self._options)
        watching = self._detector.live(int(source) if source.isdecimal() else source, **self._options)
        frames = faces = 0
        latencies: list[float] = []
        with contextlib.ExitStack() as stack:
            # a source that gives nothing must end at once too: the event alone would be looked at behind a frame
            stack.enter_context(stop.listening(watching.stop))
            stack.enter_context(watching)
            window = self._window(stack)
            status = stack.enter_context(console(stderr=True).status(f"watching {watching.name}"))

            def on_seen(seen: Seen) -> None:
                nonlocal frames, faces
                frames, faces = frames + 1, faces + len(seen.result)
                latencies.append(seen.latency_s)
                del latencies[:-_LATENCIES]
                words = (
                    f"{counts(len(seen.result), 'face')}, {1000 * seen.latency_s:.0f} ms, {watching.dropped} dropped"
                )
                status.update(f"watching {watching.name}: {words}")
                if window is not None and not window.show(seen.frame, seen.result, words):
                    watching.stop()

            rows = ""
            if self._out is not None:
                done = record_live(self._detector, watching, options, self._out, on_seen)
                rows = f": {counts(done.rows, 'row')} in {self._out}"
            else:
                for seen in watching:
                    on_seen(seen)
        middle = 1000 * statistics.median(latencies) if latencies else 0.0
        click.echo(
            f"{counts(faces, 'face')} in {counts(frames, 'frame')}{rows}; {watching.dropped} of {watching.grabbed} frames dropped, "
            f"latency {middle:.0f} ms (median of the last {len(latencies)}), opened again {watching.reconnected} times"
        )
        return 0

    def _record(self, on_batch: OnBatch, stop: Stop) -> Recorded:
        from fexruntime.recording import record

        assert self._out is not None
        on_bad = None if self._skipped is None else self._skipped.append
        return record(
            self._detector, self._inputs, self._out,
            resume=self._resume, on_bad=on_bad, on_batch=on_batch, stop=stop,
            rows_only=self._rows_only, **self._options,
        )  # fmt: skip

    def _collect(self, on_batch: OnBatch, stop: Stop) -> Recorded:
        from fexruntime.recording import Recorded, nothing_read

        done = Recorded()
        chosen = options_of(self._options)
        pipe = None if self._piped is None else Pipe(self._detector, self._piped, self._inputs, chosen)
        on_bad = None if self._skipped is None else self._skipped.append
        for batch in self._detector.walk(self._inputs, chosen, on_bad=on_bad, rows_only=self._rows_only).batches():
            results = [result for _, result in batch]
            done.frames += len(results)
            if pipe is None:
                self._results += results
            elif results:
                pipe.add(results)
            on_batch(batch)
            if stop.is_set():
                done.stopped = True
                break
        if self._skipped and not done.frames:
            raise nothing_read(self._skipped)
        if pipe is not None:
            pipe.end()
        return done

    def _said(self, done: Recorded) -> str:
        what = "frame" if any(is_video(f) for f in self._inputs) else "image"
        text = f"{counts(done.faces, 'face')} in {counts(done.frames, what)}: {counts(done.rows, 'row')} in {self._out}"
        if done.resumed_frames:
            text += f" ({counts(done.resumed_frames, what)} of them from before)"
        if done.stopped:
            text += "; stopped before the end, --resume goes on"
        return text

    def _drawings(self, stack: contextlib.ExitStack) -> Drawings | None:
        if self._overlay is None:
            return None
        return stack.enter_context(Drawings(self._overlay, self._inputs, drawing_of(self._detector)))

    def _window(self, stack: contextlib.ExitStack) -> Window | None:
        if not self._show:
            return None
        from fexport.cli.window import Window

        return stack.enter_context(Window(drawing_of(self._detector)))


def counts(number: int, what: str) -> str:
    """A number of things in words."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"

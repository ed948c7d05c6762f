"""Rows of a run to a file as they come: read, run and written side by side, gone on with after any end.

from fexruntime import Detector, record
record(Detector("bundle"), "film.mp4", "rows.parquet", resume=True, skip_frames=2)
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fexruntime.behind import Behind
from fexruntime.columns import Selection, select
from fexruntime.errors import CutOffError, FexportError, InferenceError, InputError, OutputError
from fexruntime.files import user_path
from fexruntime.naming import Namer, needs_all_faces
from fexruntime.options import OptionFields, Options, options_of
from fexruntime.provenance import provenance
from fexruntime.recording_said import described, fingerprint, said, sidecar
from fexruntime.results import FrameResult
from fexruntime.sinks import FORMATS, check_target, schema_of, write_table
from fexruntime.sinks.appending import Appending
from fexruntime.sources.frame import Frame
from fexruntime.sources.given import listed
from fexruntime.sources.inputs import Position
from fexruntime.sources.video import is_video

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from fexruntime.detector import Detector
    from fexruntime.walk import Walk

COMMIT_EVERY_S = 2.0
"""A run that dies loses at most the work of this time."""
AT_ONCE = 32
"""Frames whose rows are made and written together: a table of one row costs almost what one of many does."""
_log = logging.getLogger("fexruntime.recording")
OnBatch = Callable[["Sequence[tuple[Frame, FrameResult]]"], None]


@dataclass(slots=True)
class Recorded:
    """What was done: frames and faces of the whole run (with what an earlier one did), rows in the file."""

    frames: int = 0
    faces: int = 0
    rows: int = 0
    resumed_frames: int = 0
    """Frames of these that an earlier run did."""
    stopped: bool = False
    """Whether it was asked to stop before the end."""

    def said(self) -> dict[str, Any]:
        """How much of its inputs a file of rows holds."""
        return {"frames": self.frames, "rows": self.rows, "stopped": self.stopped}


def record(
    detector: Detector,
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    resume: bool = False,
    on_bad: Callable[[FexportError], None] | None = None,
    on_batch: OnBatch | None = None,
    stop: threading.Event | None = None,
    commit_every_s: float = COMMIT_EVERY_S,
    rows_only: bool = False,
    **options: Unpack[OptionFields],
) -> Recorded:
    """Write the rows of files (pictures, videos, folders, patterns) to `out` (.csv, .parquet, .jsonl) as they come.

    Until the run is done the rows are in OUT.part, with a journal beside; `resume` goes on from there, and the file is
    then what an uninterrupted run's would be. `on_batch` is called with each batch's frames and results. `stop` ends the
    run behind the batch that is under way: what was read is in `out`, and can be gone on with. `rows_only`: `on_batch` needs
    nothing that no row has, so it is not computed (see `Detector.stream`).

    Raises InputError for inputs or options that cannot be used (a video that is cut off: after all that could be read was
    written), OutputError if the file cannot be written; what was committed before is kept and the error says how much.
    """
    chosen = options_of(options)
    target = Path(user_path(str(out)))
    suffix = check_target(target)
    files = listed([str(inputs)] if isinstance(inputs, (str, Path)) else [str(i) for i in inputs])
    selection = select(detector.pipeline, chosen.columns, any(is_video(f) for f in files), chosen.track)
    if needs_all_faces(selection, chosen):
        if resume:
            raise InputError(
                f"identity method {chosen.identity_method!r} needs all faces at once: it cannot be gone on with"
            )
        return _whole(detector, files, target, suffix, chosen, options, on_bad, on_batch, stop, rows_only)
    run = Run(detector, files, target, suffix, chosen, selection, resume, on_bad, rows_only)
    return run.go(on_batch, stop, commit_every_s)


class Run:
    """One run into one file: the walk here, rows and commits in a thread behind it."""

    def __init__(
        self,
        detector: Detector,
        files: Sequence[str],
        target: Path,
        suffix: str,
        options: Options,
        selection: Selection,
        resume: bool,
        on_bad: Callable[[FexportError], None] | None,
        rows_only: bool,
    ) -> None:
        self._detector, self._files, self._options, self._selection = detector, list(files), options, selection
        self._on_bad, self._rows_only = on_bad, rows_only
        self._bads: list[FexportError] = []
        self._cut: list[CutOffError] = []
        self._after: Position | None = None
        if not resume:  # the first frames are decoded while the file is begun
            self._walk = self._walk_on()
            self._walk.begin()
        try:
            self._open(target, suffix, resume)
        except BaseException:
            if not resume:
                self._walk.close()
            raise

    def _open(self, target: Path, suffix: str, resume: bool) -> None:
        detector, options, selection = self._detector, self._options, self._selection
        form = FORMATS[suffix]
        schema = schema_of(form, selection)
        identity = described(detector, self._files, options, schema.columns)
        self._said = said(detector, options, identity)
        self._sink = Appending(target, form, schema.saying(self._said), identity, resume)
        self._namer = Namer(options.face_identity_threshold)
        self.done = Recorded(rows=self._sink.rows)
        self._seen: dict[str, Any] = {}
        """Fingerprints of inputs by number, made behind."""
        self._unsaid: list[str] = []
        """Inputs that no commit has said yet."""
        self._waiting: list[FrameResult] = []
        if self._sink.committed:
            try:
                with self._sink.reading():
                    self._restore(self._sink.committed)
            except BaseException:
                self._sink.close()
                raise
        elif resume:  # there is nothing to go on with
            self._walk = self._walk_on()

    def _walk_on(self) -> Walk:
        return self._detector.walk(
            self._files, self._options, on_bad=self._bad, after=self._after, rows_only=self._rows_only
        )

    def _bad(self, error: FexportError) -> None:
        self._bads.append(error)
        if self._on_bad is not None:
            self._on_bad(error)
        elif isinstance(error, CutOffError):  # its rows are worth having; said at the end
            self._cut.append(error)
        else:
            raise error

    def _restore(self, committed: dict[str, Any]) -> None:
        for number, was in committed["merged"].get("inputs", {}).items():
            file = self._files[_number(int(number), len(self._files))]
            if not Path(file).is_file() or fingerprint(file) != was:
                raise InputError(f"{file!r} is not the file that was read before: it cannot be gone on with")
        source, frame = committed["after"]
        self._after = Position(_number(source, len(self._files)), _number(frame))
        self._namer.restore({"people": committed["merged"].get("people", {}), "tracks": committed["tracks"]})
        self._walk = self._walk_on()
        self._walk.restore(committed["walk"])
        self.done.frames, self.done.faces = _number(committed["frames"]), _number(committed["faces"])
        self.done.resumed_frames = self.done.frames

    def go(self, on_batch: OnBatch | None, stop: threading.Event | None, every_s: float) -> Recorded:
        """Do it; see `record`."""
        walk, behind = self._walk, Behind()
        last = time.monotonic()
        batches = walk.batches()
        try:
            for batch in batches:
                if batch:
                    self._take(batch, behind)
                    if time.monotonic() - last >= every_s:
                        self._commit(walk.state(), behind)
                        last = time.monotonic()
                    if on_batch is not None:
                        on_batch(batch)
                if stop is not None and stop.is_set():
                    self.done.stopped = True
                    break
            if self._after is not None:
                self._commit(walk.state(), behind)
            behind.finish()
        except BaseException as error:
            if isinstance(error, FexportError) and not isinstance(error, OutputError):
                self._keep(error, walk, behind)
            self._left(error, behind)
            raise
        finally:
            batches.close()  # type: ignore[attr-defined]
        if self._bads and not self.done.frames:
            self._sink.discard()
            raise nothing_read(self._bads)
        self.done.rows = self._sink.rows
        try:
            # first: a table without it, had the process died in between, would be somebody's
            sidecar(self._sink, self._said, self.done.said())
            if self.done.stopped:
                self._sink.publish()
            else:
                self._sink.finish()
        finally:
            self._sink.close()  # whatever became of it: the part's lock is this run's no more
        if self._cut:
            raise CutOffError(
                f"{'; '.join(str(e) for e in self._cut)}; {self.done.rows} rows of {self.done.frames} frames are in {str(self._sink.target)!r}"
            )
        return self.done

    def _take(self, batch: Sequence[tuple[Frame, FrameResult]], behind: Behind) -> None:
        self._waiting += [result for _, result in batch]
        if len(self._waiting) >= AT_ONCE:
            self._write(behind)
        for frame, result in batch:
            self.done.frames += 1
            self.done.faces += len(result)
            # where this frame's input stands in the list, whatever its frame is called
            number = str(frame.number)
            if number not in self._seen:
                self._seen[number] = None
                self._unsaid.append(number)
                behind.do(partial(self._look_at, number))
            self._after = Position(frame.number, frame.index)

    def _look_at(self, number: str) -> None:
        # one that is gone since it was read leaves its rows: no file is then the one that was read
        with contextlib.suppress(OSError):
            self._seen[number] = fingerprint(self._files[int(number)])

    def _write(self, behind: Behind) -> None:
        results, self._waiting = self._waiting, []
        if results:
            behind.do(lambda: self._sink.write(self._detector.assemble(results, self._selection, self._namer.names)))

    def _commit(self, walk: dict[str, Any], behind: Behind) -> None:
        assert self._after is not None
        self._write(behind)
        fresh, self._unsaid = self._unsaid, []
        state = {
            "after": [self._after.source, self._after.frame],
            "frames": self.done.frames,
            "faces": self.done.faces,
            "walk": walk,
        }

        def commit() -> None:
            names = self._namer.changes()
            inputs = {n: self._seen[n] for n in fresh}
            self._sink.commit(
                state | {"tracks": names["tracks"], "merged": {"people": names["people"], "inputs": inputs}}
            )

        behind.do(commit)

    def _keep(self, error: FexportError, walk: Walk, behind: Behind) -> None:
        """Commit what was read before an input that ended the run."""
        # a run that failed may have moved what follows faces: then the last commit is what can be gone on from
        if self._after is not None and not (isinstance(error, InferenceError) and walk.remembers):
            with contextlib.suppress(Exception):  # what failed behind is raised again by `finish`
                self._commit(walk.state(), behind)

    def _left(self, error: BaseException, behind: Behind) -> None:
        """Close what an error ended: rows that were committed are kept, and the error says so; else nothing is left."""
        try:
            behind.finish()
        except BaseException as other:
            if other is not error:
                _log.info("also: %s", other)
        if not self._sink.committed:
            self._sink.discard()
            return
        self._sink.close()
        if isinstance(error, FexportError) and not isinstance(error, OutputError):
            error.args = (f"{error}; {self._sink.kept()}",)


def _whole(
    detector: Detector, files: list[str], target: Path, suffix: str, chosen: Options, options: OptionFields,
    on_bad: Callable[[FexportError], None] | None, on_batch: OnBatch | None, stop: threading.Event | None, rows_only: bool,
) -> Recorded:  # fmt: skip
    """All rows at the end, for names that need all faces at once."""
    results: list[FrameResult] = []
    bads: list[FexportError] = []
    done = Recorded()

    def bad(error: FexportError) -> None:
        bads.append(error)
        if on_bad is None:
            raise error
        on_bad(error)

    for batch in detector.walk(files, chosen, on_bad=bad, rows_only=rows_only).batches():
        results += [result for _, result in batch]
        if batch and on_batch is not None:
            on_batch(batch)
        if stop is not None and stop.is_set():
            done.stopped = True
            break
    if bads and not results:
        raise nothing_read(bads)
    fex = detector.to_fex(results, **options)
    done.frames, done.faces, done.rows = len(results), sum(len(r) for r in results), len(fex)
    write_table(fex, target, suffix, provenance(detector.bundle, chosen) | done.said())
    return done


def nothing_read(bad: Sequence[FexportError]) -> FexportError:
    """The error of a run in which every input was passed over, of the class of the first that is no fault of the input (short memory), if any."""
    first = next((e for e in bad if not isinstance(e, InputError)), bad[0])
    return type(first)(f"no input could be read, of {len(bad)}: {first}") if len(bad) > 1 else first


def _number(value: Any, below: int | None = None) -> int:
    """A whole number of a journal, from 0 and below a bound."""
    if type(value) is not int or value < 0 or (below is not None and value >= below):
        raise ValueError(f"{value!r:.40} is not a number that was written")
    return value

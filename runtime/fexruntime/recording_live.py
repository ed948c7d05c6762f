"""Rows of a live source to a file as they come; what was written stays, whatever ends it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fexruntime.behind import Behind
from fexruntime.columns import select
from fexruntime.errors import InputError
from fexruntime.live import Live, Seen
from fexruntime.naming import Namer, needs_all_faces
from fexruntime.options import Options
from fexruntime.recording import AT_ONCE, COMMIT_EVERY_S, Recorded
from fexruntime.recording_said import described, said, sidecar
from fexruntime.results import FrameResult
from fexruntime.sinks import FORMATS, check_target, schema_of
from fexruntime.sinks.appending import Appending

if TYPE_CHECKING:
    from fexruntime.detector import Detector


def record_live(
    detector: Detector,
    live: Live,
    options: Options,
    out: str | Path,
    on_seen: Callable[[Seen], None] | None = None,
    commit_every_s: float = COMMIT_EVERY_S,
) -> Recorded:
    """Write the rows of `live` (of this detector, with these options) to `out` until it ends or is stopped.

    Until then they are in OUT.part. What has been cannot be read again, so a live run is never gone on with: after a
    crash, and where OUT cannot be written, the rows are in the part (CSV and JSON lines as they are, of Parquet an Arrow
    stream). Raises as `record` does; `live` is stopped, whatever ended it.
    """
    target = Path(out)
    suffix = check_target(target)
    selection = select(detector.pipeline, options.columns, True, options.track)
    if needs_all_faces(selection, options):
        raise InputError(
            f"identity method {options.identity_method!r} needs all faces at once: live rows cannot have it"
        )
    form = FORMATS[suffix]
    schema = schema_of(form, selection)
    identity = described(detector, [live.name], options, schema.columns) | {"began": time.time()}
    about = said(detector, options, identity)
    sink = Appending(target, form, schema.saying(about), identity, once=True)
    namer, done, last = Namer(options.face_identity_threshold), Recorded(), time.monotonic()
    behind, waiting = Behind(), list[FrameResult]()

    def write() -> None:
        # together: of Parquet a row alone takes fifteen times the room that it takes among many
        some = waiting[:]
        waiting.clear()
        if some:
            behind.do(lambda: sink.write(detector.assemble(some, selection, namer.names)))

    def commit() -> None:
        write()
        behind.do(partial(sink.commit, {"frames": done.frames}))

    def end(stopped: bool) -> None:
        try:
            commit()  # first: rows that cannot be had as a file are safe in the part, and counted in what is said of it
            behind.finish()
            done.rows, done.stopped = sink.rows, stopped
            sidecar(sink, about, done.said())
            sink.finish()
        finally:
            sink.close()  # whatever became of it: the part's lock is this run's no more

    try:
        with contextlib.closing(iter(live)) as watching:
            for seen in watching:
                waiting.append(seen.result)
                if len(waiting) >= AT_ONCE:
                    write()
                done.frames += 1
                done.faces += len(seen.result)
                if time.monotonic() - last >= commit_every_s:
                    commit()
                    last = time.monotonic()
                if on_seen is not None:
                    on_seen(seen)
    except BaseException:
        # a camera that was lost for good: the rows that there are are a whole file; but not if some could not be written, which
        # is raised again there
        if done.frames:
            end(stopped=True)
        else:
            behind.finish()
            sink.discard()
        raise
    end(stopped=False)
    return done

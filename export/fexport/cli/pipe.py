"""Rows on standard output, as they come: what a file of rows would hold, for the next command of a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from fexruntime.columns import select
from fexruntime.naming import Namer, name_all, needs_all_faces
from fexruntime.options import Options
from fexruntime.results import FrameResult
from fexruntime.sinks import FORMATS, schema_of
from fexruntime.sources.video import is_video

if TYPE_CHECKING:
    from fexruntime import Detector, Fex


class Pipe:
    """Writes the rows of results in a format that can be written line by line (".csv" or ".jsonl")."""

    def __init__(self, detector: Detector, suffix: str, files: Sequence[str], options: Options) -> None:
        self._detector, self._form, self._options = detector, FORMATS[suffix], options
        self._selection = select(detector.pipeline, options.columns, any(is_video(f) for f in files), options.track)
        self._schema = schema_of(self._form, self._selection)
        self._names = Namer(options.face_identity_threshold).names
        self._at_once = needs_all_faces(self._selection, options)
        self._waiting: list[FrameResult] = []
        self._out = sys.stdout.buffer
        self._begun = False

    def add(self, results: Sequence[FrameResult]) -> None:
        """Write the rows of these results; where names need all faces at once, keep them until the end."""
        if self._at_once:
            self._waiting += results
            return
        self._write(self._detector.assemble(results, self._selection, self._names))

    def end(self) -> None:
        """Write what had to wait."""
        if self._at_once:
            self._write(self._detector.assemble(self._waiting, self._selection, partial(name_all, self._options)))

    def _write(self, table: Fex) -> None:
        head = b"" if self._begun else self._form.head(self._schema)
        self._begun = True
        self._out.write(head + self._form.block(table, self._schema))
        self._out.flush()

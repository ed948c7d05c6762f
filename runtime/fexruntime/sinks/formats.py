"""How rows are written in each format: a head, blocks that are appended, and what makes a file of them in the end."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fexruntime.errors import EnvironmentMissingError

PARQUET_KEY = "fexport"
"""The key of a Parquet file's metadata under which it says where it comes from."""
ROWS_OF_A_GROUP = 4096
"""Rows of a row group of Parquet: 36 MB of Detectorv2's."""


class Table(Protocol):
    """What is written: named columns, each of one type."""

    columns: tuple[str, ...]
    all_columns: tuple[str, ...]
    """With those that formats of fexport's own have beside."""
    dtypes: Mapping[str, str]

    def __len__(self) -> int:
        """Rows."""
        ...

    def __getitem__(self, column: str) -> NDArray[Any]:
        """A column."""
        ...

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[list[Any]]:
        """Rows in column order."""
        ...


@dataclass(frozen=True, slots=True)
class Schema:
    """Columns of a file, their types, and what is said of all of it (where a format has room for that)."""

    columns: tuple[str, ...]
    dtypes: Mapping[str, str]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def saying(self, said: Mapping[str, Any]) -> Schema:
        """The same columns, with where the rows come from."""
        return replace(self, metadata={PARQUET_KEY: json.dumps(said, default=str)})


class Format(Protocol):
    """One format. What is appended block by block is bytes; a part that was cut at a block's end is whole."""

    own: bool
    """Whether it is fexport's own to shape: then it has the columns beside py-feat's."""

    def check(self) -> None:
        """EnvironmentMissingError without what it needs."""
        ...

    def head(self, schema: Schema) -> bytes:
        """What a file begins with."""
        ...

    def block(self, table: Table, schema: Schema) -> bytes:
        """Rows as they are appended."""
        ...

    def finish(self, part: Path, target: Path) -> None:
        """Make `target` of what was appended to `part`; they may be one path."""
        ...


class Columns(Protocol):
    """What has columns: a table, or the selection that one will be made of."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column."""
        ...

    @property
    def all_columns(self) -> tuple[str, ...]:
        """With those that formats of fexport's own have beside."""
        ...

    @property
    def dtypes(self) -> Mapping[str, str]:
        """By column."""
        ...


def schema_of(form: Format, of: Columns) -> Schema:
    """The columns of a file of that format."""
    columns, dtypes = of.all_columns if form.own else of.columns, of.dtypes
    return Schema(columns, {c: dtypes[c] for c in columns})


class Csv:
    """What `DataFrame.to_csv(index=False)` writes."""

    own = False

    def check(self) -> None:
        """Nothing is needed."""

    def head(self, schema: Schema) -> bytes:
        """The line of column names."""
        return self._lines([list(schema.columns)])

    def block(self, table: Table, schema: Schema) -> bytes:
        """A line a row."""
        return self._lines([[_csv_cell(v) for v in row] for row in table.rows(schema.columns)])

    def finish(self, part: Path, target: Path) -> None:
        """What was appended is the file."""
        _copied(part, target)

    def _lines(self, rows: list[list[str]]) -> bytes:
        return "".join(map(self._line, rows)).encode()

    def _line(self, row: list[str]) -> str:
        """The writer quotes what its line end is made of: a carriage return in a file's name ends a reader's line, too."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\r\n").writerow(row)
        return f"{text.getvalue()[:-2]}\n"


class JsonLines:
    """An object a line."""

    own = True

    def check(self) -> None:
        """Nothing is needed."""

    def head(self, schema: Schema) -> bytes:
        """There is none."""
        return b""

    def block(self, table: Table, schema: Schema) -> bytes:
        """A line a row."""
        lines = []
        for row in table.rows(schema.columns):
            cells = {c: _json_value(v) for c, v in zip(schema.columns, row, strict=True)}
            lines.append(json.dumps(cells, ensure_ascii=False, allow_nan=False) + "\n")
        return "".join(lines).encode()

    def finish(self, part: Path, target: Path) -> None:
        """What was appended is the file."""
        _copied(part, target)


class Parquet:
    """Parquet with an explicit schema. What is appended is Arrow's stream, a message a block: a Parquet file cannot be
    appended to, and one without its footer cannot be read."""

    own = True

    def check(self) -> None:
        """EnvironmentMissingError without pyarrow."""
        _pyarrow()

    def head(self, schema: Schema) -> bytes:
        """The schema's message."""
        return bytes(self._schema(schema).serialize())

    def block(self, table: Table, schema: Schema) -> bytes:
        """One record batch."""
        pa, _ = _pyarrow()
        types = self._schema(schema)
        columns = [_arrow_array(pa, table[c], kind) for c, kind in zip(schema.columns, types.types, strict=True)]
        return bytes(pa.RecordBatch.from_arrays(columns, schema=types).serialize())

    def finish(self, part: Path, target: Path) -> None:
        """Row groups of the batches, a group in memory at a time."""
        pa, parquet = _pyarrow()
        name = target.with_name(f"{target.name}-rows")
        try:
            with contextlib.ExitStack() as stack:
                stream = stack.enter_context(pa.ipc.open_stream(stack.enter_context(part.open("rb"))))
                # a dictionary or the range of a measured number helps no reader, and is half of the time and a tenth of the bytes
                texts = [f.name for f in stream.schema if pa.types.is_string(f.type)]
                others = [f.name for f in stream.schema if not pa.types.is_float32(f.type)]
                writer = stack.enter_context(
                    parquet.ParquetWriter(str(name), stream.schema, use_dictionary=texts, write_statistics=others)
                )
                waiting: list[Any] = []
                for batch in stream:
                    waiting.append(batch)
                    if sum(b.num_rows for b in waiting) >= ROWS_OF_A_GROUP:
                        writer.write_table(pa.Table.from_batches(waiting).combine_chunks())
                        waiting = []
                writer.write_table(pa.Table.from_batches(waiting, stream.schema).combine_chunks())
            os.chmod(name, (target if target.exists() else part).stat().st_mode & 0o7777)
            os.replace(name, target)
        except BaseException:
            name.unlink(missing_ok=True)
            raise

    def _schema(self, schema: Schema) -> Any:
        pa, _ = _pyarrow()
        types = {
            "float32": pa.float32(),
            "float64": pa.float64(),
            "int64": pa.int64(),
            "integer": pa.int64(),
            "text": pa.string(),
        }
        # the schema says every type, so that a file without a single name can still be joined to one with names
        return pa.schema([(c, types[schema.dtypes[c]]) for c in schema.columns], metadata=dict(schema.metadata) or None)


def printable(text: str) -> str:
    """Text with what is not valid Unicode (bytes of a file name that are not UTF-8) as backslash escapes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def shown(text: str) -> str:
    """Text for a terminal: line ends, escape sequences and whatever else has no sign of its own as backslash escapes.

    A file's name must not colour, clear or break the lines that it stands in.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in printable(text))


def is_ours_parquet(path: Path) -> bool:
    """Whether a file is a Parquet file that says of itself that fexport wrote it."""
    pa, parquet = _pyarrow()
    try:
        metadata = parquet.read_metadata(str(path)).metadata or {}
    except (pa.ArrowException, OSError):
        return False
    return PARQUET_KEY.encode() in metadata


def _copied(part: Path, target: Path) -> None:
    if part != target:
        import shutil

        shutil.copyfile(part, target)


def _csv_cell(value: Any) -> str:
    if isinstance(value, str):
        return printable(value)
    if value is None or (isinstance(value, (float, np.floating)) and math.isnan(value)):
        return ""
    return str(value)  # NumPy's shortest form that reads back as the same float32 or float64


def _json_value(value: Any) -> Any:
    if isinstance(value, (float, np.floating)):
        # through the shortest text, so that a float32 does not grow digits it never had; JSON has no NaN and no infinity
        return float(str(value)) if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return printable(value) if isinstance(value, str) else value


def _arrow_array(pa: Any, values: NDArray[Any], kind: Any) -> Any:
    """A column as Arrow's array, missing where it is None or NaN.

    Of buffers: `pyarrow.array` imports pandas, where that is installed (a third of a second, and its memory).
    """
    if pa.types.is_string(kind):
        there = np.array([isinstance(v, str) for v in values], bool)
        texts = [printable(v).encode() if isinstance(v, str) else b"" for v in values]
        ends = np.cumsum([0, *map(len, texts)], dtype=np.int32)
        return pa.Array.from_buffers(
            kind, len(values), [_bits(pa, there), pa.py_buffer(ends), pa.py_buffer(b"".join(texts))]
        )
    if values.dtype == object:
        there = np.array([v is not None for v in values], bool)
        values = np.array([0 if v is None else v for v in values], np.int64)
    else:
        values = np.ascontiguousarray(values, kind.to_pandas_dtype())
        there = ~np.isnan(values)
    return pa.Array.from_buffers(kind, len(values), [_bits(pa, there), pa.py_buffer(values)])


def _bits(pa: Any, there: NDArray[np.bool_]) -> Any:
    return None if there.all() else pa.py_buffer(np.packbits(there, bitorder="little"))


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise EnvironmentMissingError("writing Parquet needs pyarrow: pip install 'fexport[tables]'") from None
    return pyarrow, pyarrow.parquet


FORMATS: dict[str, Format] = {".csv": Csv(), ".parquet": Parquet(), ".jsonl": JsonLines()}
"""By suffix."""

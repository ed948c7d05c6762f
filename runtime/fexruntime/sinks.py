"""Tables to files: CSV and JSON lines with the standard library, Parquet with pyarrow.

A file is written beside its target and renamed, so that a target is either the old file or the whole new one. File
names that are not UTF-8 are written with their odd bytes as backslash escapes ("caf\\xe9.jpg") in every format.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fexruntime.errors import EnvironmentMissingError, InputError, OutputError
from fexruntime.files import check_folder, replacing

SUFFIXES = (".csv", ".parquet", ".jsonl")


class Table(Protocol):
    """What is written: named columns, each of one type."""

    columns: tuple[str, ...]
    dtypes: Mapping[str, str]

    def __getitem__(self, column: str) -> NDArray[Any]:
        """A column."""
        ...

    def rows(self) -> Iterator[list[Any]]:
        """Rows in column order."""
        ...


def check_target(path: Path) -> str:
    """The format a target's suffix asks for; raises before any work is done if it could not be written."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"cannot tell the format of {str(path)!r}: use one of {', '.join(SUFFIXES)}")
    if path.is_dir():
        raise OutputError(f"cannot write {str(path)!r}: it is a folder")
    check_folder(path.parent)
    if suffix == ".parquet":
        _pyarrow()
    return suffix


def write_table(table: Table, path: Path, suffix: str | None = None) -> None:
    """Write a table as CSV, JSON lines or Parquet, whole or not at all; the suffix decides unless given."""
    suffix = suffix or check_target(path)
    with replacing(path) as temporary:
        _WRITERS[suffix](table, temporary)


def printable(text: str) -> str:
    """Text with what is not valid Unicode (bytes of a file name that are not UTF-8) as backslash escapes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _write_csv(table: Table, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.columns)
        for row in table.rows():
            writer.writerow([_csv_cell(v) for v in row])


def _csv_cell(value: Any) -> str:
    if isinstance(value, str):
        return printable(value)
    if value is None or (isinstance(value, (float, np.floating)) and math.isnan(value)):
        return ""
    return str(value)  # NumPy's shortest form that reads back as the same float32 or float64


def _write_jsonl(table: Table, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in table.rows():
            cells = {c: _json_value(v) for c, v in zip(table.columns, row, strict=True)}
            file.write(json.dumps(cells, ensure_ascii=False, allow_nan=False) + "\n")


def _json_value(value: Any) -> Any:
    if isinstance(value, (float, np.floating)):
        # through the shortest text, so that a float32 does not grow digits it never had; JSON has no NaN and no infinity
        return float(str(value)) if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return printable(value) if isinstance(value, str) else value


def _write_parquet(table: Table, path: Path) -> None:
    pa, parquet = _pyarrow()
    types = {"float32": pa.float32(), "float64": pa.float64(), "int64": pa.int64(), "text": pa.string()}
    # the schema says every type, so that a file without a single name can still be joined to one with names
    schema = pa.schema([(c, types[table.dtypes[c]]) for c in table.columns])
    columns = [pa.array(_arrow_values(table, c), types[table.dtypes[c]], from_pandas=True) for c in table.columns]
    parquet.write_table(pa.Table.from_arrays(columns, schema=schema), path)


def _arrow_values(table: Table, column: str) -> Any:
    if table.dtypes[column] != "text":
        return np.ascontiguousarray(table[column])
    return [None if v is None else printable(v) for v in table[column]]


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise EnvironmentMissingError("writing Parquet needs pyarrow: pip install 'fexport[tables]'") from None
    return pyarrow, pyarrow.parquet


_WRITERS: dict[str, Callable[[Table, Path], None]] = {
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}

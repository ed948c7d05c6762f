"""Fex tables to files: CSV with the standard library, JSON lines likewise, Parquet through pandas and pyarrow.

A file is written beside its target and renamed, so that a target is either the old file or the whole new one.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fexruntime.errors import EnvironmentMissingError, InputError, OutputError
from fexruntime.fex import Fex

SUFFIXES = (".csv", ".parquet", ".jsonl")


def check_target(path: Path) -> str:
    """The format a target's suffix asks for; raises before any work is done if it could not be written."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"cannot tell the format of {str(path)!r}: use one of {', '.join(SUFFIXES)}")
    if path.is_dir():
        raise OutputError(f"cannot write {str(path)!r}: it is a folder")
    check_folder(path.parent)
    if suffix == ".parquet":
        _parquet_modules()
    return suffix


def check_folder(folder: Path) -> None:
    """OutputError unless files can be made in `folder`, or in the nearest ancestor that exists if it does not."""
    nearest = folder.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        raise OutputError(f"cannot write into {str(folder)!r}: {str(nearest)!r} is not a folder")
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise OutputError(f"cannot write into {str(folder)!r}: {error.strerror or error}") from None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes it when the block ends well, and vanishes when it does not."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror or error}") from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def write_table(fex: Fex, path: Path, suffix: str | None = None) -> None:
    """Write a Fex as CSV, JSON lines or Parquet, whole or not at all; the suffix decides unless given."""
    suffix = suffix or check_target(path)
    with replacing(path) as temporary:
        _WRITERS[suffix](fex, temporary)


def _write_csv(fex: Fex, path: Path) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(fex.columns)
    for row in fex.rows():
        writer.writerow([_csv_cell(v) for v in row])
    path.write_text(buffer.getvalue(), encoding="utf-8", newline="")


def _csv_cell(value: Any) -> str:
    if value is None or (isinstance(value, (float, np.floating)) and math.isnan(value)):
        return ""
    return str(value)  # NumPy's shortest form that reads back as the same float32 or float64


def _write_jsonl(fex: Fex, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in fex.rows():
            cells = {c: _json_value(v) for c, v in zip(fex.columns, row, strict=True)}
            file.write(json.dumps(cells, ensure_ascii=False) + "\n")


def _json_value(value: Any) -> Any:
    if isinstance(value, np.floating):
        # through the shortest text, so that a float32 does not grow digits it never had
        return None if np.isnan(value) else float(str(value))
    return int(value) if isinstance(value, np.integer) else value


def _write_parquet(fex: Fex, path: Path) -> None:
    _parquet_modules()
    fex.to_pandas().to_parquet(path, index=False)


def _parquet_modules() -> None:
    try:
        import pandas  # noqa: F401
        import pyarrow  # noqa: F401
    except ImportError:
        raise EnvironmentMissingError(
            "writing Parquet needs pandas and pyarrow: pip install 'fexport[tables]'"
        ) from None


_WRITERS: dict[str, Callable[[Fex, Path], None]] = {
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}

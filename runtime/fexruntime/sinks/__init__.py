"""Tables to files: CSV and JSON lines with the standard library, Parquet with pyarrow.

A file is written beside its target and renamed, so that a target is either the old file or the whole new one. File
names that are not UTF-8 are written with their odd bytes as backslash escapes ("caf\\xe9.jpg") in every format.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fexruntime.errors import InputError, OutputError
from fexruntime.files import check_folder, check_ours, replacing
from fexruntime.provenance import check_sidecar, sidecar_of, write_sidecar
from fexruntime.sinks.formats import FORMATS, PARQUET_KEY, Schema, Table, printable, schema_of, shown

__all__ = [
    "FORMATS",
    "PARQUET_KEY",
    "SUFFIXES",
    "Schema",
    "Table",
    "check_target",
    "printable",
    "schema_of",
    "shown",
    "write_table",
]

SUFFIXES = tuple(FORMATS)


def check_target(path: Path) -> str:
    """The format a target's suffix asks for; raises before any work is done if it could not be written."""
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise InputError(f"cannot tell the format of {str(path)!r}: use one of {', '.join(SUFFIXES)}")
    if path.is_dir():
        raise OutputError(f"cannot write {str(path)!r}: it is a folder")
    check_folder(path.parent)
    _check_ours(path, suffix)
    FORMATS[suffix].check()
    return suffix


def _check_ours(path: Path, suffix: str) -> None:
    """OutputError if somebody's file is there: not a table of ours, which says so itself (Parquet) or has the file beside it."""
    if suffix == ".parquet":
        check_ours(path, PARQUET_KEY.encode())
        return
    check_sidecar(path)
    if not sidecar_of(path).is_file():
        check_ours(path)


def write_table(table: Table, path: Path, suffix: str | None = None, said: Mapping[str, Any] | None = None) -> None:
    """Write a table as CSV, JSON lines or Parquet, whole or not at all; the suffix decides unless given.

    `said`: where the rows come from (`provenance`), which Parquet holds itself and the others have beside them. Raises OutputError
    where somebody's file is.
    """
    if suffix is None:
        suffix = check_target(path)
    else:
        _check_ours(path, suffix)
    form = FORMATS[suffix]
    schema = schema_of(form, table) if said is None else schema_of(form, table).saying(said)
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            file.write(form.head(schema))
            file.write(form.block(table, schema))
        form.finish(temporary, temporary)
        if said is not None and suffix != ".parquet":  # before the table: one without it would be somebody's
            write_sidecar(path, said)

"""Tables to files: CSV and JSON lines with the standard library, Parquet with pyarrow.

A file is written beside its target and renamed, so that a target is either the old file or the whole new one. File
names that are not UTF-8 are written with their odd bytes as backslash escapes ("caf\\xe9.jpg") in every format.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fexruntime.errors import InputError, OutputError
from fexruntime.files import check_folder, check_ours, file_sha256, replacing
from fexruntime.provenance import TABLE_DIGEST, check_sidecar, digests_in_sidecar, write_sidecar
from fexruntime.sinks.formats import FORMATS, PARQUET_KEY, Schema, Table, is_ours_parquet, printable, schema_of, shown

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
    """OutputError if somebody's file is there: not a table of ours, which says so itself (Parquet) or has a file beside it that
    knows its digest; or if it was ours, and somebody has worked on it since.
    """
    if suffix == ".parquet":
        if path.is_file() and path.stat().st_size and not is_ours_parquet(path):
            check_ours(path)
        return
    check_sidecar(path)
    written = digests_in_sidecar(path)
    if not written:
        check_ours(path)
    elif path.is_file() and path.stat().st_size and file_sha256(path) not in written:
        raise OutputError(f"{str(path)!r} was changed since fexport wrote it: give another name, or remove it first")


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
            write_sidecar(path, {**said, TABLE_DIGEST: file_sha256(temporary)})

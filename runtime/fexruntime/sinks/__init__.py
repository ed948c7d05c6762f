"""Tables to files: CSV and JSON lines with the standard library, Parquet with pyarrow.

A file is written beside its target and renamed, so that a target is either the old file or the whole new one. File
names that are not UTF-8 are written with their odd bytes as backslash escapes ("caf\\xe9.jpg") in every format.
"""

from __future__ import annotations

from pathlib import Path

from fexruntime.errors import InputError, OutputError
from fexruntime.files import check_folder, replacing
from fexruntime.sinks.formats import FORMATS, Schema, Table, printable, shown

__all__ = ["FORMATS", "SUFFIXES", "Schema", "Table", "check_target", "printable", "shown", "write_table"]

SUFFIXES = tuple(FORMATS)


def check_target(path: Path) -> str:
    """The format a target's suffix asks for; raises before any work is done if it could not be written."""
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise InputError(f"cannot tell the format of {str(path)!r}: use one of {', '.join(SUFFIXES)}")
    if path.is_dir():
        raise OutputError(f"cannot write {str(path)!r}: it is a folder")
    check_folder(path.parent)
    FORMATS[suffix].check()
    return suffix


def write_table(table: Table, path: Path, suffix: str | None = None) -> None:
    """Write a table as CSV, JSON lines or Parquet, whole or not at all; the suffix decides unless given."""
    form = FORMATS[suffix or check_target(path)]
    columns = table.all_columns if form.own else table.columns
    schema = Schema(columns, {c: table.dtypes[c] for c in columns})
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            file.write(form.head(schema))
            file.write(form.block(table, schema))
        form.finish(temporary, temporary)

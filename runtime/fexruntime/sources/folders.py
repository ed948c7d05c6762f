"""Which files of a folder are read, and a word on those that are not."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

_log = logging.getLogger(__name__)


def _below(folder: Path) -> Iterator[Path]:
    """Files of a folder and of those in it, and links to folders, which are not followed, so that it ends. Raises OSError."""

    def unreadable(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        linked = [name for name in folders if Path(place, name).is_symlink()]
        yield from (Path(place, name) for name in (*names, *linked) if not name.startswith("."))


def files_in(folder: Path, suffixes: Sequence[str], recursive: bool = False) -> list[Path]:
    """Files of the folder (of its sub-folders only if `recursive`) whose names end in one of these (lower case), by name.

    Hidden ones (`._photo.jpg`, `.thumbnails`) are none of the user's pictures. What else is not read is counted in one warning
    in the log, which the command line shows: nobody should find out from the number of rows. Raises OSError.
    """
    seen = sorted(_below(folder) if recursive else (p for p in folder.iterdir() if not p.name.startswith(".")))
    found = [p for p in seen if p.suffix.lower() in suffixes and not p.is_dir()]
    over = Counter(
        ("linked folders" if recursive else "subfolders") if p.is_dir() else p.suffix.lower() or "without an ending"
        for p in set(seen) - set(found)
    )
    if over and found:
        counted = (f"{over[kind]} {kind.removesuffix('s') if over[kind] == 1 else kind}" for kind in sorted(over))
        _log.warning("%r: not read: %s", str(folder), ", ".join(counted))
    return found

"""What a device makes for itself and may use again: optimised and compiled graphs, engines, tunings.

A thing in the store runs in place of a verified file, so it is believed only where nobody else can have put it there:
the folder is the user's own, closed to others, and never in a shared temporary place. An item is found by its whole
key (what it was made from, by what, for which machine); beside it lies a note with the key written out and the digest
of its bytes. Both are held against what is asked for before the file is handed over. The store is bounded: what was
not used for longest goes first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fexruntime.files import file_sha256, holding

_log = logging.getLogger("fexruntime.store")
VARIABLE = "FEXPORT_CACHE"
MOST_BYTES = 4 << 30
_WRITING = ".writing-"
_NAME = 40
"""Hex digits of an item's name."""

Key = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Item:
    """One thing in the store: what kind, for what, how large, when made and last used (seconds since the epoch)."""

    path: Path
    note: Path
    key: Mapping[str, str]
    size_bytes: int
    made: float
    used: float


class Store:
    """The user's store in `folder` (made if it is not there). `most_bytes` bounds it.

    Raises PermissionError if others may write there, OSError if it cannot be made. With `mend`, a folder of the user's own
    that others could write to is emptied of items and closed to them: for the default place, which an earlier version or
    a generous umask may have left open.
    """

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES, mend: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.stat()
        if hasattr(os, "getuid") and found.st_uid != os.getuid():
            raise PermissionError(f"{folder} belongs to another user")
        self.folder = folder
        self.most_bytes = most_bytes
        if stat.S_IMODE(found.st_mode) & (stat.S_IWGRP | stat.S_IWOTH):
            if not mend:
                raise PermissionError(f"others may write into {folder}: chmod go-w {folder}")
            folder.chmod(0o700)
            self.clear()

    def find(self, key: Key) -> Path | None:
        """The file kept under exactly this key, if its bytes are the ones that were written; None otherwise.

        A path, not the bytes: engines map large files into memory, and nobody but the user can change this one.
        """
        path, note = self._places(key)
        try:
            said = json.loads(note.read_text(encoding="utf-8"))
            if said["key"] != dict(key) or file_sha256(path) != said["sha256"]:
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        with contextlib.suppress(OSError):  # a store that came with an image may be read-only
            note.touch()
        return path

    @contextlib.contextmanager
    def writing(self, key: Key) -> Iterator[Path | None]:
        """A path to write to; what is there is kept under `key` when the block ends well.

        None where nothing can be kept (a full disk, a read-only folder), which is no error: it is made again next time.
        """
        self._drop_remains()
        try:
            folder = Path(tempfile.mkdtemp(prefix=_WRITING, dir=self.folder))
        except OSError as error:
            _log.info("nothing can be kept in %s: %s", self.folder, error)
            yield None
            return
        made, note = folder / "made", folder / "note.json"
        try:
            with holding(folder):
                yield made
                if made.is_file():
                    said = {"key": dict(key), "sha256": file_sha256(made), "made": time.time()}
                    note.write_text(json.dumps(said), encoding="utf-8")
                    for file, place in zip((made, note), self._places(key), strict=True):
                        file.replace(place)
        except OSError as error:
            _log.info("nothing was kept in %s: %s", self.folder, error)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self.trim(self.most_bytes)

    def items(self) -> list[Item]:
        """Everything in the store, last used first."""
        found = []
        for note in self.folder.glob("?" * _NAME + ".json"):
            path = note.with_suffix(".bin")
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                said = json.loads(note.read_text(encoding="utf-8"))
                found.append(
                    Item(path, note, dict(said["key"]), path.stat().st_size, float(said["made"]), note.stat().st_mtime)
                )
        return sorted(found, key=lambda item: item.used, reverse=True)

    def trim(self, most_bytes: int) -> int:
        """Drop what was not used for longest until `most_bytes` are left at most; answers the bytes dropped."""
        kept = dropped = 0
        for item in self.items():
            if kept + item.size_bytes <= most_bytes:
                kept += item.size_bytes
                continue
            dropped += item.size_bytes if _removed(item.note, item.path) else 0
        return dropped

    def clear(self) -> int:
        """Drop everything, damaged items included; answers the bytes dropped. Other files in the folder stay."""
        dropped = self.trim(0)
        for suffix in (".bin", ".json"):
            _removed(*self.folder.glob("?" * _NAME + suffix))
        self._drop_remains()
        return dropped

    def _places(self, key: Key) -> tuple[Path, Path]:
        name = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()[:_NAME]
        return self.folder / f"{name}.bin", self.folder / f"{name}.json"

    def _drop_remains(self) -> None:
        """Remove what writers left behind that were killed: folders whose lock nobody holds, halves of items."""
        for path in self.folder.glob("?" * _NAME + ".*"):
            other = path.with_suffix(".json" if path.suffix == ".bin" else ".bin")
            with contextlib.suppress(OSError):
                if not other.exists() and time.time() - path.stat().st_mtime > 60:
                    path.unlink()
        for folder in self.folder.glob(f"{_WRITING}*"):
            with contextlib.suppress(OSError), holding(folder) as abandoned:
                # a writer makes its folder a moment before it locks it
                if abandoned and time.time() - folder.stat().st_mtime > 60:
                    shutil.rmtree(folder, ignore_errors=True)


def _removed(*paths: Path) -> bool:
    """Remove files; whether all are gone. Windows keeps one that a process has mapped: half an item then, dropped later."""
    kept = 0
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except PermissionError:
            if os.name != "nt":
                raise
            kept += 1
    return not kept


def default_folder() -> Path | None:
    """$FEXPORT_CACHE if it is set to something, else `fexport` in the user's cache folder; None for a user without a home."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(os.path.expanduser(named))  # a compose file or a service unit hands it over as it stands
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME", ""))  # its standard: what is not absolute is not there
        return (caches if caches.is_absolute() else Path.home() / ".cache") / "fexport"
    except RuntimeError:  # a container whose user has no home
        return None


def open_store(folder: Path | None) -> Store | None:
    """The store in `folder` (None: the default one); None, and why in the log, where there can be none."""
    place = folder or default_folder()
    if place is None:
        _log.info("no store: this user has no home, and %s is not set", VARIABLE)
        return None
    try:
        return Store(place, mend=folder is None and not os.environ.get(VARIABLE))
    except OSError as error:
        _log.info("no store in %s: %s", place, error)
        return None

"""Files: digests, targets that are replaced whole or not at all, and locks that end with the process that holds them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fexruntime.errors import InputError, OutputError

_BLOCK = 1 << 20
_VARIABLE = re.compile(r"\$(\{\w+\}|[A-Za-z_]\w*)")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""How an address begins (s3://bucket, which a Path makes s3:/bucket of); a drive of Windows has one letter."""
_NO_RENAME_ONTO = frozenset({errno.EBUSY, errno.EXDEV})
"""What the system says of a target that is a mount point: it can be written, but nothing can be renamed onto it."""


def file_sha256(path: Path) -> str:
    """Hex digest of a file, read in blocks. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return stream_sha256(file)


def stream_sha256(file: BinaryIO) -> str:
    """Hex digest of what an open file holds from here on."""
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def user_path(text: str) -> str:
    """A path as a person means it: `~` is the home, where no file is called so. InputError for an empty one, and for a variable's
    name that no shell has replaced ('$HOME/x' in single quotes, or in a file of settings): a folder called so would be made.
    """
    if not text:
        raise InputError("an empty path was given: name a file or a folder ('.' is the current one)")
    if text.startswith("~") and not os.path.lexists(text):
        return os.path.expanduser(text)
    if (found := _VARIABLE.search(text)) and not os.path.lexists(text):
        first = text[: text.find("/", found.end())] if "/" in text[found.end() :] else ""
        if not first or not os.path.lexists(first):
            raise InputError(
                f"{text!r} holds the variable {found[0]}, which only a shell replaces, and not in single quotes: write the path out"
            )
    return text


def check_local(path: str | Path) -> None:
    """InputError if a path is an address (s3://…, https://…): written to, it would become a folder called "s3:"."""
    text = str(path)
    if (found := _ADDRESS.match(text)) and not os.path.lexists(found[0]):
        raise InputError(
            f"{text!r} is an address: fexport reads and writes files of this machine; give a path here, and copy what is in it"
        )


def check_ours(path: Path, *marks: bytes) -> None:
    """OutputError if a file is at `path` that fexport did not write: one that is not empty, without one of `marks` at either end.

    What fexport wrote it may write again; what is somebody's stays.
    """
    if not is_ours(path, *marks):
        raise OutputError(
            f"{str(path)!r} is there already, and fexport did not write it: give another name, or remove it first"
        )


def is_ours(path: Path, *marks: bytes) -> bool:
    """Whether a file may be written there: nothing is, or an empty file (or none, such as a pipe), or one with one of `marks`."""
    try:
        if not path.is_file() or not (size := path.stat().st_size):
            return True
        with path.open("rb") as file:
            ends = file.read(_BLOCK)
            file.seek(max(0, size - _BLOCK))
            ends += file.read(_BLOCK)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror or error}") from None
    return any(mark in ends for mark in marks)


def write_file(path: Path, data: bytes) -> None:
    """Write a file; the OSError of a disk that is full names it, which the system's own does not."""
    try:
        path.write_bytes(data)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def check_folder(folder: Path) -> None:
    """OutputError unless files can be made in `folder`, or in the nearest ancestor that exists if it does not."""
    check_local(folder)
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
def replacing(path: Path, locked: bool = False) -> Iterator[Path]:
    """A temporary path beside `path` that becomes it when the block ends well, and vanishes when it does not.

    A file that is replaced keeps its permissions; a link stays a link, and what it points to is replaced. A target that
    is a mount point of its own (a single file that a container was given) is written in place, last of all.
    `locked`: nobody else can be writing this file, so the temporary's name is the same each time, and one that a killed
    process left is used up by the next.
    """
    check_local(path)
    target = Path(os.path.realpath(path))
    # a name of its own, not the target's with something added: that may be longer than a name can be
    temporary = target.with_name(f".fexport-{_digest(target.name) if locked else uuid.uuid4().hex[:12]}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # the system applies the umask; reading it would mean setting it, for every thread of the process
        handle = os.open(temporary, os.O_CREAT | (os.O_TRUNC if locked else os.O_EXCL) | os.O_WRONLY, 0o666)
        os.close(handle)
        if target.is_file():
            temporary.chmod(target.stat().st_mode & 0o7777)
        yield temporary
        try:
            temporary.replace(target)
        except OSError as error:
            if error.errno not in _NO_RENAME_ONTO or not target.is_file():
                raise
            shutil.copyfile(temporary, target)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _digest(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:12]


@contextlib.contextmanager
def holding(folder: Path) -> Iterator[bool]:
    """Hold the lock of an existing folder for the block; False if another process (or thread) has it.

    The lock is the system's (`flock` on the folder itself), so it leaves no file and ends with its process, however
    that ends. A folder that was renamed or removed meanwhile counts as another's. Where the system has no such locks,
    every call has it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield True
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.path.samestat(os.fstat(handle), os.stat(folder))
        except OSError:
            held = False
        yield held
    finally:
        os.close(handle)

"""Putting a finished bundle in its place: staged beside it under a lock, exchanged in one step, nobody's file lost.

A target that is a mount point of its own (a container's volume) cannot be renamed: there the staging folder lies
inside it, and the files are moved one by one, the manifest last.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fexruntime.bundle import open_bundle
from fexruntime.errors import OutputError
from fexruntime.files import check_folder, holding
from fexruntime.manifest import MANIFEST

_OWNER = "builder.txt"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_STAGED_INSIDE = ".fexport.partial"
_REPORT_INSIDE = ".fexport.verification.json"
_REPLACED = "replaced.json"
"""In a staging folder inside a mount point: the manifest that was there before, until the new one is."""
_OURS = re.compile(
    r"manifest\.json|verification\.json|NOTICES\.md|builder\.txt|replaced\.json"
    r"|[a-z0-9_]+(\.(fp16|bf16|int8))?(\.(openvino|tensorrt(-flags)?))?\.(step\.json|onnx|plan\.json|canonical\.npz|arrays\.npz|ncnn\.(param|bin))"
)
"""Names that a build writes into its staging folder."""


def check_target(out: Path, replace: bool = True) -> list[str]:
    """OutputError unless a bundle can be published at `out`: a new folder, an empty one, or (`replace`) an older bundle.

    Answers the networks of the older bundle that have real weights.
    """
    if out.exists() and not out.is_dir():
        raise OutputError(f"cannot build at {str(out)!r}: it is a file")
    foreign = foreign_files(out)
    if foreign:
        raise OutputError(
            f"cannot build at {str(out)!r}: the folder has other things in it ({', '.join(foreign[:3])}); give a new one"
        )
    there = _json(out / MANIFEST) if out.is_dir() else {}
    if (out / MANIFEST).is_file() and not replace:
        of = f" of {there['pipeline']} ({there.get('contract')})" if "pipeline" in there else ""
        raise OutputError(f"{str(out)!r} is a bundle{of} already: give another folder, or --force to replace it")
    check_folder(out if out.is_mount() else out.absolute().parent)
    return _real(there)


def _real(manifest: dict[str, Any]) -> list[str]:
    """Networks of a manifest of any format whose weights are all real."""
    networks = manifest.get("networks")
    records = [r for r in networks.values() if isinstance(r, dict)] if isinstance(networks, dict) else []
    weights = {r.get("network"): r.get("weights") for r in records}
    return [
        str(name) for name, files in weights.items()
        if isinstance(files, list) and all(isinstance(f, dict) and f.get("source") != "stand-in" for f in files)
    ]  # fmt: skip


def foreign_files(folder: Path) -> list[str]:
    """Names in a folder that do not belong to a bundle there, of whatever format; all, if there is no bundle."""
    if not folder.is_dir():
        return []
    own = {_STAGED_INSIDE, _REPORT_INSIDE}
    inside = folder / _STAGED_INSIDE  # a build that was killed while it moved files into a mount point
    for path in (folder / MANIFEST, inside / MANIFEST, inside / _REPLACED):
        own |= _names_of(_json(path))
    names = [path.name for path in folder.iterdir()]
    if MANIFEST in names and _json(folder / MANIFEST) == {}:  # a manifest that was damaged: our names are still ours
        own |= {name for name in names if _OURS.fullmatch(name)}
    return sorted(name for name in names if name not in own)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _names_of(manifest: dict[str, Any]) -> set[str]:
    """Files that a manifest of any format names, and itself; nothing, if it is not one of fexport's."""
    if "format" not in manifest or "fexport" not in manifest:
        return set()
    names, todo = {MANIFEST}, [manifest]
    while todo:
        value = todo.pop()
        if isinstance(value.get("file"), str) and Path(value["file"]).name == value["file"]:
            names.add(value["file"])
        for item in value.values():
            todo += [v for v in (item if isinstance(item, list) else [item]) if isinstance(v, dict)]
    return names


@contextlib.contextmanager
def staging_for(out: Path) -> Iterator[Path]:
    """The folder in which the bundle of `out` is made, held for the block; what an interrupted build left is still in it.

    Raises OutputError if another build has it, and says which.
    """
    _restore(out)
    folder = out / _STAGED_INSIDE if out.is_mount() else out.with_name(f".{out.name}.partial")
    for _ in range(10):  # the other build may publish between our making of the folder and our locking of it
        folder.mkdir(parents=True, exist_ok=True)
        with holding(folder) as held:
            if held:
                _give_back(folder, out)
                (folder / _OWNER).write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
                try:
                    yield folder
                finally:
                    if folder.is_dir() and [p.name for p in folder.iterdir()] == [_OWNER]:
                        discard(folder)  # nothing was made
                return
        if folder.is_dir():
            break
    try:
        who = (folder / _OWNER).read_text(encoding="utf-8")
    except OSError:
        who = "another process"
    raise OutputError(f"{who} is building {str(out)!r} just now: wait until it is done, or give another folder")


def discard(staging: Path) -> None:
    """Remove a staging folder; a file in it that no build wrote stays, and the folder for it."""
    for path in staging.iterdir():
        if _OURS.fullmatch(path.name):
            path.unlink()
    with contextlib.suppress(OSError):  # not empty
        staging.rmdir()


def report_path(out: Path, name: str) -> Path:
    """Where the report of a build that failed is kept: beside `out`, or in it where it is a mount point."""
    return out / _REPORT_INSIDE if out.is_mount() else out.with_name(f"{out.name}.{name}")


def publish(staging: Path, out: Path) -> None:
    """Put the finished folder in place of `out`. An older bundle there is dropped; any other file in it is kept."""
    whole = open_bundle(staging)
    own = {file.file for file in whole.manifest.files} | {MANIFEST}
    for path in staging.iterdir():  # notes for resuming, and parts of an interrupted build of something else
        if path.name not in own and _OURS.fullmatch(path.name):
            path.unlink()
    if out.is_mount():
        _move_into(staging, out)
        return
    if not out.exists():
        staging.rename(out)
        return
    # the older bundle takes the staging folder's name: it is held too, or the next build would take it for its own
    with holding(out):
        old = staging if _exchange(staging, out) else _aside(staging, out)
        _drop_old(old, out)


def _give_back(staging: Path, out: Path) -> None:
    """Files in a staging folder that no build wrote: somebody's, from an older bundle that a killed build had exchanged."""
    for path in staging.iterdir():
        if not _OURS.fullmatch(path.name) and out.is_dir() and not (out / path.name).exists():
            path.rename(out / path.name)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step; False where the system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    done = renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if done == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
        return False
    raise OSError(code, os.strerror(code), str(other))


def _aside(staging: Path, out: Path) -> Path:
    """Two renames, where there is no exchange; the older bundle comes back if the second does not happen."""
    old = _old_of(out)
    out.rename(old)
    try:
        staging.rename(out)
    except BaseException:  # an interrupt, too
        old.rename(out)
        raise
    return old


def _old_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.old")


def _restore(out: Path) -> None:
    """Bring back a bundle that a build put aside before it was killed."""
    old = _old_of(out)
    if old.is_dir() and not out.exists():
        old.rename(out)
    elif old.is_dir() and not foreign_files(old):
        shutil.rmtree(old)


def _drop_old(old: Path, out: Path) -> None:
    """Remove an older bundle; what somebody put into it meanwhile goes to the new one, where they will look for it."""
    for name in foreign_files(old):
        if not (out / name).exists():
            (old / name).rename(out / name)
    if foreign_files(old):  # a name that the new bundle uses
        keep = _old_of(out)
        if old != keep:
            old.rename(keep)
        return
    shutil.rmtree(old)


def _move_into(staging: Path, out: Path) -> None:
    """Without a rename of the folder itself: no manifest while files change, then the new one."""
    replaced = _names_of(_json(out / MANIFEST)) | _names_of(_json(staging / _REPLACED))
    if (out / MANIFEST).exists():
        (out / MANIFEST).replace(staging / _REPLACED)
    moved = [p for p in staging.iterdir() if p.name not in (MANIFEST, _REPLACED)]
    for path in moved:
        path.replace(out / path.name)
    for name in replaced - {p.name for p in moved} - {MANIFEST}:
        (out / name).unlink(missing_ok=True)
    (staging / MANIFEST).replace(out / MANIFEST)
    shutil.rmtree(staging)

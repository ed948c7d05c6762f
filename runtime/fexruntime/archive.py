"""A bundle as one archive, and back: only the files that its manifest names, each by its digest.

The archive is a plain tar, the manifest first, owners and times left out: the same bundle gives the same bytes. Reading one takes
nothing on trust: no member is written by its own path, only by the manifest's, which holds no path that leaves the folder.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

from fexruntime.bundle import Bundle, open_bundle, read_manifest
from fexruntime.errors import BundleError, InputError, OutputError, one_line
from fexruntime.files import check_folder, check_ours, replacing, write_file
from fexruntime.manifest import FORMAT, MANIFEST, FileRecord, Manifest

_BLOCK = 1 << 20
MOST_MANIFEST_BYTES = 16 << 20
_SUFFIX = ".tar"


def export_bundle(bundle: Bundle, target: Path) -> int:
    """Write a bundle as an archive, whole or not at all; answers its bytes.

    Every file is checked against the manifest while it is written. Raises BundleError for one that is not the verified one,
    InputError for a target that is no .tar, OutputError if it cannot be written.
    """
    if target.suffix.lower() != _SUFFIX:
        raise InputError(f"cannot export to {str(target)!r}: an archive is called NAME{_SUFFIX}")
    check_folder(target.parent)
    check_ours(target, MANIFEST.encode() + b"\0")  # which is its first member
    with replacing(target) as temporary, tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as archive:
        _put(archive, MANIFEST, bundle.manifest.as_json())
        for record in bundle.manifest.files:
            _put(archive, record.file, record.read(bundle.path))
    return target.stat().st_size


def _put(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    archive.addfile(member, io.BytesIO(data))


def import_bundle(source: Path, folder: Path) -> Bundle:
    """Make a bundle's folder of an archive, whole or not at all; the folder must not exist (or be empty).

    Raises BundleError for what is not an archive of a bundle: a member that the manifest does not name, that is no plain file, comes
    twice, is larger or smaller than the manifest says, or has another digest. Nothing of it is left then.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"cannot import into {str(folder)!r}: it is there already; name a folder that is not")
    check_folder(folder.parent)
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.import-", dir=folder.parent))
    try:
        try:
            with tarfile.open(source, "r:") as archive:
                _extract(archive, source, made)
        except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
            raise BundleError(f"{str(source)!r} is not an archive of a bundle: {one_line(error)}") from None
        except OSError as error:
            where = error.filename or str(source)
            raise OutputError(f"cannot import {str(source)!r} ({where}): {error.strerror or error}") from None
        open_bundle(made)
        made.chmod(0o777 & ~_umask())
        try:
            os.rename(made, folder)  # onto an empty folder too
        except OSError as error:
            raise OutputError(f"cannot import into {str(folder)!r}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return open_bundle(folder)


def _umask() -> int:
    """The permissions that new files do not get, read off a new file: asking the system would change it for every thread."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o777))
        return 0o777 & ~path.stat().st_mode


def _extract(archive: tarfile.TarFile, source: Path, folder: Path) -> None:
    first = archive.next()
    if first is None or first.name != MANIFEST or not first.isreg() or first.size > MOST_MANIFEST_BYTES:
        raise BundleError(f"{str(source)!r} is not an archive of a bundle: it does not begin with {MANIFEST}")
    data = _bytes_of(archive, first)
    value = json.loads(data.decode("utf-8"))
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise BundleError(f"{str(source)!r} holds a bundle of another format: this version reads {FORMAT}")
    lacking = {record.file: record for record in Manifest.from_json(value).files}
    while (member := archive.next()) is not None:
        record = lacking.pop(member.name, None)
        if record is None or not member.isreg():
            raise BundleError(
                f"{str(source)!r} holds {member.name!r:.80}, which is not a file that its manifest names once"
            )
        if member.size != record.size_bytes:
            raise BundleError(
                f"{member.name!r:.80} in {str(source)!r} has {member.size} bytes, its manifest says {record.size_bytes!r:.20}"
            )
        _write(archive, member, record, folder, source)
    if lacking:
        raise BundleError(
            f"{str(source)!r} lacks {', '.join(f'{n!r:.80}' for n in list(lacking)[:3])}: it is not whole; export the bundle again"
        )
    write_file(folder / MANIFEST, data)
    read_manifest(folder)


def _bytes_of(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    data = b"" if file is None else file.read(member.size)
    if len(data) != member.size:
        raise EOFError("it is cut off")
    return data


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, record: FileRecord, folder: Path, source: Path) -> None:
    """A member to the path that the manifest gives, by blocks."""
    target = folder / record.file
    target.parent.mkdir(parents=True, exist_ok=True)
    file, digest = archive.extractfile(member), hashlib.sha256()
    assert file is not None
    with target.open("xb") as out:
        while block := file.read(_BLOCK):
            digest.update(block)
            out.write(block)
    if digest.hexdigest() != record.sha256:
        raise BundleError(f"{member.name!r} in {str(source)!r} is not the file that was verified: its sha256 differs")

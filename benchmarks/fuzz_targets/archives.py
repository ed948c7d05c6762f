"""Archives of bundles."""

from __future__ import annotations

import dataclasses
import io
import json
import random
import shutil
import tarfile
from collections.abc import Sequence
from typing import Any

from fexruntime.archive import import_bundle
from fexruntime.bundle import packaged_path
from fexruntime.errors import BundleError, OutputError
from fexruntime.manifest import MANIFEST, FileRecord
from fuzz_targets.target import READ, Broken, Target, mutate_bytes, mutate_json_text, refusal, working_folder


def _tar(members: Sequence[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member, content in members:
            member.size = len(content) if member.isreg() else member.size
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


def _archives() -> list[bytes]:
    """Archives of a bundle that has the packaged detector's manifest, and small files of its own."""
    value = json.loads((packaged_path("edge") / MANIFEST).read_bytes())
    files: dict[str, bytes] = {}

    def small(at: Any) -> Any:
        if isinstance(at, dict) and at.keys() == {"file", "sha256", "size_bytes"}:
            files[at["file"]] = at["file"].encode()
            return dataclasses.asdict(FileRecord.of(at["file"], files[at["file"]]))
        if isinstance(at, dict):
            return {k: small(v) for k, v in at.items()}
        return [small(v) for v in at] if isinstance(at, list) else at

    members = [(tarfile.TarInfo(MANIFEST), json.dumps(small(value)).encode())]
    members += [(tarfile.TarInfo(name), data) for name, data in files.items()]
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return [_tar(members), _tar([*members, (link, b"")]), _tar(members[:2])]


def check_archive(data: bytes) -> str:
    """An archive becomes a bundle, or is refused and nothing of it is left."""
    folder = working_folder() / "import"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "b.tar").write_bytes(data)
    try:
        bundle = import_bundle(folder / "b.tar", folder / "made")
    except (BundleError, OutputError) as error:
        if [p.name for p in folder.iterdir()] != ["b.tar"]:
            raise Broken(f"it left {sorted(p.name for p in folder.iterdir())}") from None
        return refusal(error)
    written = {str(p.relative_to(bundle.path)) for p in bundle.path.rglob("*") if not p.is_dir()}
    if written != {MANIFEST, *(f.file for f in bundle.manifest.files)} or any(
        p.is_symlink() for p in bundle.path.rglob("*")
    ):
        raise Broken(f"it wrote {sorted(written)}")
    return READ


def _mutate_archive(data: bytes, rng: random.Random) -> bytes:
    """Members renamed, dropped, doubled, of another kind, or their content changed; digests of the heads are right again."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            members = []
            for member in archive.getmembers()[:50]:
                file = archive.extractfile(member) if member.isreg() else None
                members.append((member, b"" if file is None else file.read()))
    except (tarfile.TarError, ValueError, OSError, EOFError):
        return mutate_bytes(data, rng)
    if not members:
        return data
    at = rng.randrange(len(members))
    member, content = members[at]
    what = rng.randrange(6)
    if what == 0:
        member.name = rng.choice(("../x", "/x", MANIFEST, "a/../../x", "x\n", "", "é" * 200))
    elif what == 1:
        del members[at]
    elif what == 2:
        members.insert(rng.randrange(len(members) + 1), members[at])
    elif what == 3:
        member.type, member.linkname = (
            rng.choice((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE)),
            "../x",
        )
        members[at] = (member, b"")
    elif what == 4:
        members[at] = (member, mutate_bytes(content, rng))
    else:
        members[0] = (members[0][0], mutate_json_text(members[0][1], rng))
    try:
        return _tar(members)
    except (ValueError, OSError, tarfile.TarError):
        return data


TARGET = Target(_archives, check_archive, _mutate_archive, ("archive.py",), 1 << 16)

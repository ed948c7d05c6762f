"""What the fuzzer calls: for each reader of what others made, inputs to begin with, and a check of one input.

A check answers "read" or "refused". Anything else (another exception than those of `FexportError`'s tree, an answer that does not hold
together) is a finding. Nothing here needs the fuzzer, so tests repeat its findings without it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import random
import shutil
import tarfile
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fexruntime import Detector, record
from fexruntime.archive import import_bundle
from fexruntime.bundle import open_bundle, packaged_path
from fexruntime.errors import BundleError, FexportError, InputError, OutputError
from fexruntime.manifest import MANIFEST, FileRecord, Manifest
from fexruntime.sinks.appending import journal_text
from fexruntime.sources import images, limits
from fexruntime.sources.video import Video

PHOTO = Path(__file__).parent.parent / "export" / "fexport" / "photographs" / "astronaut.jpg"
MOST_PIXELS = 1_000_000
READ, REFUSED = "read", "refused"
MOST_WORDS = 1000
"""Characters of a message: one sentence, whatever stands in the file."""


class Broken(AssertionError):
    """An answer that does not hold together."""


@dataclass(frozen=True, slots=True)
class Target:
    """One reader: inputs to begin with, the check of one, a mutation that knows its format, the files whose lines are counted."""

    seeds: Callable[[], list[bytes]]
    check: Callable[[bytes], str]
    mutate: Callable[[bytes, random.Random], bytes]
    files: tuple[str, ...]
    most_bytes: int


def refusal(error: FexportError) -> str:
    """`REFUSED`; Broken unless the message is one sentence."""
    said = str(error)
    if not said or "\n" in said or len(said) > MOST_WORDS:
        raise Broken(f"a message of {len(said)} characters: {said[:300]!r}")
    return REFUSED


@cache
def _folder() -> Path:
    """A folder of this process, which ends with it."""
    made = tempfile.TemporaryDirectory(prefix="fuzz-")
    _kept.append(made)
    return Path(made.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []


# -- JSON ---------------------------------------------------------------------------------------------------------------------------

_ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**400, 1e308, 1.5, "", "x", "../x", "/etc/passwd", "a\0b", "\n", "\ud800", "x" * 3000,
    [], {}, [[]], [0], {"": 0}, "onnx", "any", "int8", "<f4", "|O", "AAAA", "===",
)  # fmt: skip


def mutate_json(value: Any, rng: random.Random) -> Any:
    """A value of JSON with one thing in it changed, taken out, doubled, or swapped with another."""
    places = list(_places(value))
    if not places:
        return rng.choice(_ODD)
    at, key = rng.choice(places)
    what = rng.randrange(6)
    if what == 0:
        at[key] = rng.choice(_ODD)
    elif what == 1:
        del at[key]
    elif what == 2:
        other, name = rng.choice(places)
        with_it = json.dumps(other[name]) if name in range(len(other)) or name in other else "null"
        at[key] = json.loads(with_it)
    elif what == 3 and isinstance(at, list):
        at.insert(key, json.loads(json.dumps(at[key])))
    elif what == 3:
        at[rng.choice(("x", "", str(key) + "_", "0", "99"))] = at[key]
    elif isinstance(at[key], (int, float)) and not isinstance(at[key], bool):
        at[key] = at[key] + rng.choice((-1, 1, 256, -(2**31), 0.5))
    elif isinstance(at[key], str):
        where = rng.randrange(len(at[key]) + 1)
        at[key] = (
            at[key][:where]
            + rng.choice(("", "\0", "/", "..", "é", "\ud800", "9" * 40))
            + at[key][where + rng.randrange(2) :]
        )
    else:
        at[key] = rng.choice(_ODD)
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def _mutate_manifest(data: bytes, rng: random.Random) -> bytes:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data
    return json.dumps(mutate_json(value, rng)).encode()


# -- the manifest -------------------------------------------------------------------------------------------------------------------


def _manifests() -> list[bytes]:
    return [(packaged_path(name) / MANIFEST).read_bytes() for name in ("edge", "facemesh")]


def check_manifest(data: bytes) -> str:
    """A bundle with this manifest and the packaged detector's files is opened, or refused; if opened, its files are within it."""
    folder = _folder() / "bundle"
    if not folder.exists():
        shutil.copytree(packaged_path("edge"), folder)
    (folder / MANIFEST).write_bytes(data)
    try:
        bundle = open_bundle(folder)
    except BundleError as error:
        return refusal(error)
    root = folder.resolve()
    if not all((folder / f.file).resolve().is_relative_to(root) for f in bundle.manifest.files):
        raise Broken("a file outside the bundle")
    if Manifest.from_json(json.loads(bundle.manifest.as_json())) != bundle.manifest:
        raise Broken("a manifest that is another when it is written and read again")
    try:
        bundle.verify_files()
        if zlib.crc32(data) % 16 == 0:  # loading takes as long as a hundred manifests
            Detector(folder, threads=1, cache=False).close()
    except FexportError as error:
        return refusal(error)
    return READ


# -- the journal of an unfinished run -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Unfinished:
    """A run that was stopped before its last picture: its inputs, what it left, and what it would have written."""

    detector: Detector
    inputs: list[str]
    options: dict[str, Any]
    journal: bytes
    part: bytes
    whole: bytes


@cache
def _unfinished() -> _Unfinished:
    folder = _folder()
    photo = images.read_image(PHOTO)[20:220, 130:330]
    inputs = []
    for k in range(4):
        inputs.append(str(folder / f"{k}.png"))
        cv2.imwrite(
            inputs[-1],
            np.ascontiguousarray(cv2.resize(photo[k:, k:], (64, 64), interpolation=cv2.INTER_AREA)[:, :, ::-1]),
        )
    detector = Detector(threads=1)
    options = {"detect_every": 3, "bbox_smoothing_alpha": 0.5}
    record(detector, inputs, folder / "whole.csv", commit_every_s=0, **options)
    stop, seen = threading.Event(), []

    def on_batch(batch: Sequence[Any]) -> None:
        seen.extend(batch)
        if len(seen) == 3:
            stop.set()

    record(detector, inputs, folder / "out.csv", commit_every_s=0, stop=stop, on_batch=on_batch, **options)
    left = [(folder / f"out.csv.{name}").read_bytes() for name in ("journal", "part")]
    return _Unfinished(detector, inputs, options, *left, (folder / "whole.csv").read_bytes())


def _journals() -> list[bytes]:
    journal = _unfinished().journal
    return [b"\0" + journal, b"\1" + journal, b"\0" + b"".join(journal.splitlines(True)[:2])]


def check_journal(data: bytes) -> str:
    """A run is gone on with from this journal, or refused. The first byte odd: its lines get right checksums, as somebody might forge
    them, and any table may come of it. Else the table must be the one of a run that was never stopped.
    """
    was, folder = _unfinished(), _folder() / "resumed"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    forged, journal = bool(data and data[0] & 1), data[1:]
    if forged:
        journal = _sealed(journal)
    (folder / "out.csv.journal").write_bytes(journal)
    (folder / "out.csv.part").write_bytes(was.part)
    try:
        record(was.detector, was.inputs, folder / "out.csv", resume=True, commit_every_s=0, **was.options)
    except (InputError, OutputError) as error:
        return refusal(error)
    if not forged and (folder / "out.csv").read_bytes() != was.whole:
        raise Broken("a damaged journal gave another table")
    return READ


def _sealed(journal: bytes) -> bytes:
    """Lines with the checksums that they should have."""
    lines = []
    for line in journal.split(b"\n"):
        text = line.partition(b" ")[2]
        lines.append(journal_text(text) if text else line)
    return b"".join(lines)


def _mutate_journal(data: bytes, rng: random.Random) -> bytes:
    first, lines = data[:1], data[1:].splitlines()
    if not lines:
        return data
    at = rng.randrange(len(lines))
    try:
        value = json.loads(lines[at].partition(b" ")[2])
    except (ValueError, RecursionError):
        return data
    lines[at] = b"0" * 8 + b" " + json.dumps(mutate_json(value, rng)).encode()  # a forged line is sealed by the check
    return (first if rng.random() < 0.7 else bytes([rng.randrange(2)])) + b"\n".join(lines) + b"\n"


# -- images -------------------------------------------------------------------------------------------------------------------------


def _images() -> list[bytes]:
    y, x = np.mgrid[:24, :32]
    image = np.stack([8 * y, 6 * x, x + y], axis=2).astype(np.uint8)
    four = np.dstack([image, 255 - image[:, :, :1]])
    made = [
        cv2.imencode(f".{kind}", image)[1].tobytes() for kind in ("jpg", "png", "webp", "tiff", "bmp", "ppm", "gif")
    ]
    made += [cv2.imencode(f".{kind}", image[:, :, 0])[1].tobytes() for kind in ("jpg", "png", "tiff", "pgm")]
    made += [cv2.imencode(".png", four)[1].tobytes(), cv2.imencode(".webp", four)[1].tobytes()]
    made += [cv2.imencode(f".{kind}", image.astype(np.uint16) * 256)[1].tobytes() for kind in ("png", "tiff")]
    made.append(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes())
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    made.append(made[0][:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + made[0][2:])
    return made


def check_image(data: bytes) -> str:
    """An image is read, in the size that its head says, or refused."""
    os.environ[limits.PIXELS_VARIABLE] = str(MOST_PIXELS)
    said = images.encoded_size(data)
    try:
        image = images.decode_image(data, "the image", exif=bool(len(data) & 1))
    except InputError as error:
        return refusal(error)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.flags.c_contiguous:
        raise Broken(f"not an image: {image.shape} {image.dtype}")
    if image.shape[0] * image.shape[1] > MOST_PIXELS:
        raise Broken(f"more pixels than are allowed: {image.shape}")
    if said is not None and said[0] * said[1] < image.shape[0] * image.shape[1]:
        raise Broken(f"{image.shape[1]} x {image.shape[0]} pixels, its head said {said}: the limit could be passed")
    return READ


def _mutate_image(data: bytes, rng: random.Random) -> bytes:
    """Bytes changed here and there; a PNG's chunks get right checksums, or no change but the checksum's would be seen."""
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        if changed:
            changed[rng.randrange(min(len(changed), rng.choice((32, 64, 1 << 30))))] = rng.choice(
                (0, 1, 2, 127, 128, 255, rng.randrange(256))
            )
    at = 8
    while changed.startswith(b"\x89PNG") and at + 12 <= len(changed):
        end = at + 8 + int.from_bytes(changed[at : at + 4], "big")
        if end + 4 <= len(changed):
            changed[end : end + 4] = zlib.crc32(changed[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(changed)


# -- videos -------------------------------------------------------------------------------------------------------------------------


def _videos() -> list[bytes]:
    import av

    made = []
    for suffix, codec, count in (("mp4", "libx264", 6), ("mkv", "mpeg4", 4), ("avi", "mjpeg", 2)):
        path = _folder() / f"seed.{suffix}"
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream(codec, rate=30)
            stream.height = stream.width = 32
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for n in range(count):
                pixels = np.full((32, 32, 3), 40 * n, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode(None))
        made.append(path.read_bytes())
    return made


def check_video(data: bytes) -> str:
    """The first frames of a video are read, or it is refused."""
    path = _folder() / "film.mp4"
    path.write_bytes(data)
    try:
        video = Video(path, rotate=bool(len(data) & 1))
        for picked in video.frames(range(min(video.timeline.frames, 6))):
            if picked.rgb_u8.ndim != 3 or picked.rgb_u8.shape[2] != 3 or picked.rgb_u8.dtype != np.uint8:
                raise Broken(f"not a frame: {picked.rgb_u8.shape}")
    except InputError as error:
        return refusal(error)
    return READ


def _mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        if changed:
            at = rng.randrange(len(changed))
            changed[at : at + 4] = rng.choice(
                (bytes(4), b"\xff" * 4, b"\x7f" + b"\xff" * 3, b"\0\0\0\1", rng.randbytes(rng.randrange(5)))
            )
    return bytes(changed)


# -- archives of bundles ------------------------------------------------------------------------------------------------------------


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
    folder = _folder() / "import"
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
        return _mutate_bytes(data, rng)
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
        members[at] = (member, _mutate_bytes(content, rng))
    else:
        members[0] = (members[0][0], _mutate_manifest(members[0][1], rng))
    try:
        return _tar(members)
    except (ValueError, OSError, tarfile.TarError):
        return data


TARGETS = {
    "manifest": Target(_manifests, check_manifest, _mutate_manifest, ("manifest.py", "bundle.py"), 1 << 15),
    "journal": Target(
        _journals,
        check_journal,
        _mutate_journal,
        ("sinks/appending.py", "recording.py", "walk.py", "naming.py"),
        1 << 15,
    ),
    "image": Target(_images, check_image, _mutate_image, ("sources/images.py",), 1 << 13),
    "video": Target(_videos, check_video, _mutate_bytes, ("sources/video.py", "sources/timeline.py"), 1 << 13),
    "archive": Target(_archives, check_archive, _mutate_archive, ("archive.py",), 1 << 16),
}


def digest(data: bytes) -> str:
    """A short name for an input."""
    return hashlib.sha256(data).hexdigest()[:12]

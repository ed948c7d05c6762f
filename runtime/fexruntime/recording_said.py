"""What a recorded run says of itself: what makes two runs the same, and where a file's rows come from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fexruntime.files import file_sha256
from fexruntime.manifest import MANIFEST
from fexruntime.options import Options
from fexruntime.provenance import TABLE_DIGEST, write_sidecar
from fexruntime.sinks.appending import Appending

if TYPE_CHECKING:
    from fexruntime.detector import Detector

_SAMPLE = 1 << 16


def said(detector: Detector, options: Options, identity: dict[str, Any]) -> dict[str, Any]:
    """Where the rows of a run come from: what both `provenance` and the run's own identity say."""
    about = detector.about | {"options": asdict(options)}
    return identity | about | {"engines": identity["engines"], "inputs": identity["inputs"]}


def sidecar(sink: Appending, said: dict[str, Any], done: Mapping[str, Any]) -> None:
    """Write what is said of a file of rows beside it; Parquet says it itself."""
    if sink.target.suffix.lower() != ".parquet":
        kept = {k: v for k, v in said.items() if k not in ("columns", "inputs")}
        write_sidecar(sink.target, kept | dict(done) | {TABLE_DIGEST: sink.sha256()})


def described(detector: Detector, files: Sequence[str], options: Options, columns: Sequence[str]) -> dict[str, Any]:
    """What makes two runs the same: bundle, engines, options, inputs by name, columns."""
    place = detector.describe()
    return {
        "bundle": file_sha256(detector.bundle.path / MANIFEST),
        "pipeline": detector.pipeline.name,
        "contract": detector.bundle.contract,
        "engines": {role: [said["backend"], said["version"], said["precision"]] for role, said in place.items()},
        "options": {f.name: _plain(getattr(options, f.name)) for f in fields(options)},
        "inputs": list(files),
        "columns": list(columns),
    }


def fingerprint(name: str) -> list[Any]:
    """Size of a file, and a digest of its beginning, middle and end: enough to tell another file, quick for a long one."""
    digest = hashlib.sha256()
    path = Path(name)
    size = path.stat().st_size
    with path.open("rb") as file:
        for at in sorted({0, max(0, size // 2 - _SAMPLE // 2), max(0, size - _SAMPLE)}):
            file.seek(at)
            digest.update(file.read(_SAMPLE))
    return [size, digest.hexdigest()]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

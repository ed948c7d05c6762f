"""Where numbers come from: contract, bundle, weights with their digests, stand-ins, versions, options."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fexruntime.files import check_ours, file_sha256, replacing
from fexruntime.versions import installed

if TYPE_CHECKING:
    from fexruntime.bundle import Bundle
    from fexruntime.options import Options

MARK = b'"bundle_sha256": "'
"""What every such file has, and no other."""
TABLE_DIGEST, REPLACED = "table_sha256", "replaced_sha256"
"""Its keys of the digests of the table that it lies beside (a table that was changed since is somebody's work), and of the one of ours
that was there before: a process may end between the two files."""
PACKAGES = ("fexport", "onnxruntime", "ncnn", "openvino", "numpy", "opencv-python-headless", "av", "pyarrow")
"""Those whose versions can change a number, or a file."""


def provenance(bundle: Bundle, options: Options | None = None) -> dict[str, Any]:
    """What is said of results of a bundle, as plain values that JSON can hold."""
    said = {
        "pipeline": bundle.pipeline.name,
        "contract": bundle.contract,
        "reference": bundle.manifest.reference,
        "bundle": str(bundle.path),
        "bundle_sha256": hashlib.sha256(bundle.manifest.as_json()).hexdigest(),
        "stand_ins": list(bundle.stand_ins),
        "precision": {role: network.record.precision for role, network in bundle.networks.items()},
        "weights": {
            role: [{"file": w.filename, "source": w.source, "sha256": w.sha256} for w in network.record.weights]
            for role, network in bundle.networks.items()
        },
        "versions": installed(PACKAGES),
    }
    if options is not None:
        said["options"] = dataclasses.asdict(options)
    return said


def sentence(bundle: Bundle) -> str:
    """The same in a line: whose conventions the numbers follow, and which of them mean nothing."""
    made_up = f"; STAND-IN WEIGHTS in {', '.join(bundle.stand_ins)}" if bundle.stand_ins else ""
    return f"contract {bundle.contract} ({bundle.manifest.reference}){made_up}"


def sidecar_of(path: Path) -> Path:
    """The file beside a table that says where it comes from."""
    return path.with_name(f"{path.name}.meta.json")


def check_sidecar(path: Path) -> None:
    """OutputError if the place of the file beside the table `path` is taken by somebody's."""
    check_ours(sidecar_of(path), MARK)


def digests_in_sidecar(path: Path) -> tuple[str, ...]:
    """Digests of the table `path` as it was written, and of the one that it replaced; none without a file beside it, or in one that does
    not say.
    """
    said = sidecar_read(path)
    return tuple(str(said[key]) for key in (TABLE_DIGEST, REPLACED) if key in said)


def sidecar_read(path: Path) -> dict[str, Any]:
    """What the file beside the table `path` says; nothing without one, or of one that cannot be read."""
    try:
        said = json.loads(sidecar_of(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def write_sidecar(path: Path, said: Mapping[str, Any]) -> Path:
    """Write what is said of the table `path` beside it, before the table itself; answers where."""
    target = sidecar_of(path)
    check_sidecar(path)
    if digests_in_sidecar(path) and path.is_file():  # ours, as the caller has seen: it is there until the new one is
        said = {**said, REPLACED: file_sha256(path)}
    text = json.dumps(said, indent=1, ensure_ascii=False, default=str) + "\n"
    with replacing(target) as temporary:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))
    return target

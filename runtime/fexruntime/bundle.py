"""A bundle: a folder of verified artefacts and the manifest that says what they are, where from, and how verified.

Reading one checks that every file is inside the folder and is, byte for byte, the one that was verified.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fexruntime.contracts import Network, Pipeline, network_row, pipeline_row
from fexruntime.digest import file_sha256
from fexruntime.errors import BundleError, InputError

MANIFEST = "manifest.json"
FORMAT = 1
EDGE = "edge"
"""Name of the bundle that comes with the package: the MobileNet-0.25 face detector."""


@dataclass(frozen=True, slots=True)
class Artefact:
    """One file of a bundle: its path, digest and size as recorded."""

    path: Path
    sha256: str
    size_bytes: int

    def checked_path(self) -> Path:
        """The file's path; BundleError if its bytes are not the ones that were verified."""
        try:
            found = file_sha256(self.path)
        except OSError as error:
            raise BundleError(
                f"cannot read {str(self.path)!r}: {error.strerror or error}; build the bundle again"
            ) from None
        if found != self.sha256:
            raise BundleError(
                f"{str(self.path)!r} is not the file that was verified: its sha256 differs from the manifest's; "
                "build the bundle again, or restore the file"
            )
        return self.path


@dataclass(frozen=True, slots=True)
class BundleNetwork:
    """A network of a bundle: its contract row, its artefacts, and its manifest entry."""

    role: str
    row: Network
    model: Artefact
    canonical: Artefact
    """A recorded input and the outputs that the verified graph gave for it (.npz)."""
    arrays: Artefact | None
    """Weights for the NumPy backend (.npz), where there is one."""
    entry: dict[str, Any] = field(repr=False)

    @property
    def output_names(self) -> list[str]:
        """Names of the graph's outputs, in order."""
        return [o["name"] for o in self.entry["outputs"]]

    @property
    def input_shape(self) -> list[int | str]:
        """Shape of the graph's input; strings are dynamic axes."""
        shape: list[int | str] = self.entry["inputs"][0]["shape"]
        return shape

    @property
    def stand_in(self) -> bool:
        """Whether any weight of this network is made up: its numbers test the arithmetic and mean nothing."""
        return any(w["source"] == "stand-in" for w in self.entry["weights"])


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was read and whose manifest holds together. Roles are "faces", the pipeline's own, "identity"."""

    path: Path
    pipeline: Pipeline
    networks: dict[str, BundleNetwork]
    verification: Artefact
    """Report of the comparison with torch (JSON)."""
    notices: Artefact
    """Licences of the networks (Markdown)."""
    manifest: dict[str, Any] = field(repr=False)

    @property
    def stand_ins(self) -> list[str]:
        """Names of the networks that run on stand-in weights."""
        return [n.row.name for n in self.networks.values() if n.stand_in]

    @property
    def artefacts(self) -> list[Artefact]:
        """Every file that the manifest names."""
        networks = [a for n in self.networks.values() for a in (n.model, n.canonical, n.arrays) if a is not None]
        return [*networks, self.verification, self.notices]

    @property
    def files(self) -> frozenset[Path]:
        """Paths of everything that belongs to the bundle, its manifest included."""
        return frozenset(a.path for a in self.artefacts) | {self.path / MANIFEST}

    def verify_files(self) -> int:
        """Check the digest of every file; answers how many were checked."""
        for artefact in self.artefacts:
            artefact.checked_path()
        return len(self.artefacts)


def edge_bundle_path() -> Path:
    """Folder of the bundle that comes with the package."""
    return Path(__file__).parent / "bundles" / EDGE


def open_bundle(path: str | Path) -> Bundle:
    """Read a bundle's manifest. `path` is a folder, or "edge" for the one that comes with the package.

    Raises BundleError if the folder has no manifest, or one that is damaged, of another format, or whose paths
    leave the folder. Files are checked when they are loaded.
    """
    folder = edge_bundle_path() if str(path) == EDGE and not Path(path).exists() else Path(path)
    if not folder.is_dir():
        raise BundleError(f"no bundle at {str(path)!r}: make one with `fexport build {path}`")
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(
            f"{str(folder)!r} is not a bundle: it has no {MANIFEST}; make one with `fexport build`"
        ) from None
    except (OSError, ValueError) as error:
        raise BundleError(f"cannot read {str(folder / MANIFEST)!r}: {error}; build the bundle again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise BundleError(
            f"the bundle {str(folder)!r} has format {found!r}; this version reads {FORMAT}: build it again"
        )
    try:
        pipeline = pipeline_row(manifest["pipeline"], manifest["contract"])
        networks = {role: _network(folder, role, entry) for role, entry in manifest["networks"].items()}
        verification, notices = (_artefact(folder, manifest[name]) for name in ("verification", "notices"))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OSError, InputError) as error:
        raise BundleError(f"the manifest of {str(folder)!r} is damaged ({error}): build the bundle again") from None
    missing = {"faces", *(role for role, _ in pipeline.roles)} - set(networks)
    if missing:
        raise BundleError(f"the manifest of {str(folder)!r} has no network for {', '.join(sorted(missing))}")
    return Bundle(folder, pipeline, networks, verification, notices, manifest)


def _network(folder: Path, role: str, entry: dict[str, Any]) -> BundleNetwork:
    known = {"package", "folder", "hub", "stand-in"}
    if not entry["outputs"] or not entry["inputs"][0]["shape"] or {w["source"] for w in entry["weights"]} - known:
        raise ValueError(f"the entry of {role} is not one that a build writes")
    _ = [o["name"] for o in entry["outputs"]]
    return BundleNetwork(
        role,
        network_row(entry["network"]),
        _artefact(folder, entry["model"]),
        _artefact(folder, entry["canonical"]),
        _artefact(folder, entry["arrays"]) if entry.get("arrays") else None,
        entry,
    )


def _artefact(folder: Path, entry: dict[str, Any]) -> Artefact:
    path = folder / entry["file"]
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"the manifest of {str(folder)!r} names a file outside the bundle: {entry['file']!r}")
    return Artefact(path, str(entry["sha256"]), int(entry["bytes"]))

"""A bundle: a folder of verified artefacts and the manifest that says what they are, where from, and how verified.

Opening one reads the manifest and holds it against the contract tables of the running code; a file is read once, when
it is loaded, and must be byte for byte the one that was verified.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fexruntime.contracts import (
    CONTRACTS,
    Choice,
    Network,
    Pipeline,
    Stage,
    contract_sha256,
    is_inner,
    network_row,
    pipeline_row,
)
from fexruntime.errors import BundleError, InputError, quoted
from fexruntime.files import check_local, user_path
from fexruntime.manifest import ANY, FORMAT, MANIFEST, FileRecord, Manifest, NetworkRecord, Variant

EDGE = "edge"
PACKAGED = {
    EDGE: "face boxes (RetinaFace MobileNet-0.25)",
    "facemesh": "MediaPipe's 478-point face mesh with irises, and head pose",
}
"""Bundles that come with the package, by name; the first is the default. A folder called so is "./edge"."""


@dataclass(frozen=True, slots=True)
class BundleNetwork:
    """What fills a role of a bundle: the stage as this network fills it, the choice made, its contract row, its record in the
    manifest."""

    role: str
    stage: Stage
    choice: Choice
    row: Network
    record: NetworkRecord
    folder: Path

    def variant(self, precision: str | None, kinds: tuple[str, ...], target: str = ANY) -> Variant:
        """The artefact in a precision (None: what the network was built in), of the first of these kinds that is there; one
        that was made for `target`, if there is one, else one for any.

        BundleError says which there are.
        """
        precision = precision or self.record.precision
        for kind in kinds:
            for made_for in dict.fromkeys((target, ANY)):
                for variant in self.record.variants:
                    if (variant.precision, variant.kind, variant.target) == (precision, kind, made_for):
                        return variant
        there = ", ".join(f"{v.precision} {v.form}" for v in self.record.variants)
        if "ncnn" in kinds:
            there += f"; {self.record.not_held.get('ncnn', 'build the bundle with --target ncnn')}"
        raise BundleError(
            f"{self.row.name} ({self.role}) has no {precision} artefact of kind {' or '.join(kinds)} in this bundle: "
            f"it has {there}"
        )

    def read(self, file: FileRecord) -> bytes:
        """The bytes of one of its files, checked against the manifest."""
        return file.read(self.folder)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose manifest was read and holds together.

    `networks` is by role, the finder first, then in the order in which the pipeline runs them. `host_roles` are the
    stages that it has without a graph.
    """

    path: Path
    pipeline: Pipeline
    contract: str
    manifest: Manifest
    networks: Mapping[str, BundleNetwork]
    host_roles: frozenset[str]

    @property
    def stand_ins(self) -> list[str]:
        """Names of the networks that run on stand-in weights."""
        return [n.row.name for n in self.networks.values() if n.record.stand_in]

    @property
    def roles(self) -> frozenset[str]:
        """Every role that this bundle fills, with a graph or without."""
        return frozenset(self.networks) | self.host_roles

    def verify_files(self) -> int:
        """Check the digest of every file; answers how many were checked."""
        for file in self.manifest.files:
            file.check(self.path)
        return len(self.manifest.files)


EDGE_DETECTOR_SIZE = 1000
"""Longer side of what the packaged face detector should see: on larger pictures it finds faces where there are none (docs/terminal.md)."""


def edge_bundle_path() -> Path:
    """Folder of the bundle that comes with the package."""
    return Path(__file__).parent / "bundles" / EDGE


def packaged_path(name: str) -> Path:
    """Folder of a bundle that comes with the package."""
    return Path(__file__).parent / "bundles" / name


def open_bundle(path: str | Path | None = None) -> Bundle:
    """Read a bundle's manifest. `path` is a folder, or a word of `PACKAGED`; None is the first of those.

    Raises BundleError if there is no bundle, its manifest is damaged, of another format, or of other contract rows than
    this version's. Files are checked when they are loaded.
    """
    if path is None or path in PACKAGED:
        folder = packaged_path(EDGE if path is None else str(path))
    else:
        check_local(path)
        folder = Path(user_path(str(path)))
    if folder.is_file():
        raise BundleError(f"{str(path)!r} is a file; a bundle is a folder that `fexport build` made")
    if not folder.is_dir():
        raise BundleError(f"no bundle at {str(path)!r}: make one with `fexport build {path}`")
    value = read_manifest(folder)
    if value.get("format") != FORMAT:
        raise BundleError(
            f"the bundle {str(folder)!r} has format {value.get('format')!r:.40}; this version reads {FORMAT}: "
            f"make it again with `{rebuild_command(value, folder)}`"
        )
    try:
        manifest = Manifest.from_json(value)
        pipeline = pipeline_row(manifest.pipeline, manifest.contract)
        networks, host = _filled(pipeline, manifest, folder)
        said = dict(pipeline.fex_info) | {k: v for n in networks.values() for k, v in n.choice.fex_info}
        pipeline = replace(pipeline, fex_info=tuple(said.items()))
        digest = contract_sha256(
            pipeline, manifest.contract, {r: None if n is None else n.network for r, n in manifest.networks.items()}
        )
    except (BundleError, InputError) as error:
        raise BundleError(
            f"the manifest of {str(folder)!r} is damaged ({quoted(error, 500)}): "
            f"make the bundle again with `{rebuild_command(value, folder)}`"
        ) from None
    if digest != manifest.contract_sha256:
        raise BundleError(
            f"the bundle {str(folder)!r} was made under other contract rows (fexport {quoted(manifest.fexport, 40)}): its numbers would "
            f"be read wrongly here; make it again with `{rebuild_command(value, folder)}`"
        )
    return Bundle(folder, pipeline, manifest.contract, manifest, networks, host)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder as plain values; BundleError if there is none, or none that can be read."""
    try:
        value = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(
            f"{str(folder)!r} is not a bundle: it has no {MANIFEST}; make one with `fexport build`"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"cannot read {str(folder / MANIFEST)!r}: {error}; build the bundle again") from None
    if not isinstance(value, dict):
        raise BundleError(f"{str(folder / MANIFEST)!r} is not the manifest of a bundle: it holds no JSON object")
    return value


def _filled(pipeline: Pipeline, manifest: Manifest, folder: Path) -> tuple[dict[str, BundleNetwork], frozenset[str]]:
    """What fills each role, in the pipeline's order, whatever the manifest's; BundleError for what cannot fill it."""
    if manifest.networks.get(pipeline.finder.role) is None:
        raise BundleError(f"there is no network for {pipeline.finder.role}")
    networks: dict[str, BundleNetwork] = {}
    host = set()
    stages = [s for s in (pipeline.finder, *pipeline.stages) if s.role in manifest.networks]
    while stages:
        stage = stages.pop(0)
        record = manifest.networks.get(stage.role)
        name = None if record is None else record.network
        try:
            choice = stage.choice(name)
        except KeyError:
            raise BundleError(
                f"{name} cannot be the {stage.role} of {pipeline.name} under {manifest.contract}: "
                f"that is {' or '.join(stage.networks)}"
            ) from None
        stages = [*stage.helpers(name), *stages]
        if record is None:
            host.add(stage.role)
            continue
        row = network_row(record.network)
        _hold_to_row(stage.role, record, row)
        networks[stage.role] = BundleNetwork(stage.role, stage.filled(name), choice, row, record, folder)
    unknown = set(manifest.networks) - networks.keys() - host
    if unknown:
        raise BundleError(f"{pipeline.name} has no role {', '.join(f'{r!r:.40}' for r in sorted(unknown)[:3])}")
    return networks, frozenset(host)


def _hold_to_row(role: str, record: NetworkRecord, row: Network) -> None:
    """BundleError unless a record has its row's inputs, outputs (less optional ones) and weights files."""
    inputs, outputs = ([t.name for t in tensors] for tensors in (record.inputs, record.outputs))
    wanted = [t.name for t in row.outputs if t.name in outputs or t.name not in row.optional_outputs]
    if inputs != [t.name for t in row.inputs] or outputs != wanted:
        raise BundleError(
            f"the inputs or outputs of {role} are not those of {row.name}: {f'{inputs} -> {outputs}':.300}"
        )
    if len(record.weights) != len(row.files):
        raise BundleError(f"{role} has {len(record.weights)} weights files, {row.name} has {len(row.files)}")


def rebuild_command(manifest: Mapping[str, Any], folder: Path) -> str:
    """The command that makes a bundle like this one in its folder, from a manifest of any format."""
    words = ["fexport build", shlex.quote(str(folder)), "--force"]
    name, contract, networks = (manifest.get(k) for k in ("pipeline", "contract", "networks"))
    if isinstance(name, str) and name.isprintable() and len(name) < 64:  # it goes into one sentence
        words += ["--pipeline", shlex.quote(name)]
    if contract in CONTRACTS:
        words += ["--contract", str(contract)]
    if not isinstance(networks, dict) or not isinstance(name, str):
        return " ".join(words)
    try:
        row = pipeline_row(name, contract if contract in CONTRACTS else None)
    except InputError:
        return " ".join(words)
    for stage in (row.finder, *row.stages):
        entry = networks.get(stage.role)
        chosen = entry.get("network") if isinstance(entry, dict) else "none"
        left_out = stage.role not in networks and stage is not row.finder
        if is_inner(stage):
            continue
        if stage.optional:
            words += [stage_option(row, stage)] * (not left_out)
        elif left_out:
            words += [stage_option(row, stage), "none"]
        elif chosen in stage.networks and len(stage.networks) > 1:
            words += [stage_option(row, stage), str(stage.choice(str(chosen)).name)]
    listed = [n.get("weights") for n in networks.values() if isinstance(n, dict)]
    weights = [w for those in listed if isinstance(those, list) for w in those if isinstance(w, dict)]
    sources = {str(w.get("source")) for w in weights}
    words += ["--weights DIR"] * ("folder" in sources) + ["--stand-in"] * ("stand-in" in sources)
    seeds = {int(w["seed"]) for w in weights if isinstance(w.get("seed"), int)} - {0}
    words += [f"--seed {seed}" for seed in sorted(seeds)[:1]]
    return " ".join(words)


def stage_option(pipeline: Pipeline, stage: Stage) -> str:
    """The option of `fexport build` that chooses the network of a stage."""
    return "--face-detector" if stage is pipeline.finder else f"--{stage.role.replace('_', '-')}"

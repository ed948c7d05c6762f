"""`fexport build`: weights -> a verified bundle, published whole or not at all.

For each role of the pipeline: load the weights, export, rewrite, verify, record a canonical answer. Everything is made in a
folder beside the target, and renamed when the manifest is written, last. A build that was interrupted finds what it
had made there, each part keyed by what went into it; one that fails verification leaves its report and no bundle.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from fexport import modules, onnx_export, onnx_passes, samples, session, verify
from fexport.modules import Loaded
from fexruntime.bundle import FORMAT, MANIFEST, BundleNetwork, open_bundle
from fexruntime.contracts import Network, Pipeline, Tensor, network_row, pipeline_row
from fexruntime.errors import BundleError, CheckpointError, FexportError, InputError, OutputError, VerificationError
from fexruntime.sinks import check_folder

REPORT = "verification.json"
NOTICES = "NOTICES.md"
DEFAULT_CHIP = 112


@dataclass(frozen=True, slots=True)
class Plan:
    """What to build: the pipeline row and a network for each role."""

    pipeline: Pipeline
    networks: dict[str, Network]
    weights: Path | None = None
    stand_in_seed: int | None = None

    @property
    def chip_size(self) -> int:
        """Side of the chips that the face networks share."""
        return self.pipeline.crop.size if self.pipeline.crop else DEFAULT_CHIP


Progress = Callable[[str, str], None]
"""Called with a role and what is being done to it."""


def plan(
    pipeline: str,
    contract: str,
    face_detector: str | None = None,
    identity: str | None = None,
    weights: Path | None = None,
    stand_in_seed: int | None = None,
) -> Plan:
    """Resolve names to contract rows; `identity` "none" builds without one. Raises InputError for a wrong name."""
    row = pipeline_row(pipeline, contract)
    detector = face_detector or row.faces[0]
    if detector not in row.faces:
        raise InputError(f"no face detector {detector!r} in {pipeline}: use {', '.join(row.faces)}")
    networks = {"faces": network_row(detector)}
    networks |= {role: network_row(name) for role, name in row.roles}
    chosen = identity or (row.identity[0] if row.identity else "none")
    if chosen != "none":
        if chosen not in row.identity:
            raise InputError(f"no identity network {chosen!r} in {pipeline}: use {', '.join((*row.identity, 'none'))}")
        networks["identity"] = network_row(chosen)
    if weights is not None and not weights.is_dir():
        raise InputError(f"--weights {str(weights)!r} is not a folder")
    return Plan(row, networks, weights, stand_in_seed)


def build(plan: Plan, out: Path, progress: Progress = lambda role, step: None) -> dict[str, verify.Report]:
    """Build a bundle at `out` and answer the verification reports by role.

    Raises OutputError if `out` cannot be written or is something else than a bundle, CheckpointError for weights,
    VerificationError (with the report beside `out`) if an artefact is beyond its tolerance.
    """
    out = Path(os.path.abspath(out))  # "." and "bundle/" have a name to put things beside, too
    check_target(out)
    staging = out.with_name(f".{out.name}.partial")
    report_path = out.with_name(f"{out.name}.{REPORT}")
    loaded: dict[str, Loaded] = {}
    for role, network in plan.networks.items():  # all weights first: a missing one costs no export
        progress(role, f"reading the weights of {network.name}")
        loaded[role] = modules.load(network, plan.weights, plan.chip_size, plan.stand_in_seed)
    staging.mkdir(parents=True, exist_ok=True)
    try:
        made = {
            role: _make(staging, role, network, loaded.pop(role), plan, progress)
            for role, network in plan.networks.items()
        }
    except FexportError:  # an interrupt keeps what was made, for the next run to find
        shutil.rmtree(staging)
        raise
    reports = {role: report for role, (_, report) in made.items()}
    document = {role: report.as_json() for role, report in reports.items()}
    failed = [r.network for r in reports.values() if not r.passed]
    if failed:
        report_path.write_bytes(_json_bytes(document))
        shutil.rmtree(staging)
        raise VerificationError(
            f"{', '.join(failed)} differs from torch beyond its tolerance: no bundle was made; see {report_path}"
        )
    report = _write(staging, REPORT, _json_bytes(document))
    notice = _write(staging, NOTICES, notices(plan).encode())
    manifest = _manifest(plan, {role: entry for role, (entry, _) in made.items()}, report, notice)
    _write(staging, MANIFEST, _json_bytes(manifest))
    whole = open_bundle(staging)
    whole.verify_files()
    for path in staging.iterdir():  # notes for resuming, and parts of an interrupted build of something else
        if path not in whole.files:
            path.unlink()
    _publish(staging, out)
    report_path.unlink(missing_ok=True)
    return reports


def repeat_verification(network: BundleNetwork, pipeline: Pipeline, weights: Path | None) -> verify.Report:
    """Verify a bundle's network against torch again, with the weights it was made from.

    Raises CheckpointError if the weights are not to be had, VerificationError if they are other ones.
    """
    recorded = network.entry["weights"]
    seeds = [w["seed"] for w in recorded if w["source"] == "stand-in"]
    if weights is None and any(w["source"] == "folder" for w in recorded):
        raise CheckpointError(f"{network.row.name} was built from a folder of weights: give it with --weights DIR")
    # the hub's files of the commit that the bundle was made from, wherever the hub is now
    files = zip(network.row.files, recorded, strict=True)
    row = replace(network.row, files=tuple(replace(f, revision=w["revision"] or f.revision) for f, w in files))
    chip = pipeline.crop.size if pipeline.crop else DEFAULT_CHIP
    loaded = modules.load(row, weights, chip, seeds[0] if seeds else None)
    if [r["sha256"] for r in loaded.records] != [w["sha256"] for w in recorded]:
        raise VerificationError(f"the weights of {network.row.name} are not those that the bundle was built from")
    run = session.onnx_runner(network.model.checked_path().read_bytes())
    cases = samples.cases(network.row, pipeline.crop)
    return verify.compare(network.row, loaded.module, run, cases, chip, "onnxruntime fp32")


def _make(
    staging: Path, role: str, network: Network, loaded: Loaded, plan: Plan, progress: Progress
) -> tuple[dict[str, Any], verify.Report]:
    """Export, rewrite and verify one network into the staging folder, or find it there."""
    key = _key(network, loaded, plan)
    step = staging / f"{role}.step.json"
    kept = _kept(step, key, staging)
    if kept is not None:
        progress(role, f"{network.name} was already made")
        return kept
    progress(role, f"exporting {network.name}")
    outputs = _outputs(network, loaded)
    inputs = tuple(_sized(t, plan.chip_size) for t in network.inputs)
    cases = samples.cases(network, plan.pipeline.crop)
    example = modules.example(cases["faces"][-1])
    model = onnx_export.export(loaded.module, example, inputs, outputs)
    passes = onnx_passes.apply(model)
    data = onnx_export.serialise(model)
    progress(role, f"verifying {network.name}")
    run = session.onnx_runner(data)
    report = verify.compare(network, loaded.module, run, cases, plan.chip_size, "onnxruntime fp32")
    candidates = samples.canonical(network, plan.pipeline.crop)
    chosen = verify.steadiest(loaded.module, candidates)
    canonical = _canonical_bytes(candidates[chosen : chosen + 1], run)
    entry = {
        "network": network.name,
        "title": network.title,
        "precision": "fp32",
        "model": _write(staging, f"{role}.onnx", data),
        "canonical": _write(staging, f"{role}.canonical.npz", canonical),
        "inputs": [_tensor(t) for t in inputs],
        "outputs": [_tensor(t) for t in outputs],
        "passes": passes,
        "config": loaded.config,
        "weights": loaded.records,
        "licence": network.licence,
        "licence_note": network.licence_note,
    }
    arrays = modules.numpy_arrays(network, loaded.module)
    if arrays is not None:
        entry["arrays"] = _write(staging, f"{role}.arrays.npz", _npz(arrays))
    step.write_bytes(_json_bytes({"key": key, "entry": entry, "report": report.as_json()}))
    return entry, report


def _outputs(network: Network, loaded: Loaded) -> tuple[Tensor, ...]:
    """The contract's outputs, less those that this checkpoint has no head for."""
    lacking = {
        "blendshapes": loaded.config is not None
        and network.name.startswith("multitask")
        and not loaded.config.get("n_blendshape")
    }
    return tuple(t for t in network.outputs if not (t.name in network.optional_outputs and lacking.get(t.name)))


def _sized(tensor: Tensor, chip_size: int) -> Tensor:
    shape = tuple(chip_size if axis == "chip" else axis for axis in tensor.shape)
    return Tensor(tensor.name, shape, tensor.meaning, tensor.dtype)


def _tensor(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "shape": list(tensor.shape), "dtype": tensor.dtype, "meaning": tensor.meaning}


def _canonical_bytes(value: Any, run: verify.Runner) -> bytes:
    return _npz({"input": value, **{f"output.{name}": array for name, array in run(value).items()}})


def _npz(arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _key(network: Network, loaded: Loaded, plan: Plan) -> str:
    """Digest of everything that an artefact depends on: weights, flags, chip size, this code, the tools."""
    parts = [network, loaded.records, loaded.config, plan.chip_size, source_digest(), sorted(tools().items())]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@lru_cache(maxsize=1)
def source_digest() -> str:
    """Digest of the sources of fexport and fexruntime."""
    import fexruntime

    digest = hashlib.sha256()
    for folder in (Path(__file__).parent, Path(fexruntime.__file__).parent):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def tools() -> dict[str, str]:
    """Versions of what builds and verifies a bundle."""
    found = {"python": platform.python_version()}
    for name in ("torch", "onnx", "onnxruntime", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _kept(step: Path, key: str, staging: Path) -> tuple[dict[str, Any], verify.Report] | None:
    """An earlier run's artefact, if it was made from the same things, verified, and its files are whole."""
    try:
        note = json.loads(step.read_text(encoding="utf-8"))
        if note["key"] != key or not note["report"]["passed"]:
            return None
        entry = note["entry"]
        for name in ("model", "canonical", "arrays"):
            file = entry.get(name)
            if file and hashlib.sha256((staging / file["file"]).read_bytes()).hexdigest() != file["sha256"]:
                return None
        return entry, verify.Report.from_json(note["report"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _manifest(plan: Plan, entries: dict[str, Any], report: dict[str, Any], notice: dict[str, Any]) -> dict[str, Any]:
    row = plan.pipeline
    return {
        "format": FORMAT,
        "fexport": own_version(),
        "pipeline": row.name,
        "contract": row.contract,
        "reference": row.reference,
        "built_with": tools(),
        "verification": report,
        "notices": notice,
        "networks": entries,
    }


def own_version() -> str:
    """fexport's version."""
    try:
        return version("fexport")
    except PackageNotFoundError:
        return "0+unknown"


def notices(plan: Plan) -> str:
    """Licences of the networks of a plan, for the bundle and the terminal."""
    lines = (f"- {n.name} ({n.title}): {n.licence}. {n.licence_note}." for n in plan.networks.values())
    return "\n".join(["# Licences of the networks in this bundle", "", *lines]) + "\n"


def check_target(out: Path) -> None:
    """OutputError unless a bundle can be published at `out`: a new folder, an empty one, or an older bundle."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"cannot build at {str(out)!r}: it is a file")
    if out.is_dir() and any(out.iterdir()):
        try:
            own = open_bundle(out).files
        except BundleError:
            own = frozenset()
        foreign = sorted(path.name for path in out.iterdir() if path not in own)
        if foreign:
            raise OutputError(
                f"cannot build at {str(out)!r}: the folder has other things in it ({', '.join(foreign[:3])}); give a new one"
            )
    check_folder(out.absolute().parent)


def _publish(staging: Path, out: Path) -> None:
    """Rename the finished folder into place; an older bundle there is put aside first and dropped last."""
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    try:
        staging.rename(out)
    except BaseException:  # an interrupt between the two renames must not lose the older bundle
        if old.exists() and not out.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _write(folder: Path, name: str, data: bytes) -> dict[str, Any]:
    (folder / name).write_bytes(data)
    return {"file": name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def _json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()

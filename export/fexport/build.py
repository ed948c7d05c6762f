"""`fexport build`: weights -> a verified bundle, published whole or not at all.

For each role of the plan: load the weights, export, rewrite, verify, record a canonical answer. Everything is made in a
staging folder that one build holds at a time, and put in place when the manifest is written, last. A build that was
interrupted finds what it had made there; one that fails verification leaves its report and no bundle.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fexcalibration import chips, ranges
from fexport import finding, modules, sense, verify
from fexport.modules import Loaded
from fexport.plan import Plan
from fexport.precision import lower
from fexport.publish import check_target, discard, publish, report_path, staging_for
from fexport.steps import Made, Progress, exported, json_bytes, make, notices, tools, write
from fexruntime.bundle import open_bundle
from fexruntime.contracts import contract_sha256, reference_of
from fexruntime.contracts.precision import FULL
from fexruntime.errors import FexportError, VerificationError
from fexruntime.files import write_file
from fexruntime.manifest import FORMAT, MANIFEST, Manifest
from fexruntime.versions import installed

REPORT = "verification.json"
NOTICES = "NOTICES.md"


def build(plan: Plan, out: Path, progress: Progress = lambda role, step: None) -> dict[str, verify.Report]:
    """Build a bundle at `out` and answer the verification reports, by role (and backend, beyond ONNX Runtime).

    Raises OutputError if `out` cannot be written, is something else than a bundle, or is being built by another process;
    CheckpointError for weights; VerificationError (with the report beside `out`) if an artefact is beyond its gates.
    """
    out = Path(os.path.realpath(out))  # "." and "bundle/" have a name to put things beside, too; a link stays one
    check_target(out)
    with staging_for(out) as staging:
        loaded: dict[str, Loaded] = {}
        seeds = finding.seeds_of(plan)  # all weights first: a missing one costs no export
        for role, part in plan.parts.items():
            if part.network is not None:
                progress(role, f"reading the weights of {part.network.name}")
                loaded[role] = modules.load(part.network, part.choice.crop, plan.weights, seeds[role])
                for note in loaded[role].notes:
                    progress(role, note)
        measured = {} if plan.ranges is None else ranges.load(plan.ranges)
        noted = (
            []
            if plan.ranges is None
            else ["ranges that were measured before; nothing of those pictures is held out here"]
        )
        for role, precision in plan.precision.items():
            if precision == "int8" and not plan.calibration:
                lower.check_ranges(loaded[role], measured.get(plan.networks[role].name))
        try:
            made = {
                # what will be lowered is kept: its weights are read once; and what it is now is read by calibration alone
                role: make(
                    staging,
                    role,
                    plan.parts[role],
                    _taken(loaded, role, plan),
                    plan.targets[:1] if role in plan.precision else plan.targets,
                    progress,
                )
                for role in tuple(loaded)
            }
            _gate(out, made)
            if plan.precision:
                made |= _lowered(plan, made, measured, loaded, staging, progress, noted)
                _gate(out, made, plan.allow_loss)
            manifest = _manifest(plan, made, staging, noted)
            write_file(staging / MANIFEST, manifest.as_json())
            open_bundle(staging).verify_files()
        except FexportError:  # an interrupt keeps what was made, for the next run to find
            discard(staging)
            raise
        publish(staging, out)
    _drop_report(report_path(out, REPORT))
    return _reports(made)


def _taken(loaded: dict[str, Loaded], role: str, plan: Plan) -> Loaded:
    return loaded[role] if role in plan.precision else loaded.pop(role)


def _drop_report(path: Path) -> None:
    """Remove the report of an earlier build that failed, if it is one of ours."""
    try:
        reports = json.loads(path.read_text(encoding="utf-8"))["networks"].values()
        ours = all("differences" in report for report in reports)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    if ours:
        path.unlink()


def _reports(made: dict[str, Made]) -> dict[str, verify.Report]:
    return {name: report for m in made.values() for name, report in m.reports.items()}


def _lowered(
    plan: Plan,
    made: dict[str, Made],
    measured: Mapping[str, ranges.Ranges],
    read: dict[str, Loaded],
    staging: Path,
    progress: Progress,
    noted: list[str],
) -> dict[str, Made]:
    """The networks whose precision is lowered, by role; each is taken out of `read`. The finished fp32 pipeline reads the calibration pictures."""
    faces: Mapping[str, lower.Faces] = {}
    sha256 = ""
    if plan.calibration:
        write_file(staging / MANIFEST, _with_report(plan, made, staging, {}).as_json())
        seen = chips.sample(open_bundle(staging), plan.calibration, say=lambda text: progress("calibration", text))
        (staging / MANIFEST).unlink()
        for note in seen.notes:
            progress("calibration", note)
        noted += seen.notes
        faces = {r: lower.Faces(seen.calibration.get(r, ()), seen.held_out.get(r, ())) for r in plan.precision}
        sha256 = seen.sha256
    done = {}
    for role, precision in plan.precision.items():
        part, network = plan.parts[role], plan.networks[role]
        loaded = read.pop(role)
        plain = exported(loaded, part.choice)
        of_faces = faces.get(role, lower.Faces())
        found = measured.get(network.name)
        if precision == "int8" and found is None and plan.calibration:
            say = partial(progress, role)
            found = lower.measured_ranges(plain, loaded, of_faces, sha256, say)
        done[role] = lower.lower(
            staging,
            role,
            part,
            loaded,
            plain,
            made[role].record,
            precision,
            plan.targets,
            of_faces,
            found,
            plan.method,
            progress,
        )
        if plan.allow_loss:
            done[role] = lower.with_losses(done[role])
    return done


def _gate(out: Path, made: dict[str, Made], allow_loss: bool = False) -> None:
    """VerificationError for what is beyond its gates; a lower precision's loss may be allowed, an answer that is none never."""
    reports = _reports(made)
    failed = [r for r in reports.values() if not r.passed and not (allow_loss and r.precision != FULL and r.measured)]
    if failed:
        path = report_path(out, REPORT)
        write_file(path, json_bytes({"networks": {name: r.as_json() for name, r in reports.items()}}))
        names = ", ".join(f"{r.network} ({r.against})" for r in failed)
        worst = next((d for r in failed for d in r.differences if not d.passed), None)
        by = "" if worst is None else f" ({worst.gate} {worst.judged:.3g}, limit {worst.limit:.3g})"
        cure = "; --allow-loss publishes it all the same, with the loss written in it"
        lossy = all(r.measured and r.precision != FULL for r in failed)
        raise VerificationError(
            f"{names} differs from torch beyond its tolerance{by}: no bundle was made; see {path}{cure if lossy else ''}"
        )


def _manifest(plan: Plan, made: dict[str, Made], staging: Path, noted: list[str]) -> Manifest:
    """The manifest; written twice, since the sense check opens the bundle that it is a part of."""
    write_file(staging / MANIFEST, _with_report(plan, made, staging, {}).as_json())
    seen = sense.check(open_bundle(staging))
    return _with_report(plan, made, staging, {"sense": seen} | ({"calibration": noted} if noted else {}))


def _with_report(plan: Plan, made: dict[str, Made], staging: Path, further: dict[str, Any]) -> Manifest:
    """The manifest of what was made so far; its report is written, with what is to be said further."""
    row, networks = plan.pipeline, plan.networks
    reports = {name: report.as_json() for name, report in _reports(made).items()}
    return Manifest(
        format=FORMAT,
        fexport=own_version(),
        pipeline=row.name,
        contract=plan.contract,
        contract_sha256=contract_sha256(row, plan.contract, {r: p.choice.network for r, p in plan.parts.items()}),
        reference=reference_of(row, plan.contract),
        built_with=tools(),
        verification=write(staging, REPORT, json_bytes({"networks": reports} | further)),
        notices=write(staging, NOTICES, notices(list(networks.values())).encode()),
        networks={role: made[role].record if role in made else None for role in plan.parts},
    )


def own_version() -> str:
    """fexport's version."""
    return installed(["fexport"]).get("fexport", "0+unknown")

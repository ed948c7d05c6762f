"""`fexport build`: weights -> a verified bundle, published whole or not at all.

For each role of the plan: load the weights, export, rewrite, verify, record a canonical answer. Everything is made in a
staging folder that one build holds at a time, and put in place when the manifest is written, last. A build that was
interrupted finds what it had made there; one that fails verification leaves its report and no bundle.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from fexport import finding, modules, sense, verify
from fexport.modules import Loaded
from fexport.plan import Plan
from fexport.publish import check_target, discard, publish, report_path, staging_for
from fexport.steps import Made, Progress, json_bytes, make, notices, tools, write
from fexruntime.bundle import open_bundle
from fexruntime.contracts import contract_sha256, reference_of
from fexruntime.errors import FexportError, VerificationError
from fexruntime.manifest import FORMAT, MANIFEST, FileRecord, Manifest
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
        try:
            made = {
                role: make(staging, role, plan.parts[role], loaded.pop(role), plan.targets, progress)
                for role in tuple(loaded)
            }
            _gate(out, made)
            manifest = _manifest(plan, made, staging)
            (staging / MANIFEST).write_bytes(manifest.as_json())
            open_bundle(staging).verify_files()
        except FexportError:  # an interrupt keeps what was made, for the next run to find
            discard(staging)
            raise
        publish(staging, out)
    _drop_report(report_path(out, REPORT))
    return _reports(made)


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


def _gate(out: Path, made: dict[str, Made]) -> None:
    reports = _reports(made)
    failed = [f"{r.network} ({r.against})" for r in reports.values() if not r.passed]
    if failed:
        path = report_path(out, REPORT)
        path.write_bytes(json_bytes({"networks": {name: r.as_json() for name, r in reports.items()}}))
        raise VerificationError(
            f"{', '.join(failed)} differs from torch beyond its tolerance: no bundle was made; see {path}"
        )


def _manifest(plan: Plan, made: dict[str, Made], staging: Path) -> Manifest:
    """The manifest; written twice, since the sense check opens the bundle that it is a part of."""
    row, networks = plan.pipeline, plan.networks
    reports = {name: report.as_json() for name, report in _reports(made).items()}
    notice = write(staging, NOTICES, notices(list(networks.values())).encode())

    def with_report(report: FileRecord) -> Manifest:
        return Manifest(
            format=FORMAT,
            fexport=own_version(),
            pipeline=row.name,
            contract=plan.contract,
            contract_sha256=contract_sha256(row, plan.contract, {r: p.choice.network for r, p in plan.parts.items()}),
            reference=reference_of(row, plan.contract),
            built_with=tools(),
            verification=report,
            notices=notice,
            networks={role: made[role].record if role in made else None for role in plan.parts},
        )

    (staging / MANIFEST).write_bytes(with_report(write(staging, REPORT, json_bytes({"networks": reports}))).as_json())
    seen = sense.check(open_bundle(staging))
    return with_report(write(staging, REPORT, json_bytes({"networks": reports, "sense": seen})))


def own_version() -> str:
    """fexport's version."""
    return installed(["fexport"]).get("fexport", "0+unknown")

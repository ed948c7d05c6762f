"""fexport inspect: a bundle's manifest and verification, for a person or as JSON."""

from __future__ import annotations

import json
from typing import Any

import click

from fexport.cli import tables
from fexport.cli.paths import BUNDLE
from fexruntime.backends.base import precision_said
from fexruntime.backends.onnx_bytes import Types, types_as, types_in
from fexruntime.bundle import EDGE, Bundle, open_bundle
from fexruntime.errors import BundleError, InputError
from fexruntime.manifest import Variant, WeightsRecord


@click.command("inspect")
@click.argument("bundle", type=BUNDLE, default=EDGE)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
@click.option(
    "--sbom", is_flag=True, help="Print what it contains as a CycloneDX document: weights, digests, licences."
)
def command(bundle: str, as_json: bool, sbom: bool) -> None:
    """Show what is in BUNDLE, where its weights came from, and how it was verified (default: the packaged one)."""
    found = open_bundle(bundle)
    if as_json and sbom:
        raise InputError("--json and --sbom exclude each other: give one of them")
    if sbom:
        from fexport.sbom import as_text

        click.echo(as_text(found), nl=False)
        return
    if as_json:
        click.echo(found.manifest.as_json().decode(), nl=False)
        return
    manifest = found.manifest
    tools = ", ".join(f"{name} {version}" for name, version in manifest.built_with.items())
    click.echo(f"{found.path}: {manifest.pipeline}, contract {manifest.contract} ({manifest.reference})")
    click.echo(f"built by fexport {manifest.fexport} with {tools}")
    table = tables.Sheet(
        tables.Column("role"), tables.Column("network"), tables.Column("artefacts", 1), tables.Column("rewrites", 4),
        tables.Column("weights", 2), tables.Column("licence", 3),
    )  # fmt: skip
    for role, network in found.networks.items():
        record = network.record
        passes = ", ".join(f"{name} ×{count}" for name, count in record.passes.items())
        cells = (
            role,
            record.network,
            "\n".join(
                [
                    *(_artefact(v, found) for v in record.variants),
                    *(f"not for {t}: {why}" for t, why in record.not_held.items()),
                ]
            ),
            passes or "none",
            "\n".join(_origin(w) for w in record.weights),
            f"{record.licence}: {record.licence_note}",
        )
        table.add(*cells)
    for role in sorted(found.host_roles):
        table.add(role, "a function of the runtime")
    table.show()
    report = _report(found)
    tables.report_table(report["networks"].values()).show()
    sense = report.get("sense", {})
    if sense.get("checked"):
        click.echo(f"the photograph's face was found, score {sense['score']}, overlap {sense['iou']}")
    elif sense:
        click.echo(f"not tried on a photograph: {sense.get('why')}")
    for note in report.get("calibration", ()):
        click.echo(f"calibrated: {note}")
    for sentence in tables.loss_sentences(found):
        click.secho(sentence, fg="yellow")
    if found.stand_ins:
        click.secho(tables.stand_in_sentence(found.stand_ins), fg="yellow")


def _artefact(variant: Variant, bundle: Bundle) -> str:
    size = sum(f.size_bytes for f in (variant.model, *variant.parts))
    types = Types(variant.precision, variant.precision)
    if variant.kind == "onnx":
        with variant.model.opened(bundle.path) as verified:
            types = types_as(variant.precision, types_in(verified))
    precision = precision_said(types.said())
    return f"{precision} {variant.form}, {tables.size(size)}, verified on {', '.join(variant.verified_on)}"


def _origin(weights: WeightsRecord) -> str:
    if weights.sha256 is None:
        return f"STAND-IN for {weights.filename}, seed {weights.seed}"
    where = {"package": "with fexport", "folder": "from a folder", "hub": weights.repository}[weights.source]
    revision = f" @ {weights.revision[:12]}" if weights.revision else ""
    known = "as published" if weights.published else "not known to be the published file"
    return f"{weights.filename} ({where}{revision}, sha256 {weights.sha256[:12]}…, {known})"


def _report(bundle: Bundle) -> dict[str, Any]:
    file = bundle.manifest.verification
    try:
        report = json.loads(file.read(bundle.path).decode("utf-8"))
        _ = [r["differences"] for r in report["networks"].values()]
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise BundleError(f"{str(bundle.path / file.file)!r} is not a verification report: {error}") from None
    return dict(report)

"""fexport inspect: a bundle's manifest and verification, for a person or as JSON."""

from __future__ import annotations

import json
from typing import Any

import click

from fexruntime.bundle import EDGE, Bundle, open_bundle
from fexruntime.errors import BundleError


@click.command("inspect")
@click.argument("bundle", default=EDGE)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def command(bundle: str, as_json: bool) -> None:
    """Show what is in BUNDLE, where its weights came from, and how it was verified (default: the packaged one)."""
    found = open_bundle(bundle)
    if as_json:
        click.echo(json.dumps(found.manifest, indent=1, ensure_ascii=False))
        return
    from rich.table import Table

    from fexport.cli import tables

    screen = tables.console()
    manifest = found.manifest
    tools = ", ".join(f"{name} {version}" for name, version in manifest.get("built_with", {}).items())
    click.echo(f"{found.path}: {found.pipeline.name}, contract {found.pipeline.contract} ({found.pipeline.reference})")
    click.echo(f"built by fexport {manifest.get('fexport')} with {tools}")
    table = Table()
    for head in ("role", "network", "precision", "size", "rewrites", "weights", "licence"):
        table.add_column(head)
    for role, network in found.networks.items():
        passes = ", ".join(f"{name} ×{count}" for name, count in network.entry.get("passes", {}).items())
        table.add_row(
            role,
            network.row.name,
            str(network.entry.get("precision")),
            tables.size(network.model.size_bytes),
            passes or "none",
            "\n".join(_origin(w) for w in network.entry["weights"]),
            f"{network.entry.get('licence')}: {network.entry.get('licence_note')}",
        )
    screen.print(table)
    reports = _reports(found)
    if reports:
        screen.print(tables.report_table(reports))
    if found.stand_ins:
        click.secho(f"STAND-IN WEIGHTS in {', '.join(found.stand_ins)}: what they answer means nothing.", fg="yellow")


def _origin(weights: dict[str, Any]) -> str:
    if weights["source"] == "stand-in":
        return f"STAND-IN for {weights['filename']}, seed {weights['seed']}"
    where = {"package": "with fexport", "folder": "from a folder", "hub": weights["repository"]}[weights["source"]]
    revision = f" @ {weights['revision'][:12]}" if weights.get("revision") else ""
    return f"{weights['filename']} ({where}{revision}, sha256 {weights['sha256'][:12]}…)"


def _reports(bundle: Bundle) -> list[dict[str, Any]]:
    try:
        return list(json.loads(bundle.verification.checked_path().read_text(encoding="utf-8")).values())
    except (ValueError, AttributeError) as error:
        raise BundleError(f"{str(bundle.verification.path)!r} is not a verification report: {error}") from None

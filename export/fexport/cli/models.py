"""fexport models: the contract tables, for a person or as JSON."""

from __future__ import annotations

import dataclasses
import json

import click

from fexruntime.contracts import NETWORKS, PIPELINES, WeightsFile


@click.command("models")
@click.option("--json", "as_json", is_flag=True, help="Print the whole rows as JSON.")
def command(as_json: bool) -> None:
    """List the networks that can be built, with licence, size and origin, and the pipelines that use them."""
    if as_json:
        rows = {
            "networks": {name: dataclasses.asdict(row) for name, row in NETWORKS.items()},
            "pipelines": [dataclasses.asdict(row) for row in PIPELINES],
        }
        click.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    from fexport.cli import tables

    table = tables.Sheet(
        tables.Column("network", whole=True), tables.Column("what it gives", 1), tables.Column("licence of the weights"),
        tables.Column("file", 3), tables.Column("size", 2, right=True), tables.Column("from", 4), tables.Column("pinned", 5),
        title="networks",
    )  # fmt: skip
    for row in NETWORKS.values():
        of_files = zip(*((f.filename, tables.size(f.size_bytes), _origin(f), _pin(f)) for f in row.files), strict=True)
        table.add(row.name, row.title, f"{row.licence}: {row.licence_note}", *map("\n".join, of_files))
    table.show()
    table = tables.Sheet(
        tables.Column("pipeline", whole=True), tables.Column("contracts", 1),
        tables.Column("stages and their networks, the default first"), tables.Column("Fex columns", 2, right=True),
        title="pipelines",
    )  # fmt: skip
    for line in PIPELINES:
        stages = "\n".join(f"{s.role}: {', '.join(s.names)}" for s in (line.finder, *line.stages) if s.names)
        table.add(line.name, ", ".join(line.contracts), stages, str(len(line.columns)))
    table.show()


def _origin(file: WeightsFile) -> str:
    return "comes with fexport" if file.packaged else file.repository


def _pin(file: WeightsFile) -> str:
    if file.sha256 is None:
        return "no pin"
    revision = f"commit {file.revision[:12]}, " if file.revision else ""
    return f"{revision}sha256 {file.sha256[:12]}…"

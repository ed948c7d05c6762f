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
    from rich.table import Table

    from fexport.cli import tables

    screen = tables.console()
    table = Table(title="networks")
    for head in ("network", "what it gives", "licence of the weights", "file", "size", "from", "pinned"):
        table.add_column(head, overflow="fold")
    for row in NETWORKS.values():
        for k, file in enumerate(row.files):
            origin = "comes with fexport" if file.packaged else file.repository
            first = (row.name, row.title, f"{row.licence}: {row.licence_note}") if k == 0 else ("", "", "")
            cells = (*first, file.filename, tables.size(file.size_bytes), origin, _pin(file))
            table.add_row(*map(tables.plain, cells))
    screen.print(table)
    table = Table(title="pipelines")
    for head in ("pipeline", "contracts", "stages and their networks, the default first", "Fex columns"):
        table.add_column(head)
    for line in PIPELINES:
        stages = "\n".join(f"{s.role}: {', '.join(s.names)}" for s in (line.finder, *line.stages) if s.names)
        table.add_row(line.name, ", ".join(line.contracts), stages, str(len(line.columns)))
    screen.print(table)


def _pin(file: WeightsFile) -> str:
    if file.sha256 is None:
        return "no pin"
    revision = f"commit {file.revision[:12]}, " if file.revision else ""
    return f"{revision}sha256 {file.sha256[:12]}…"

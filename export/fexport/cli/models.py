"""fexport models: the contract tables, for a person or as JSON."""

from __future__ import annotations

import dataclasses
import json

import click

from fexruntime.contracts import NETWORKS, PIPELINES


@click.command("models")
@click.option("--json", "as_json", is_flag=True, help="Print the whole rows as JSON.")
def command(as_json: bool) -> None:
    """List the networks that can be built, with licence, size and origin, and the pipelines that use them."""
    if as_json:
        rows = {
            "networks": {name: dataclasses.asdict(row) for name, row in NETWORKS.items()},
            "pipelines": [dataclasses.asdict(row) for row in PIPELINES.values()],
        }
        click.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    from rich.table import Table

    from fexport.cli import tables

    screen = tables.console()
    table = Table(title="networks")
    for head in ("network", "what it gives", "licence", "weights", "size", "from"):
        table.add_column(head)
    for row in NETWORKS.values():
        for k, file in enumerate(row.files):
            origin = "comes with fexport" if file.packaged else file.repository
            head = (row.name, row.title, f"{row.licence}: {row.licence_note}") if k == 0 else ("", "", "")
            table.add_row(*head, file.filename, tables.size(file.size_bytes), origin)
    screen.print(table)
    table = Table(title="pipelines")
    for head in ("pipeline", "contract", "face detectors", "networks", "identity", "Fex columns"):
        table.add_column(head)
    for line in PIPELINES.values():
        networks = ", ".join(name for _, name in line.roles)
        table.add_row(
            line.name, line.contract, ", ".join(line.faces), networks, ", ".join(line.identity), str(len(line.columns))
        )
    screen.print(table)

"""Tables that several commands print."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table


def console(stderr: bool = False) -> Console:
    """A console as wide as the terminal, or wide enough for any table where there is none."""
    plain = Console(stderr=stderr)
    return plain if plain.is_terminal or "COLUMNS" in os.environ else Console(stderr=stderr, width=200)


def report_table(reports: Iterable[dict[str, Any]]) -> Table:
    """Verification reports (their JSON form): for each output the difference from torch in its task's unit."""
    table = Table(title="artefact against torch")
    for name in ("network", "output", "inputs", "max", "p99", "mean", "limit", ""):
        table.add_column(name, justify="right" if name in ("max", "p99", "mean", "limit") else "left", no_wrap=True)
    for report in reports:
        shown = report["network"]
        for row in report["differences"]:
            unit = row["unit"] or row["task"]
            table.add_row(
                shown,
                f"{row['output']} ({unit})",
                row["kind"],
                *(f"{row[k]:.1e}" for k in ("max", "p99", "mean", "limit")),
                "ok" if row["passed"] else "[bold red]BEYOND",
            )
            shown = ""
        if report["near_ties_left_out"]:
            table.add_row(
                "", f"{report['near_ties_left_out']} of {report['inputs']} inputs at a tie of AU neighbours", ""
            )
        for name, count in report["not_finite"].items():
            table.add_row("", f"{name}: {count} values not finite", "", "", "", "", "", "[bold red]BEYOND")
        for name in report["not_compared"]:
            table.add_row("", f"{name}: nothing compared", "", "", "", "", "", "[bold red]BEYOND")
    return table


def size(count: int | None) -> str:
    """Bytes as a person reads them."""
    if count is None:
        return "not recorded"
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"

"""Tables that several commands print."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

import click

from fexport.cli.sheet import BEYOND, MISSING, Column, Sheet, console
from fexruntime.bundle import Bundle

__all__ = [
    "BEYOND",
    "MISSING",
    "Column",
    "Sheet",
    "console",
    "loss_sentences",
    "print_json",
    "report_table",
    "size",
    "stand_in_sentence",
]


def stand_in_sentence(names: Iterable[str]) -> str:
    """What is said of a bundle with made-up weights."""
    return f"STAND-IN WEIGHTS in {', '.join(names)}: what they answer means nothing."


def loss_sentences(bundle: Bundle) -> list[str]:
    """What is said of networks that were published beyond their budgets."""
    return [
        f"LOSS ALLOWED in {n.row.name} ({n.record.precision}): "
        + ", ".join(f"{name} up to {value:.3g}" for name, value in n.record.loss.items())
        for n in bundle.networks.values()
        if n.record.loss
    ]


def report_table(reports: Iterable[dict[str, Any]]) -> Sheet:
    """Verification reports (their JSON form): for each output the difference from torch in its task's unit."""
    numbers = ("max", "p99", "mean")
    made = Sheet(
        Column("network", 3, whole=True, groups=True), Column("output", whole=True), Column("inputs", 2), Column("max", right=True),
        Column("p99", 5, right=True), Column("mean", 4, right=True), Column("limit", 1, right=True), Column("", whole=True),
        title="artefact against torch",
    )  # fmt: skip
    beyond = [""] * (len(numbers) + 1)
    for report in reports:
        first = f"{report['network']} ({report['against']})"
        for row in report["differences"]:
            unit = row["unit"] or row["task"]
            shown = (f"{row[k]:.1e}" if row["values"] else "–" for k in numbers)
            made.add(first, f"{row['output']} ({unit})", row["kind"], *shown, f"{row['limit']:.1e}", _verdict(row))
            first = ""
        if report["near_ties_left_out"]:
            made.add(first, f"{report['near_ties_left_out']} of {report['inputs']} inputs at a tie of AU neighbours")
        for name, count in report["not_finite"].items():
            made.add(first, f"{name}: {count} values not finite", "", *beyond, BEYOND)
        for name in report["not_compared"]:
            made.add(first, f"{name}: nothing compared", "", *beyond, BEYOND)
    return made


def _verdict(row: dict[str, Any]) -> str:
    if not row["values"]:
        return "none compared"
    return "ok" if row["passed"] else BEYOND


def print_json(value: Any) -> None:
    """A command's whole answer on standard output, for a program."""
    click.echo(json.dumps(value, indent=1, allow_nan=False, default=dataclasses.asdict))


def size(count: int | None) -> str:
    """Bytes as a person reads them."""
    if count is None:
        return "not recorded"
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"

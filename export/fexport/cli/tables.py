"""Tables that several commands print."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fexruntime.bundle import Bundle
from fexruntime.sinks import shown


def console(stderr: bool = False) -> Console:
    """A console as wide as the terminal, or wide enough for any table where there is none."""
    plain = Console(stderr=stderr)
    return plain if plain.is_terminal or "COLUMNS" in os.environ else Console(stderr=stderr, width=200)


def plain(text: str) -> str:
    """Text that is shown as it is: a file name's brackets are no markup, its odd bytes and control characters are shown as escapes."""
    return escape(shown(text))


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


NARROW = 110
"""Below so many columns a table of verifications leaves out percentiles and means: a verdict and its exponent stay."""


def table(*heads: str, title: str | None = None) -> Table:
    """A table with these columns; without lines where nobody looks at a terminal."""
    made = Table(title=title, box=box.HEAVY_HEAD if console().is_terminal else None, pad_edge=console().is_terminal)
    for head in heads:
        made.add_column(head, overflow="fold")
    return made


def report_table(reports: Iterable[dict[str, Any]]) -> Table:
    """Verification reports (their JSON form): for each output the difference from torch in its task's unit."""
    narrow = console().width < NARROW
    numbers = ("max",) if narrow else ("max", "p99", "mean")
    made = table(*(() if narrow else ("network",)), "output", "inputs", title="artefact against torch")
    for name in (*numbers, "limit", ""):
        made.add_column(name, justify="right" if name else "left", no_wrap=True, min_width=7 if name else 6)
    blank = [""] * (len(numbers) + 1)
    for report in reports:
        named = f"{report['network']} ({report['against']})"
        first = [] if narrow else [named]
        if narrow:
            made.add_row(f"[bold]{escape(named)}")
        for row in report["differences"]:
            unit = row["unit"] or row["task"]
            shown = (f"{row[k]:.1e}" if row["values"] else "–" for k in numbers)
            made.add_row(*first, f"{row['output']} ({unit})", row["kind"], *shown, f"{row['limit']:.1e}", _verdict(row))
            first = [""] * len(first)
        if report["near_ties_left_out"]:
            made.add_row(
                *first, f"{report['near_ties_left_out']} of {report['inputs']} inputs at a tie of AU neighbours", ""
            )
        for name, count in report["not_finite"].items():
            made.add_row(*first, f"{name}: {count} values not finite", "", *blank, "[bold red]BEYOND")
        for name in report["not_compared"]:
            made.add_row(*first, f"{name}: nothing compared", "", *blank, "[bold red]BEYOND")
    return made


def _verdict(row: dict[str, Any]) -> str:
    if not row["values"]:
        return "none compared"
    return "ok" if row["passed"] else "[bold red]BEYOND"


def size(count: int | None) -> str:
    """Bytes as a person reads them."""
    if count is None:
        return "not recorded"
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"

"""A table that fits where it is shown: what matters least goes first, and is named below; a pipe gets plain lines, whole.

rich cuts cells where a terminal is narrow, verdicts and exponents among them. Here a column says how much it is needed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fexruntime.sinks import shown

BEYOND, MISSING = "BEYOND", "missing"
"""Verdicts that are shown in red."""
_ANY = 10_000
FOLDED = 14
"""A column of words is folded to no less than this, or to its longest word where that is shorter."""


def console(stderr: bool = False) -> Console:
    """A console as wide as the terminal, or wide enough for any line where there is none."""
    plain = Console(stderr=stderr)
    return plain if bounded(plain) else Console(stderr=stderr, width=_ANY)


def bounded(screen: Console) -> bool:
    """Whether somebody looks at lines of a certain length: a terminal, or COLUMNS is set."""
    return screen.is_terminal or "COLUMNS" in os.environ


@dataclass(frozen=True, slots=True)
class Column:
    """One column: where there is no room for all, the highest `rank` is left out first; rank 0 never is."""

    head: str
    rank: int = 0
    right: bool = False
    """Numbers: to the right. These and verdicts (`whole`) are never folded."""
    whole: bool = False
    groups: bool = False
    """It says what the lines below it are of: where it is left out as a column, it stands above them."""

    @property
    def folds(self) -> bool:
        """Whether a cell may take several lines."""
        return not (self.right or self.whole)


class Sheet:
    """Lines of cells (text, shown as it is; rich's markup is none) under columns; `show` prints them."""

    def __init__(self, *columns: Column, title: str = "") -> None:
        self._columns, self._title = columns, title
        self._lines: list[list[str]] = []

    def add(self, *cells: str) -> None:
        """A line; cells that are not given are empty."""
        self._lines.append([*map(shown, cells), *[""] * (len(self._columns) - len(cells))])

    def cells(self, k: int) -> list[str]:
        """What is in a column."""
        return [line[k] for line in self._lines]

    def shown(self, width: int | None, boxed: bool) -> list[int]:
        """Numbers of the columns that are shown where there are `width` cells (None: any number)."""
        kept = [
            k for k, c in enumerate(self._columns) if not self._lines or c.head or any(line[k] for line in self._lines)
        ]
        while (
            width is not None and sum(map(self._least, kept)) + (3 * len(kept) + 1 if boxed else 2 * len(kept)) > width
        ):
            last = max(kept, key=lambda k: (self._columns[k].rank, k))
            if self._columns[last].rank == 0:
                break
            kept.remove(last)
        return kept

    def show(self) -> None:
        """Print it."""
        screen = console()
        boxed = screen.is_terminal
        width = screen.width if bounded(screen) else None
        kept = self.shown(width, boxed)
        if width is None:
            widest = sum(max(self._widths(k), default=0) for k in kept)
            screen = Console(width=max(widest + 3 * len(kept) + 1, len(self._title) + 1))
        made = Table(
            title=Text(self._title) if self._title else None,
            box=box.HEAVY_HEAD if boxed else None,
            pad_edge=boxed,
            title_justify="left",
        )
        above = [k for k, c in enumerate(self._columns) if c.groups and k not in kept]
        for k in kept:
            column = self._columns[k]
            whole = not column.folds and not (above and k == kept[0])  # which what stands above has to fold into
            made.add_column(
                Text(column.head), justify="right" if column.right else "left", no_wrap=whole,
                overflow="ellipsis" if whole else "fold", min_width=None if column.folds else self._least(k),
            )  # fmt: skip
        for line in self._lines:
            for k in above:
                if line[k]:
                    made.add_row(Text(line[k], style="bold"))
            made.add_row(*(_styled(line[k]) for k in kept))
        screen.print(made)
        left_out = [
            self._columns[k].head
            for k in range(len(self._columns))
            if k not in kept and k not in above and self._columns[k].head
        ]
        if left_out:
            screen.print(Text(f"no room here for: {', '.join(left_out)}", style="dim"))

    def _widths(self, k: int) -> list[int]:
        """Cells of each piece of a column that stands on one line: all of a cell, or its lines."""
        cells = [self._columns[k].head, *(line[k] for line in self._lines)]
        return [cell_len(part) for cell in cells for part in cell.split("\n")]

    def _least(self, k: int) -> int:
        """The width that a column needs."""
        widest = max(self._widths(k), default=0)
        return min(widest, FOLDED) if self._columns[k].folds else widest


def _styled(cell: str) -> Text:
    return Text(cell, style="bold red" if cell in (BEYOND, MISSING) else "")

"""The measuring core: rows of two sides -> differences by column group, and which frames are worst.

A side is anything that answers rows for a frame (`sides.py`). Nothing here reads a file or prints.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fexruntime.arrays import F64, U8
from fexruntime.boxes import iou, pairs
from fexruntime.contracts import PIPELINES, Group
from fexruntime.contracts.labels import FACEBOX
from fexruntime.contracts.measures import BUDGETS, MEASURES, UNITS
from fexruntime.errors import InputError

SAME_FACE_IOU = 0.5
"""Faces of the two sides whose boxes overlap by less are different faces."""
QUANTILES = {"max": 1.0, "p99": 0.99, "p95": 0.95, "median": 0.5}
"""What a budget may be held to; the first is the default."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The faces of one frame as one side has them: NaN where a cell is empty. A frame without a face has no rows."""

    columns: tuple[str, ...]
    values: F64
    """[faces, len(columns)]"""

    def block(self, columns: Sequence[str]) -> F64:
        """Some columns as [faces, len(columns)]."""
        places = {c: i for i, c in enumerate(self.columns)}
        return self.values[:, [places[c] for c in columns]]

    @classmethod
    def of(cls, columns: Sequence[str], values: F64) -> Rows:
        """Rows of a table less those that stand for a frame without a face (their box is empty)."""
        there = [i for i, c in enumerate(columns) if c in FACEBOX[:4]]
        return cls(tuple(columns), values[~np.isnan(values[:, there]).all(axis=1)] if there else values)


@dataclass(frozen=True, slots=True)
class Compared:
    """Columns that are compared together: a group's, in one task's unit, and how far apart they may be."""

    group: str
    task: str
    columns: tuple[str, ...]
    budget: float

    @property
    def unit(self) -> str:
        """As it is printed."""
        return UNITS.get(self.task, self.task)


def comparable(
    first: Iterable[str],
    second: Iterable[str],
    groups: Iterable[Group] | None = None,
    budgets: Mapping[str, float] | None = None,
) -> tuple[list[Compared], list[str]]:
    """(what both sides have, prediction columns that one side alone has), by the columns of each.

    `groups` are the pipeline's (None: any pipeline's). `budgets` are by group, in the unit of its first values (facebox's are pixels, its
    score is a probability), or by task, in its unit; the group's wins.
    Raises InputError for a budget of neither, and if there is nothing to compare.
    """
    a, b, given = set(first), set(second), dict(budgets or {})
    known = [g for g in (groups or (g for row in PIPELINES for g in row.groups)) if g.dtype == "float32"]
    unknown = sorted(set(given) - {g.name for g in known} - set(BUDGETS))
    if unknown:
        names = ", ".join(dict.fromkeys((*(g.name for g in known), *BUDGETS)))
        raise InputError(f"no group or unit {unknown[0]!r} to give a budget to: there are {names}")
    found: list[Compared] = []
    taken: set[str] = set()
    for group in known:
        for place, measure in enumerate(MEASURES[group.value]):
            whole = group.columns[measure.start : measure.stop]
            columns = tuple(c for c in whole if c in a and c in b and c not in taken)
            if not columns or (measure.task in ("cosine", "rotation") and columns != whole):
                continue  # a part of a vector is none
            budget = given.get(measure.task, BUDGETS[measure.task])
            if place == 0:
                budget = given.get(group.name, budget)
            found.append(Compared(group.name, measure.task, columns, budget))
            taken |= set(columns)
    if not found:
        raise InputError("the two sides have no column in common: nothing to compare")
    predictions = {c for g in known for c in g.columns}
    return found, sorted((a ^ b) & predictions)


def apart(task: str, first: F64, second: F64) -> F64:
    """How far two blocks [N, C] are apart in a task's unit, flat: one for each vector with "cosine" and "rotation", else one a
    value. What both lack (NaN) is left out; what one of them lacks is infinitely far."""
    lacks: tuple[Any, Any] = np.isnan(first), np.isnan(second)
    if task in ("cosine", "rotation"):
        lacks = lacks[0].any(axis=1), lacks[1].any(axis=1)
        far = _cosine(first, second) if task == "cosine" else _rotation(first, second)
    else:
        far = np.abs(first - second)
        if task == "degrees":
            turn = far % (2 * np.pi)
            far = np.rad2deg(np.minimum(turn, 2 * np.pi - turn))
        elif task == "scaled":
            far = far / np.maximum(1.0, np.abs(first))
    far = np.where(lacks[0] ^ lacks[1], np.inf, far)
    return np.asarray(far[~(lacks[0] & lacks[1])], np.float64)


def _cosine(first: F64, second: F64) -> F64:
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return np.asarray(1.0 - (first * second).sum(axis=1) / np.maximum(lengths, 1e-300))


def _rotation(first: F64, second: F64) -> F64:
    # by the sine of half the angle: the arc cosine of a trace near 3 has no digits left
    chord = np.linalg.norm((first - second).reshape(len(first), 9), axis=1)
    return np.asarray(np.rad2deg(2 * np.arcsin(np.clip(chord / np.sqrt(8.0), 0.0, 1.0))))


def matched(first: F64, second: F64, least_iou: float = SAME_FACE_IOU) -> list[tuple[int, int]]:
    """Pairs of faces of two lists of boxes [N,4] (left, top, width, height), the best overlap first; each in one pair at most."""
    corners = [np.concatenate([v[:, :2], v[:, :2] + v[:, 2:]], axis=1) for v in (first, second)]
    overlap = np.nan_to_num(iou(*corners))
    return sorted(pairs(overlap, overlap >= least_iou))


@dataclass(frozen=True, slots=True)
class FrameDifference:
    """One frame's: how far its worst cell is from its budget (in budgets; infinite for a face of one side alone)."""

    name: str
    frame: int
    ratio: float
    group: str
    """Of the worst cell; "faces" where the sides found different ones."""
    difference: float
    pairs: tuple[tuple[int, int], ...]
    only_first: tuple[int, ...]
    only_second: tuple[int, ...]


@dataclass(slots=True)
class Comparison:
    """Differences of all frames so far. `keep` of the worst frames stay with their pixels, for pictures."""

    what: Sequence[Compared]
    judge: str = "max"
    keep: int = 0
    frames: int = 0
    pairs: int = 0
    only_first: int = 0
    only_second: int = 0
    worst: list[tuple[FrameDifference, U8, Rows, Rows]] = field(default_factory=list)
    _differences: dict[tuple[str, str], list[F64]] = field(default_factory=dict)
    _heap: list[tuple[float, int, tuple[FrameDifference, U8, Rows, Rows]]] = field(default_factory=list)

    def add(self, name: str, frame: int, first: Rows, second: Rows, pixels: U8 | None = None) -> FrameDifference:
        """Compare one frame; `pixels` [H,W,3] RGB are kept if it is among the worst."""
        boxes = [rows.block(FACEBOX[:4]) for rows in (first, second)]
        pairs = matched(boxes[0], boxes[1])
        lone = [tuple(sorted(set(range(len(b))) - {p[k] for p in pairs})) for k, b in enumerate(boxes)]
        self.frames, self.pairs = self.frames + 1, self.pairs + len(pairs)
        self.only_first, self.only_second = self.only_first + len(lone[0]), self.only_second + len(lone[1])
        ratio, group, difference = (math.inf, "faces", math.inf) if lone[0] or lone[1] else (0.0, "", 0.0)
        for what in self.what:
            a = first.block(what.columns)[[i for i, _ in pairs]]
            b = second.block(what.columns)[[j for _, j in pairs]]
            far = apart(what.task, a, b)
            self._differences.setdefault((what.group, what.task), []).append(far)
            top = float(far.max(initial=0.0))
            budgets = top / what.budget if what.budget > 0 else (math.inf if top > 0 else 0.0)
            if budgets > ratio:
                ratio, group, difference = budgets, what.group, top
        found = FrameDifference(name, frame, ratio, group, difference, tuple(pairs), *lone)
        if self.keep and pixels is not None and ratio > 0:
            heapq.heappush(self._heap, (ratio, -self.frames, (found, pixels, first, second)))
            if len(self._heap) > self.keep:
                heapq.heappop(self._heap)
            self.worst = [item for *_, item in sorted(self._heap, key=lambda h: (h[0], h[1]), reverse=True)]
        return found

    def table(self) -> list[dict[str, object]]:
        """A line for each group and unit: values compared, max, p99, mean, the budget, whether it is kept."""
        lines: list[dict[str, object]] = []
        for what in self.what:
            far = np.concatenate([*self._differences.get((what.group, what.task), []), np.empty(0)])
            judged = float(np.quantile(far, QUANTILES[self.judge], method="higher")) if len(far) else 0.0
            lines.append({
                "group": what.group,
                "unit": what.unit,
                "columns": len(what.columns),
                "values": len(far),
                "max": float(far.max(initial=0.0)),
                "p99": float(np.quantile(far, 0.99, method="higher")) if len(far) else 0.0,
                "mean": float(far.mean()) if len(far) else 0.0,
                "judged": judged,
                "budget": what.budget,
                "passed": judged <= what.budget,
            })  # fmt: skip
        return lines

    @property
    def passed(self) -> bool:
        """Whether every budget is kept and the sides found the same faces (at least one, else nothing was compared)."""
        same = not self.only_first and not self.only_second
        return same and self.pairs > 0 and all(bool(line["passed"]) for line in self.table())


def grouped(names: Sequence[tuple[str, int]]) -> dict[tuple[str, int], list[int]]:
    """Numbers of the rows of each frame, by (name, number of the frame)."""
    order = sorted(range(len(names)), key=lambda i: names[i])
    return {key: list(rows) for key, rows in itertools.groupby(order, key=lambda i: names[i])}

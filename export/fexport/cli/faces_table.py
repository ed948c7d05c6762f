"""Faces on the screen: a line each, with the columns that a terminal has room for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from fexport.cli.sheet import Column, Sheet
from fexruntime.arrays import F32
from fexruntime.contracts import labels as L
from fexruntime.fex import NO_FACE, Fex
from fexruntime.sinks import shown
from fexruntime.sources.video import is_video


def _degrees(columns: tuple[str, ...], row: F32) -> str:
    return " ".join(f"{v:+.0f}" for v in np.degrees(row[:3]))


def _strongest(columns: tuple[str, ...], row: F32) -> str:
    return ", ".join(f"{columns[k]} {row[k]:.2f}" for k in np.argsort(-row)[:3])


def _best(columns: tuple[str, ...], row: F32) -> str:
    best = int(np.argmax(row))
    return f"{columns[best]} {row[best]:.2f}"


_SHOWN: dict[str, tuple[str, Callable[[tuple[str, ...], F32], str]]] = {
    "pose": ("pitch roll yaw °", _degrees),
    "gaze": ("gaze pitch yaw °", lambda columns, row: _degrees(columns, row[:2])),
    "au": ("strongest AUs", _strongest),
    "emotion": ("emotion", _best),
}
"""By group of Fex columns: the head of its column here, and how a row of it is shown."""
_RANKS = {"pose": 1, "emotion": 3, "au": 4, "gaze": 6}
"""By group: how much it is needed where not all have room (where the face is, 0, and its score, 2, stand among them)."""
_MOST = 8
"""Columns without a summary that are shown, of those that were asked for."""


def _faces(fex: Fex) -> NDArray[np.bool_]:
    """Which rows are faces: something is said of them beside that they are none."""
    said = [c for c in fex.numeric_columns if c not in NO_FACE]
    known: NDArray[np.bool_] = np.asarray(np.isfinite(fex.block(said)).any(axis=1))
    for column in NO_FACE:
        if column in fex:
            known = known | (fex[column] > NO_FACE[column])
    return known


def show(fex: Fex, asked: bool = False) -> None:
    """Print the faces of a table. `asked`: its columns were chosen (`--columns`), so those without a summary are shown, too."""
    groups = [
        (g.name, *_SHOWN[g.name], g.columns)
        for g in fex.pipeline.groups
        if g.name in _SHOWN and set(g.columns) <= set(fex.columns) and np.isfinite(fex.block(g.columns)).any()
    ]
    box = next(g.columns for g in fex.pipeline.groups if g.name == "facebox")
    has_box, named = set(box) <= set(fex.columns), L.IDENTITY in fex
    said = {c for *_, columns in groups for c in columns} | (set(box) if has_box else set())
    alone = [c for c in fex.numeric_columns if c not in said] if asked else []
    whole = "crop x y w h" if fex.pipeline.rect is not None else "box x y w h"
    films = any(map(is_video, set(fex.inputs)))  # a video's rows are told apart by their frame's number
    table = Sheet(
        Column("image"), *([Column("frame", right=True)] if films else []), Column("face", right=True),
        *((Column(whole, whole=True), Column("score", 2, right=True)) if has_box else ()),
        *(Column(head, _RANKS[name], whole=name != "au") for name, head, *_ in groups),
        *(Column(c, 1, right=True) for c in alone[:_MOST]),
        *([Column("identity", 5, whole=True)] if named else []),
    )  # fmt: skip
    found = _faces(fex)
    blocks = [fex.block(columns) for *_, columns in groups]
    boxes = fex.block(box) if has_box else np.zeros((len(fex), 5), np.float32)
    face = 0
    for i in range(len(fex)):
        same = i > 0 and (fex.inputs[i], fex.frame[i]) == (fex.inputs[i - 1], fex.frame[i - 1])
        face = face + 1 if same else 0
        cells = [
            "" if same else shown(Path(fex.inputs[i]).name),
            *(["" if same else str(fex.frame[i])] if films else []),
        ]
        if not found[i]:
            table.add(*cells, "none")
            continue
        cells.append(str(face))
        if has_box:
            cells += [" ".join(f"{v:.0f}" for v in boxes[i, :4]), f"{boxes[i, 4]:.3f}"]
        for (*_, text, columns), block in zip(groups, blocks, strict=True):
            cells.append("" if np.isnan(block[i]).all() else text(columns, block[i]))
        cells += [_number(fex[c][i]) for c in alone[:_MOST]]
        table.add(*cells, *([fex.identities[i] or ""] if named else []))
    table.show()
    if len(alone) > _MOST:
        more = len(alone) - _MOST
        click.echo(f"{more} more column{'s' * (more != 1)} not shown here: --out FILE or --json gives them")


def _number(value: np.float32) -> str:
    return "" if np.isnan(value) else f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"

"""A file of Fex rows as arrays for the page: faces only, by what they were read from and when."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fexruntime.contracts import Group, Pipeline
from fexruntime.contracts import labels as L
from fexruntime.contracts.pipelines import PIPELINES, pipeline_row
from fexruntime.errors import EnvironmentMissingError, InputError, one_line
from fexruntime.files import file_sha256
from fexruntime.options import Options
from fexruntime.overlay import pose_axes
from fexruntime.provenance import TABLE_DIGEST, sidecar_read

if TYPE_CHECKING:
    import pandas as pd

_HIDDEN = ("facebox", "landmarks", "embedding", "mesh", "frame_size", "input", "frame", "identity")
"""Groups that are drawn, or say what a row is of; all others are series."""
_NEEDED = ("input", "frame", *L.FACEBOX)


@dataclass(frozen=True, slots=True)
class Rows:
    """Faces in the file's order."""

    inputs: list[str]
    """[N] what each was read from."""
    frames: NDArray[np.int64]
    times_s: NDArray[np.float64] | None
    """[N] seconds on a player's clock where the file has them (Parquet and JSON lines of a video); NaN for pictures."""
    who: list[str]
    """[N] the person, else the track, else which face of its frame."""
    boxes_xywh_px: NDArray[np.float32]
    scores: NDArray[np.float32]
    points_xy_px: NDArray[np.float32] | None
    """[N,68,2]."""
    axes: NDArray[np.float32] | None
    """[N,3,2] directions of the subject's left, up, forward; None where nobody can say which way a positive Pitch looks."""
    series: dict[str, dict[str, NDArray[np.float32]]]
    """By group, by column: [N]; those that say something."""
    stand_ins: list[str]
    rotate: bool
    """Whether videos were turned as their files say."""
    notes: list[str]

    def __len__(self) -> int:
        return len(self.frames)


def read_rows(path: Path, contract: str | None = None) -> Rows:
    """Read rows that `fexport run` (or py-feat) wrote. `contract`: which conventions they follow, if not those that are said in or beside the file.

    Raises InputError for what is not a file of Fex rows, EnvironmentMissingError without pandas or pyarrow.
    """
    table, said = _table(path)
    lacking = [c for c in _NEEDED if c not in table]
    if lacking:
        raise InputError(
            f"{str(path)!r} has no column {', '.join(lacking)}: the page needs rows with facebox (--columns facebox,…)"
        )
    table = table[np.isfinite(table["FaceRectX"].to_numpy(np.float64))]
    if not len(table):
        raise InputError(f"{str(path)!r} has no face in it: there is nothing to look at")
    rows, notes = _rows_of(said, contract, table)
    axes = None
    if set(L.POSE[:3]) <= set(table):
        signs = {row.pitch_up for row in rows}
        if len(signs) == 1:
            pitch, roll, yaw = (table[c].to_numpy(np.float64) for c in L.POSE[:3])
            axes = np.array(
                [pose_axes(signs.copy().pop() * p, r, y) for p, r, y in zip(pitch, roll, yaw, strict=True)], np.float32
            )
        else:
            names = ", ".join(c for row in rows for c in row.contracts)
            notes.append(f"no axes are drawn: which way a positive Pitch looks depends on --contract ({names})")
    points = None
    if set(L.LANDMARK_XY) <= set(table):
        flat = table[list(L.LANDMARK_XY)].to_numpy(np.float32)
        points = np.stack([flat[:, : L.LANDMARKS], flat[:, L.LANDMARKS :]], axis=-1)
    groups: dict[str, Group] = {g.name: g for row in rows for g in row.groups if g.name not in _HIDDEN}
    series = {
        name: {c: table[c].to_numpy(np.float32) for c in g.columns if c in table and table[c].notna().any()}
        for name, g in groups.items()
    }
    return Rows(
        inputs=[str(v) for v in table["input"]],
        frames=table["frame"].to_numpy(np.float64).astype(np.int64),
        times_s=table["time_s"].to_numpy(np.float64) if "time_s" in table else None,
        who=_who(table),
        boxes_xywh_px=table[list(L.FACEBOX[:4])].to_numpy(np.float32),
        scores=table[L.FACEBOX[4]].to_numpy(np.float32),
        points_xy_px=points,
        axes=axes,
        series={name: columns for name, columns in series.items() if columns},
        stand_ins=list(said.get("stand_ins", [])),
        rotate=bool(said.get("options", {}).get("rotate", Options().rotate)),
        notes=notes,
    )


def _table(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """(rows, what the file says of the run that wrote it)."""
    try:
        import pandas as pd
    except ImportError:
        raise EnvironmentMissingError("looking at rows needs pandas: pip install 'fexport[tables]'") from None
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet", ".jsonl"):
        raise InputError(f"cannot tell what {str(path)!r} is: give rows as .csv, .parquet or .jsonl")
    try:
        if suffix == ".csv":
            return pd.read_csv(path), _beside(path)
        if suffix == ".jsonl":
            return pd.read_json(path, lines=True), _beside(path)
        import pyarrow.parquet as parquet

        whole = parquet.read_table(path)
        said = json.loads((whole.schema.metadata or {}).get(b"fexport", b"{}"))
        return whole.to_pandas(), said
    except ImportError:
        raise EnvironmentMissingError("reading Parquet needs pyarrow: pip install 'fexport[tables]'") from None
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror or one_line(error)}") from None
    except ValueError as error:
        raise InputError(f"{str(path)!r} is not a file of rows that can be read: {one_line(error)}") from None


def _beside(path: Path) -> dict[str, Any]:
    """What is said beside a table, if it is still the one of which that was said."""
    said = sidecar_read(path)
    return said if said.get(TABLE_DIGEST) == file_sha256(path) else {}


def _rows_of(said: dict[str, Any], contract: str | None, table: pd.DataFrame) -> tuple[list[Pipeline], list[str]]:
    """Pipelines that the rows may be of: the one the file names, else those with the most of its columns."""
    if "pipeline" in said and contract in (None, said["contract"]):
        return [pipeline_row(said["pipeline"], said["contract"])], []
    if contract is not None and not any(contract in row.contracts for row in PIPELINES):
        known = ", ".join(dict.fromkeys(c for row in PIPELINES for c in row.contracts))
        raise InputError(f"no contract {contract!r}: there are {known}")
    rows = [row for row in PIPELINES if contract is None or contract in row.contracts]
    alike = [(len(set(row.columns) & set(table)), -len(row.columns)) for row in rows]
    return [row for row, score in zip(rows, alike, strict=True) if score == max(alike)], []


def _who(table: pd.DataFrame) -> list[str]:
    faces = (table.groupby(["input", "frame"], sort=False).cumcount()).to_numpy()
    names = [f"face {k}" for k in faces]
    for column, word in (("track", "track {:.0f}"), (L.IDENTITY, "{}")):
        if column in table:
            given = table[column]
            names = [word.format(v) if there else n for v, there, n in zip(given, given.notna(), names, strict=True)]
    return names

"""Hold a Fex to py-feat's recorded CSV: columns and rows one to one, cells within 1e-4 and 0.01 px.

Those are the differences that py-feat shows with itself on another convolution library; the project's own bound is ten
times wider.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np

PIXELS = re.compile(r"^(FaceRect(X|Y|Width|Height)|[xy]_\d+|mesh_[xy]_\d+)$")
EMBEDDING = re.compile(r"^Identity_\d+$")


def read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    with path.open(newline="", encoding="utf-8") as file:
        head, *rows = list(csv.reader(file))
    return head, rows


def assert_same_fex(fex, golden: Path, px: float = 0.01, relative: float = 1e-4) -> None:
    head, rows = read_csv(golden)
    assert list(fex.columns) == head
    assert len(fex) == len(rows)
    largest = 1.0
    embedding = [i for i, c in enumerate(head) if EMBEDDING.match(c)]
    values = [[row[i] for i in embedding] for row in rows]
    present = [abs(float(v)) for row in values for v in row if v]
    largest = max([largest, *present])
    for place, column in enumerate(head):
        expected = [row[place] for row in rows]
        if column in ("input", "Identity", "approx_time"):
            found = ["" if v is None else Path(v).name for v in fex[column]]
            assert found == [Path(v).name for v in expected], column
            continue
        a = np.array([float(v) if v else np.nan for v in expected])
        b = np.asarray(fex[column], np.float64)
        assert np.array_equal(np.isnan(a), np.isnan(b)), column
        scale = largest if EMBEDDING.match(column) else np.maximum(1.0, np.abs(a))
        limit = np.full(len(a), px) if PIXELS.match(column) else relative * scale
        gap = np.abs(a - b)
        assert not (gap > limit).any(), f"{column}: {np.nanmax(gap):.3g}"


def assert_same_rows(found, expected, atol: float) -> None:
    """Hold a Fex to another of ours: rows one to one, numbers within a relative 1e-5 and `atol`, all else equal."""
    assert len(found) == len(expected)
    for column in expected.columns:
        mine, other = np.asarray(found[column]), np.asarray(expected[column])
        if other.dtype.kind == "f":
            assert np.allclose(mine, other, rtol=1e-5, atol=atol, equal_nan=True), column
        else:
            assert mine.tolist() == other.tolist(), column

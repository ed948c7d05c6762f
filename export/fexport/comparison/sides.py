"""What is compared: a bundle that is run, a table of rows that somebody saved, py-feat in its own environment."""

from __future__ import annotations

import contextlib
import csv
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fexport.bench.pyfeat import PyFeat
from fexport.comparison.measuring import Rows, grouped
from fexruntime import Detector
from fexruntime.arrays import F64
from fexruntime.bundle import Bundle
from fexruntime.contracts import PIPELINES
from fexruntime.errors import InputError, one_line
from fexruntime.options import OptionFields, options_of
from fexruntime.sources.folders import files_in
from fexruntime.sources.frame import Frame
from fexruntime.sources.images import IMAGE_SUFFIXES

_NUMBERS = frozenset(c for row in PIPELINES for g in row.groups if g.dtype == "float32" for c in g.columns)


class Side(Protocol):
    """Answers rows for a frame."""

    called: str
    columns: tuple[str, ...]

    def rows(self, frame: Frame) -> Rows:
        """The faces of a frame; InputError if this side knows nothing of it."""
        ...


class BundleSide:
    """A detector, run on each frame."""

    def __init__(self, detector: Detector, options: OptionFields) -> None:
        self.detector, self._options = detector, options
        self.called = str(detector.bundle.path)
        self.columns = detector.to_fex([], **options).numeric_columns

    def rows(self, frame: Frame) -> Rows:
        """Run it."""
        results = self.detector.run([frame], options_of(self._options))
        fex = self.detector.to_fex(results, **self._options)
        return Rows.of(fex.numeric_columns, fex.values.astype(np.float64))


class TableSide:
    """Rows of a CSV, as py-feat's `Fex.to_csv` and `fexport run --out` write them.

    A frame's rows are found by its file's name and its number, or by the name alone where that is unique.
    """

    def __init__(self, path: Path, called: str | None = None) -> None:
        self.called = called or str(path)
        head, cells = _read_csv(path)
        self.columns = tuple(c for c in head if c in _NUMBERS)
        lacking = [c for c in ("input", "FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight") if c not in head]
        if lacking:
            raise InputError(f"{str(path)!r} has no column {lacking[0]!r}: it is not a table of Fex rows")
        place = {c: i for i, c in enumerate(head)}
        try:
            self._values: F64 = np.array(
                [[float(row[place[c]] or "nan") for c in self.columns] for row in cells], np.float64
            ).reshape(-1, len(self.columns))
            numbers = [int(float(row[place["frame"]])) if "frame" in place else 0 for row in cells]
        except ValueError as error:
            raise InputError(f"{str(path)!r} cannot be read as a table of Fex rows: {one_line(error)}") from None
        self.inputs = list(dict.fromkeys(row[place["input"]] for row in cells))
        names = [Path(row[place["input"]]).name for row in cells]
        self._by_key = grouped(list(zip(names, numbers, strict=True)))
        self._by_name: dict[str, list[tuple[str, int]]] = {}
        for key in self._by_key:
            self._by_name.setdefault(key[0], []).append(key)

    def rows(self, frame: Frame) -> Rows:
        """Those of the table."""
        name = Path(frame.name).name
        keys = self._by_name.get(name, [])
        key = (name, frame.index) if (name, frame.index) in self._by_key else keys[0] if len(keys) == 1 else None
        if key is None:
            said = (
                f"knows {name!r} {len(keys)} times, but not as frame {frame.index}"
                if keys
                else f"has no row of {name!r}"
            )
            raise InputError(f"{self.called!r} {said}: give the inputs that it was made from, in the same order")
        return Rows.of(self.columns, self._values[self._by_key[key]])


def _read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            head, *cells = list(csv.reader(file)) or [[]]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{str(path)!r} cannot be read as CSV: {one_line(error)}") from None
    if not cells:
        raise InputError(f"{str(path)!r} has no rows")
    ragged = next((i for i, row in enumerate(cells, start=2) if len(row) != len(head)), None)
    if ragged is not None:
        raise InputError(
            f"{str(path)!r} has {len(cells[ragged - 2])} cells in line {ragged}, not {len(head)}: is it whole?"
        )
    return head, cells


def pictures(inputs: Sequence[str | Path]) -> list[Path]:
    """Files of the inputs, folders opened (not their sub-folders); InputError for what is not there, or holds none."""
    found: list[Path] = []
    for given in map(Path, inputs):
        if given.is_dir():
            inside = files_in(given, IMAGE_SUFFIXES)
            if not inside:
                raise InputError(f"no images in the folder {str(given)!r}")
            found += inside
        elif given.is_file():
            found.append(given)
        else:
            raise InputError(f"{str(given)!r} does not exist")
    return found


@contextlib.contextmanager
def pyfeat_side(
    bundle: Bundle, python: Path, weights: Path | None, threads: int, inputs: Sequence[Path]
) -> Iterator[TableSide]:
    """py-feat, asked for the rows of these images at once; its own `Fex.to_csv` is what is compared.

    Raises EnvironmentMissingError with its last line of output if it cannot start, load or answer.
    """
    filled: dict[str, Any] = {r: n.choice.name or n.row.name for r, n in bundle.networks.items()}
    models = {name: filled.get(role) for name, role in bundle.pipeline.fex_models}
    frame = np.zeros((64, 64, 3), np.uint8)
    if bundle.pipeline.name not in ("detectorv1", "detectorv2"):
        raise InputError(f"py-feat has no {bundle.pipeline.name}: --against pyfeat compares Detectorv1 and Detectorv2")
    with (
        tempfile.TemporaryDirectory() as folder,
        PyFeat(python, bundle.pipeline.name, filled.get("identity"), weights, threads, None, frame, models) as pyfeat,
    ):
        path = Path(folder) / "pyfeat.csv"
        pyfeat.table(inputs, path)
        yield TableSide(path, f"py-feat {pyfeat.ready['versions']['py-feat']}")

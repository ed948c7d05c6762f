"""Fex rows: py-feat's columns, in py-feat's order, as plain arrays.

One row a face; a frame without a face has one row whose predictions are NaN and whose FaceScore is 0. Columns and what
fills them are the pipeline's groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fexruntime.arrays import F32
from fexruntime.columns import TIME, Selection, select
from fexruntime.contracts import Group, Pipeline
from fexruntime.contracts import labels as L
from fexruntime.errors import EnvironmentMissingError, InputError
from fexruntime.fex_views import FexViews
from fexruntime.files import user_path
from fexruntime.results import FrameResult
from fexruntime.sinks import write_table

if TYPE_CHECKING:
    import pandas as pd

NO_FACE = {L.FACEBOX[-1]: 0.0}
"""What a row without a face says, where it is not NaN."""


class Fex(FexViews):
    """A table of faces. `len()` is the number of rows; `fex["AU12"]` is a column as an array, `fex[["AU01", "AU12"]]` several.

    Iterating gives rows as dictionaries; `aus`, `emotions`, `poses` and others are py-feat's groups of columns, as arrays.

    Predictions are float32, FrameHeight and FrameWidth float64, frame int64, input and Identity text (None where there
    is no identity). Of videos, the columns `pts`, `time_base` and `time_s` are there beside py-feat's: they can be asked
    for (`fex["time_s"]`), and are written where a format is fexport's own (Parquet, JSON lines).
    """

    def __init__(
        self,
        pipeline: Pipeline,
        contract: str,
        selection: Selection,
        values: F32,
        others: Mapping[str, NDArray[Any]],
        identity_model: str | None = None,
        models: Mapping[str, str] | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.contract = contract
        self.columns = selection.columns
        self.all_columns = selection.all_columns
        """With the columns beside py-feat's."""
        self.dtypes: Mapping[str, str] = selection.dtypes
        """By column: "float32", "float64", "int64", "integer" (None where there is none) or "text"."""
        self.numeric_columns = tuple(c for c in self.columns if self.dtypes[c] == "float32")
        """Columns of predictions."""
        self.values = values
        """[rows, len(numeric_columns)] float32."""
        self.identity_model = identity_model
        self.models = dict(models or {})
        """What the pipeline's `fex_models` are in this bundle: names as py-feat's Fex has them, and choices."""
        self.info: Mapping[str, Any] = {"pipeline": pipeline.name, "contract": contract} | dict(info or {})
        """Where the rows come from: contract, reference, bundle, weights with their digests, stand-ins, version, options."""
        self._others = dict(others)
        self._place = {c: i for i, c in enumerate(self.numeric_columns)}

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"<Fex {self.pipeline.name} {self.contract}: {len(self)} rows, {len(self.columns)} columns>"

    if not TYPE_CHECKING:  # a type checker knows what there is

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(
                f"a Fex has no {name!r}: to_pandas() gives a DataFrame, to_feat() py-feat's own Fex, plot() a picture of a frame"
            )

    def __contains__(self, column: object) -> bool:
        return column in self.dtypes

    def __getitem__(self, column: str | Sequence[str]) -> NDArray[Any]:
        if not isinstance(column, str):
            return self.block(list(column))
        if column in self._place:
            return self.values[:, self._place[column]]
        if column not in self.dtypes:
            raise InputError(f"no column {column!r} in this {self.pipeline.name} Fex")
        return self._others[column]

    @property
    def frame(self) -> NDArray[np.int64]:
        """Running number of each row's frame."""
        return self._others["frame"]

    @property
    def inputs(self) -> list[str]:
        """What each row's input is called."""
        return list(self._others["input"])

    @property
    def identities(self) -> list[str | None]:
        """Name of each row's person; None where there is none."""
        return list(self._others.get(L.IDENTITY, [None] * len(self)))

    def block(self, columns: Sequence[str]) -> F32:
        """Several prediction columns as one array [rows, len(columns)]; InputError for one that is none."""
        for column in columns:
            if column not in self._place:
                raise InputError(f"no prediction column {column!r} in this {self.pipeline.name} Fex")
        return self.values[:, [self._place[c] for c in columns]]

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[list[Any]]:
        """Rows as lists in column order (or in that of `columns`), of NumPy scalars, str and None."""
        parts = [self[c] for c in columns or self.columns]
        for i in range(len(self)):
            yield [part[i] for part in parts]

    def to_pandas(self) -> pd.DataFrame:
        """The table as a pandas.DataFrame with py-feat's columns, order and dtypes (needs pandas)."""
        try:
            import pandas as pd
        except ImportError:
            raise EnvironmentMissingError("to_pandas() needs pandas: pip install 'fexport[tables]'") from None
        predictions = pd.DataFrame(self.values, columns=list(self.numeric_columns))
        rest = pd.DataFrame(
            {c: pd.Series(v, dtype=_PANDAS.get(self.dtypes[c], v.dtype)) for c, v in self._others.items()}
        )
        whole: pd.DataFrame = pd.concat([predictions, rest], axis=1)[list(self.columns)]
        return whole

    def to_csv(self, path: str | Path) -> None:
        """Write the table as CSV, as `DataFrame.to_csv(index=False)` would, whole or not at all; `PATH.meta.json` says where it comes from.

        OutputError where a file is that fexport did not write.
        """
        write_table(self, Path(user_path(str(path))), ".csv", self.info)

    def to_feat(self) -> Any:
        """The table as a `feat.Fex`, py-feat's own class, with its column groups and model names (needs py-feat)."""
        try:
            from feat.data import Fex as FeatFex
        except ImportError as error:
            raise EnvironmentMissingError(f"to_feat() needs py-feat ({error}): pip install py-feat") from error
        groups = {g.feat: [c for c in g.columns if c in self.dtypes] for g in self.pipeline.groups if g.feat}
        info = dict(self.pipeline.fex_info) | self.models
        return FeatFex(self.to_pandas(), **groups, identity_model=self.identity_model, **info)


_PANDAS: dict[str, Any] = {"text": "str", "integer": "Int64"}
Identify = Callable[["F32", "F32 | None"], "list[str | None]"]
"""(vectors [N,D], track numbers [N] or None) of rows in order -> their names; NaN where a row has none."""


def assemble(
    pipeline: Pipeline,
    contract: str,
    selection: Selection,
    results: Iterable[FrameResult],
    identify: Identify,
    identity_model: str | None,
    placeholder_rows: bool = True,
    models: Mapping[str, str] | None = None,
    info: Mapping[str, Any] | None = None,
) -> Fex:
    """Fex of frame results in order; `identify` names the rows from the value that fills the text column of names.

    `placeholder_rows` gives a frame without a face its row of NaN; with the caller's own boxes there is none.
    """
    numeric = [(g, columns) for g, columns in selection.groups if g.dtype == "float32"]
    width = sum(len(columns) for _, columns in numeric)
    names_from = selection.names_from
    blocks, named, tracks = [], [], []
    of_frame: dict[str, list[tuple[Any, ...]]] = {
        "frame_size": [],
        "frame": [],
        "input": [],
        "approx_time": [],
        "time": [],
    }
    for result in results:
        n = len(result) or int(placeholder_rows)
        values = {"facebox": np.column_stack([result.facerects_xywh_px, result.scores]), **result.values}
        block = np.full((n, width), np.nan, np.float32)
        at = 0
        for group, columns in numeric:
            part = block[:, at : at + len(columns)]
            if not len(result):
                part[:] = [NO_FACE.get(c, np.nan) for c in columns]
            elif group.value in values:
                part[:] = _cells(group, values[group.value], columns)
            at += len(columns)
        blocks.append(block)
        for name, cells in _frame_cells(result).items():
            of_frame[name] += [cells] * n
        tracks.append(_vectors(values.get("track"), n).reshape(n))
        if names_from is not None:
            named.append(_vectors(values.get(names_from), n))
    values_of_rows = np.concatenate(blocks) if blocks else np.empty((0, width), np.float32)
    own = {name: _object_table(cells) for name, cells in of_frame.items()}
    all_tracks = np.concatenate(tracks) if tracks else np.empty(0, np.float32)
    own["track"] = _object_table([(int(t) if np.isfinite(t) else None,) for t in all_tracks])
    if names_from is not None:
        tracked = all_tracks if np.isfinite(all_tracks).any() else None
        own[names_from] = _object_table([(n,) for n in identify(np.concatenate(named), tracked)] if named else [])
    others = {
        c: _typed(group, own[group.value], _place(group, c))
        for group, columns in selection.all_groups
        if group.dtype != "float32"
        for c in columns
    }
    return Fex(pipeline, contract, selection, values_of_rows, others, identity_model, models, info)


def selection_of(pipeline: Pipeline, columns: Iterable[str] | None, results: Sequence[FrameResult]) -> Selection:
    """The columns of a table of these results: with those of time if a video is among them, with `track` if faces have one."""
    video = any(r.moment is not None for r in results)
    return select(pipeline, columns, video, any("track" in r.values for r in results))


def _frame_cells(result: FrameResult) -> dict[str, tuple[Any, ...]]:
    """What each row of a frame says of the frame, by value."""
    moment = result.moment
    time = (None, None, np.nan) if moment is None else (moment.pts, str(moment.time_base), moment.time_s)
    return {
        "frame_size": result.size_hw,
        "frame": (result.index,),
        "input": (result.name,),
        "approx_time": (moment.approx if moment is not None else None,),
        "time": time,
    }


def _object_table(cells: Sequence[tuple[Any, ...]]) -> NDArray[Any]:
    """Cells [rows, K] as they are."""
    table = np.empty((len(cells), len(cells[0]) if cells else 1), object)
    for n, row in enumerate(cells):
        table[n] = row
    return table


def _place(group: Group, column: str) -> int:
    """Where a column is among the cells of its value."""
    alike = [c for g in TIME for c in g.columns] if group.value == "time" else list(group.columns)
    return alike.index(column)


def _typed(group: Group, table: NDArray[Any], place: int) -> NDArray[Any]:
    column = table[:, place] if len(table) else np.empty(0, object)
    return column.astype(group.dtype) if group.dtype in ("float64", "int64") else column


def _vectors(value: F32 | None, rows: int) -> F32:
    """What rows are named by: a value [rows, D], or as many rows of NaN where there is none."""
    if value is not None and len(value) == rows:
        return value
    return np.full((rows, *((1,) if value is None else value.shape[1:])), np.nan, np.float32)


def _cells(group: Group, value: F32, columns: tuple[str, ...]) -> F32:
    """A value [N, …] as cells [N, len(columns)] in the group's order."""
    flat = (np.moveaxis(value, -1, 1) if group.planar else value).reshape(len(value), -1)[:, : len(group.columns)]
    if columns == group.columns:
        return flat
    return flat[:, [group.columns.index(c) for c in columns]]

"""Fex rows: py-feat's columns, in py-feat's order, as plain arrays.

One row a face; a frame without a face has one row whose predictions are NaN and whose FaceScore is 0. Columns and what
fills them are the pipeline's groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fexruntime.arrays import F32
from fexruntime.contracts import Group, Pipeline
from fexruntime.contracts import labels as L
from fexruntime.errors import EnvironmentMissingError, InputError
from fexruntime.results import FrameResult
from fexruntime.sinks import write_table

if TYPE_CHECKING:
    import pandas as pd

OWN_VALUES = ("facebox", "frame_size", "input", "frame")
"""What a row has of its frame and its box, whatever networks there are; other groups are filled by a stage's value."""
_ALWAYS = ("input", "frame")
"""Groups that are there whatever columns a caller chooses: without them nobody knows what a row is of."""
NO_FACE = {L.FACEBOX[-1]: 0.0}
"""What a row without a face says, where it is not NaN."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Columns of a table: of each group those that are shown, in the pipeline's order."""

    groups: tuple[tuple[Group, tuple[str, ...]], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column."""
        return tuple(c for _, columns in self.groups for c in columns)

    @property
    def dtypes(self) -> dict[str, str]:
        """By column: "float32", "float64", "int64" or "text"."""
        return {c: group.dtype for group, columns in self.groups for c in columns}

    @property
    def names_from(self) -> str | None:
        """The value by which rows are given names of persons, if they are."""
        return next((g.value for g, _ in self.groups if g.dtype == "text" and g.value not in OWN_VALUES), None)

    @property
    def values(self) -> frozenset[str]:
        """Values that stages have to give to fill them."""
        return frozenset(g.value for g, _ in self.groups if g.value not in OWN_VALUES)


def select(pipeline: Pipeline, names: Iterable[str] | None) -> Selection:
    """The columns that `names` (of columns or of groups) ask for; None asks for all.

    Raises InputError for a name that the pipeline has not.
    """
    if names is None:
        return Selection(tuple((g, g.columns) for g in pipeline.groups))
    asked = dict.fromkeys((*names, *_ALWAYS))
    known = {g.name for g in pipeline.groups} | set(pipeline.columns)
    for name in asked:
        if name not in known and name not in _ALWAYS:
            groups = ", ".join(g.name for g in pipeline.groups)
            raise InputError(f"no column or group {name!r} in {pipeline.name}: groups are {groups}")
    chosen = ((g, g.columns if g.name in asked else tuple(c for c in g.columns if c in asked)) for g in pipeline.groups)
    return Selection(tuple((g, columns) for g, columns in chosen if columns))


class Fex:
    """A table of faces. `len()` is the number of rows; `fex["AU12"]` is a column as an array.

    Predictions are float32, FrameHeight and FrameWidth float64, frame int64, input and Identity text (None where there
    is no identity).
    """

    def __init__(
        self,
        pipeline: Pipeline,
        contract: str,
        selection: Selection,
        values: F32,
        others: Mapping[str, NDArray[Any]],
        identity_model: str | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.contract = contract
        self.columns = selection.columns
        self.dtypes: Mapping[str, str] = selection.dtypes
        """By column: "float32", "float64", "int64" or "text"."""
        self.numeric_columns = tuple(c for c in self.columns if self.dtypes[c] == "float32")
        """Columns of predictions."""
        self.values = values
        """[rows, len(numeric_columns)] float32."""
        self.identity_model = identity_model
        self._others = dict(others)
        self._place = {c: i for i, c in enumerate(self.numeric_columns)}

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"<Fex {self.pipeline.name} {self.contract}: {len(self)} rows, {len(self.columns)} columns>"

    def __contains__(self, column: object) -> bool:
        return column in self.dtypes

    def __getitem__(self, column: str) -> NDArray[Any]:
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

    def rows(self) -> Iterator[list[Any]]:
        """Rows as lists in column order, of NumPy scalars, str and None."""
        parts = [self[c] for c in self.columns]
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
            {c: pd.Series(v, dtype="str" if self.dtypes[c] == "text" else v.dtype) for c, v in self._others.items()}
        )
        whole: pd.DataFrame = pd.concat([predictions, rest], axis=1)[list(self.columns)]
        return whole

    def to_csv(self, path: str | Path) -> None:
        """Write the table as CSV, as `DataFrame.to_csv(index=False)` would; whole or not at all."""
        write_table(self, Path(path), ".csv")

    def to_feat(self) -> Any:
        """The table as a `feat.Fex`, py-feat's own class, with its column groups and model names (needs py-feat)."""
        try:
            from feat.data import Fex as FeatFex
        except ImportError as error:
            raise EnvironmentMissingError(f"to_feat() needs py-feat ({error}): pip install py-feat") from error
        groups = {g.feat: [c for c in g.columns if c in self.dtypes] for g in self.pipeline.groups if g.feat}
        return FeatFex(self.to_pandas(), **groups, identity_model=self.identity_model, **dict(self.pipeline.fex_info))


def assemble(
    pipeline: Pipeline,
    contract: str,
    selection: Selection,
    results: Iterable[FrameResult],
    identify: Callable[[F32], list[str | None]],
    identity_model: str | None,
    placeholder_rows: bool = True,
) -> Fex:
    """Fex of frame results in order; `identify` names the rows from the value that fills the text column of names.

    `placeholder_rows` gives a frame without a face its row of NaN; with the caller's own boxes there is none.
    """
    numeric = [(g, columns) for g, columns in selection.groups if g.dtype == "float32"]
    width = sum(len(columns) for _, columns in numeric)
    names_from = selection.names_from
    blocks, sizes, frames, inputs, named = [], [], [], [], []
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
        sizes += [result.size_hw] * n
        frames += [result.index] * n
        inputs += [result.name] * n
        if names_from is not None:
            named.append(_vectors(values.get(names_from), n))
    values_of_rows = np.concatenate(blocks) if blocks else np.empty((0, width), np.float32)
    own: dict[str, Any] = {
        "frame_size": np.array(sizes, np.float64).reshape(-1, 2),
        "frame": np.array(frames, np.int64)[:, None],
        "input": np.array(inputs, object)[:, None],
    }
    if names_from is not None:
        names = identify(np.concatenate(named)) if named else []
        own[names_from] = np.array(names, object)[:, None]
    others = {
        c: own[group.value][:, group.columns.index(c)]
        for group, columns in selection.groups
        if group.dtype != "float32"
        for c in columns
    }
    return Fex(pipeline, contract, selection, values_of_rows, others, identity_model)


def _vectors(value: F32 | None, rows: int) -> F32:
    """What rows are named by: a value [rows, D], or as many rows of NaN where there is none."""
    if value is not None and len(value) == rows:
        return value
    return np.full((rows, 1 if value is None else value.shape[1]), np.nan, np.float32)


def _cells(group: Group, value: F32, columns: tuple[str, ...]) -> F32:
    """A value [N, …] as cells [N, len(columns)] in the group's order."""
    flat = (np.moveaxis(value, -1, 1) if group.planar else value).reshape(len(value), -1)[:, : len(group.columns)]
    if columns == group.columns:
        return flat
    return flat[:, [group.columns.index(c) for c in columns]]

"""Fex rows: py-feat's columns, in py-feat's order, as plain arrays.

One row a face; a frame without a face has one row whose predictions are NaN and whose FaceScore is 0. Rows of
`pipeline faces` have the boxes only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fexruntime.contracts import Pipeline
from fexruntime.contracts import labels as L
from fexruntime.errors import EnvironmentMissingError, InputError
from fexruntime.results import FrameResult

if TYPE_CHECKING:
    import pandas as pd

_TEXT = ("input", L.IDENTITY)
_OTHER = (*L.FRAME_SIZE, "frame", *_TEXT)


class Fex:
    """A table of faces. `len()` is the number of rows; `fex["AU12"]` is a column as an array.

    Predictions are float32, FrameHeight and FrameWidth float64, frame int64, input and Identity text (None where there
    is no identity).
    """

    def __init__(
        self,
        pipeline: Pipeline,
        values: NDArray[np.float32],
        frame_size_hw: NDArray[np.float64],
        frame: NDArray[np.int64],
        inputs: Sequence[str],
        identities: Sequence[str | None],
        identity_model: str | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.columns = pipeline.columns
        self.numeric_columns = tuple(c for c in pipeline.columns if c not in _OTHER)
        self.values = values
        """[rows, len(numeric_columns)] float32."""
        self.frame_size_hw = frame_size_hw
        self.frame = frame
        self.inputs = list(inputs)
        self.identities = list(identities)
        self.identity_model = identity_model
        self._place = {c: i for i, c in enumerate(self.numeric_columns)}

    def __len__(self) -> int:
        return len(self.frame)

    def __repr__(self) -> str:
        faces = int(np.isfinite(self["FaceRectX"]).sum())
        return f"<Fex {self.pipeline.name} {self.pipeline.contract}: {len(self)} rows, {faces} faces>"

    def __getitem__(self, column: str) -> NDArray[Any]:
        if column in self._place:
            return self.values[:, self._place[column]]
        if column not in self.columns:
            raise InputError(f"no column {column!r} in a {self.pipeline.name} Fex")
        if column in L.FRAME_SIZE:
            return self.frame_size_hw[:, L.FRAME_SIZE.index(column)]
        if column == "frame":
            return self.frame
        return np.array(self.inputs if column == "input" else self.identities, object)

    def block(self, columns: Sequence[str]) -> NDArray[np.float32]:
        """Several prediction columns as one array [rows, len(columns)]."""
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
        frame = pd.DataFrame(self.values, columns=list(self.numeric_columns))
        rest = pd.DataFrame({c: self[c] for c in self.columns if c in _OTHER})
        whole: pd.DataFrame = pd.concat([frame, rest], axis=1)[list(self.columns)]
        return whole

    def to_csv(self, path: str | Path) -> None:
        """Write the table as CSV, as `DataFrame.to_csv(index=False)` would; whole or not at all."""
        from fexruntime.sinks import write_table

        write_table(self, Path(path), ".csv")

    def to_feat(self) -> Any:
        """The table as a `feat.Fex`, py-feat's own class, with its column groups and model names (needs py-feat)."""
        try:
            from feat.data import Fex as FeatFex
        except ImportError as error:
            raise EnvironmentMissingError(f"to_feat() needs py-feat ({error}): pip install py-feat") from error
        emotions = [c for c in (*L.EMOTIONS_V1, *L.EMOTIONS_V2) if c in self._place]
        blendshapes = [c for c in L.BLENDSHAPES if c in self._place]
        return FeatFex(
            self.to_pandas(),
            au_columns=[c for c in L.AUS if c in self._place],
            emotion_columns=emotions,
            facebox_columns=list(L.FACEBOX),
            landmark_columns=[c for c in L.LANDMARK_XY if c in self._place],
            facepose_columns=[c for c in L.POSE if c in self._place],
            gaze_columns=[c for c in L.GAZE if c in self._place],
            identity_columns=[c for c in L.EMBEDDING if c in self._place],
            **({"blendshape_columns": blendshapes} if blendshapes else {}),
            identity_model=self.identity_model,
            **dict(self.pipeline.fex_info),
        )


def assemble(
    pipeline: Pipeline,
    results: Iterable[FrameResult],
    identify: Any,
    identity_model: str | None,
    placeholder_rows: bool = True,
) -> Fex:
    """Fex of frame results in order; `identify` names the rows from their embeddings [rows,512].

    `placeholder_rows` gives a frame without a face its NaN row; with the caller's own boxes there is none.
    """
    numeric = [c for c in pipeline.columns if c not in _OTHER]
    place = {c: i for i, c in enumerate(numeric)}
    blocks, sizes, frames, names = [], [], [], []
    for result in results:
        n = len(result) or int(placeholder_rows)
        block = np.full((n, len(numeric)), np.nan, np.float32)
        if len(result):
            for columns, value in _parts(result, pipeline):
                block[:, [place[c] for c in columns]] = value
        elif n:
            block[:, place["FaceScore"]] = 0.0
        blocks.append(block)
        sizes += [result.size_hw] * n
        frames += [result.index] * n
        names += [result.name] * n
    values = np.concatenate(blocks) if blocks else np.empty((0, len(numeric)), np.float32)
    identities: list[str | None] = [None] * len(values)
    if L.EMBEDDING[0] in place:
        first = place[L.EMBEDDING[0]]
        identities = identify(values[:, first : first + L.EMBEDDING_SIZE])
    return Fex(
        pipeline,
        values,
        np.array(sizes, np.float64).reshape(-1, 2),
        np.array(frames, np.int64),
        names,
        identities,
        identity_model,
    )


def _parts(result: FrameResult, pipeline: Pipeline) -> Iterator[tuple[Sequence[str], NDArray[np.float32]]]:
    """(columns, [N, len(columns)]) of the heads that a result has."""
    yield L.FACEBOX, np.column_stack([result.facerects_xywh_px, result.scores])
    if result.landmarks_xy_px is not None:
        yield L.LANDMARK_XY, result.landmarks_xy_px.transpose(0, 2, 1).reshape(len(result), -1)
    if result.mesh_xyz is not None:
        yield L.MESH_XYZ, result.mesh_xyz.transpose(0, 2, 1).reshape(len(result), -1)
    emotions = L.EMOTIONS_V2 if L.EMOTIONS_V2[0] in pipeline.columns else L.EMOTIONS_V1
    for columns, value in (
        (L.POSE, result.pose),
        (L.AUS, result.au),
        (emotions, result.emotion),
        (L.VALENCE_AROUSAL, result.valence_arousal),
        (L.GAZE, result.gaze_rad),
        (L.BLENDSHAPES, result.blendshapes),
        (L.EMBEDDING, result.embedding),
    ):
        if value is not None:
            yield columns, value

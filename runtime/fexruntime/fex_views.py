"""What a person takes from a Fex beside its columns: py-feat's groups, rows, other formats, a drawing."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fexruntime.arrays import F32
from fexruntime.contracts import Pipeline
from fexruntime.errors import EnvironmentMissingError, InputError
from fexruntime.files import user_path
from fexruntime.sinks import write_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HTML_ROWS, _HTML_COLUMNS = 10, 16


class FexViews:
    """The part of `Fex` that follows from its columns. Arrays are [rows, columns] float32, NaN where nothing is known."""

    pipeline: Pipeline
    contract: str
    columns: tuple[str, ...]
    all_columns: tuple[str, ...]
    dtypes: Mapping[str, str]
    info: Mapping[str, Any]

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, column: Any) -> NDArray[Any]:
        raise NotImplementedError

    def block(self, columns: Sequence[str]) -> F32:
        """Several prediction columns as one array."""
        raise NotImplementedError

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[list[Any]]:
        """Rows as lists in column order."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Rows, as `to_dict` has them."""
        for row in self.rows(self.all_columns):
            yield {c: _plain(v) for c, v in zip(self.all_columns, row, strict=True)}

    def columns_of(self, group: str) -> tuple[str, ...]:
        """Columns of this table that belong to a group of the pipeline ("au", "pose", …); InputError if it has none so named."""
        found = next((g for g in self.pipeline.groups if g.name == group), None)
        if found is None:
            raise InputError(
                f"{self.pipeline.name} has no {group}: it has {', '.join(g.name for g in self.pipeline.groups)}"
            )
        return tuple(c for c in found.columns if c in self.dtypes)

    @property
    def aus(self) -> F32:
        """Action units, probabilities."""
        return self.block(self.columns_of("au"))

    @property
    def emotions(self) -> F32:
        """Emotions, probabilities."""
        return self.block(self.columns_of("emotion"))

    @property
    def poses(self) -> F32:
        """Pitch, Roll, Yaw in radians, and where the pipeline has them X, Y, Z."""
        return self.block(self.columns_of("pose"))

    @property
    def gaze(self) -> F32:
        """Pitch, yaw, and the angle from straight ahead, in radians."""
        return self.block(self.columns_of("gaze"))

    @property
    def landmarks(self) -> F32:
        """dlib's 68 landmarks in pixels: all x, then all y."""
        return self.block(self.columns_of("landmarks"))

    @property
    def mesh(self) -> F32:
        """478 points: all x, then all y, then all z."""
        return self.block(self.columns_of("mesh"))

    @property
    def blendshapes(self) -> F32:
        """52 of them, in [0,1]."""
        return self.block(self.columns_of("blendshapes"))

    @property
    def faceboxes(self) -> F32:
        """Left, top, width, height in pixels, and the score."""
        return self.block(self.columns_of("facebox"))

    def to_dict(self) -> list[dict[str, Any]]:
        """Rows as dictionaries of plain Python values (None where there is none): what `json.dumps` takes."""
        return list(self)

    def to_json(self) -> str:
        """Rows as a JSON array of objects."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)

    def to_parquet(self, path: str | Path) -> None:
        """Write the table as Parquet (needs pyarrow), whole or not at all; its metadata (key "fexport") says where it comes from."""
        write_table(self, Path(user_path(str(path))), ".parquet", self.info)

    def plot(self, frame: int | None = None, picture: Any = None) -> Figure:
        """A matplotlib Figure of one frame: picture, boxes, landmarks, and bars of each face's AUs and emotions.

        `frame` is its number (default: the table's first); `picture` [H,W,3] uint8 RGB stands in where the input is not a
        file that can be read again. Raises InputError without a picture or such a frame; needs matplotlib.
        """
        from fexruntime.plotting import plot

        return plot(self, frame, picture)

    def _repr_html_(self) -> str:
        """The first rows and columns, for notebooks."""
        shown = self.columns[:_HTML_COLUMNS]
        head = "".join(f"<th>{html.escape(c)}</th>" for c in shown)
        lines = []
        for n, row in enumerate(self.rows(shown)):
            if n == _HTML_ROWS:
                break
            cells = "".join(f"<td>{html.escape(_short(v))}</td>" for v in row)
            lines.append(f"<tr>{cells}</tr>")
        more = f"{len(self)} rows, {len(self.columns)} columns, {self.pipeline.title}, contract {self.contract}"
        made_up = self.info.get("stand_ins") or ()
        warning = f"<p><b>STAND-IN WEIGHTS in {html.escape(', '.join(made_up))}</b></p>" if made_up else ""
        return f"{warning}<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table><p>{html.escape(more)}</p>"


def need_matplotlib() -> Any:
    """matplotlib's `figure` module; EnvironmentMissingError with the fix."""
    try:
        import matplotlib.figure as figure
    except ImportError:
        raise EnvironmentMissingError("Fex.plot() needs matplotlib: pip install matplotlib") from None
    return figure


def _plain(value: Any) -> Any:
    if isinstance(value, (float, np.floating)):
        # through the shortest text, so that a float32 does not grow digits it never had; JSON has no NaN
        return float(str(value)) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def _short(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)

"""Which columns a table has: a pipeline's groups, what a caller chose of them, and what videos and tracks add.

py-feat's columns come first and in its order: `approx_time` of videos before the name, at the place where py-feat puts it.
What is fexport's own (exact times, tracks) is beside them: `track` at the end, times in files that are not py-feat's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from fexruntime.contracts import Group, Pipeline
from fexruntime.errors import InputError

OWN_VALUES = ("facebox", "frame_size", "input", "frame", "approx_time", "time")
"""What a row has of its frame and its box, whatever networks there are; other groups are filled by a stage's value."""
_ALWAYS = ("input", "frame")
"""Groups that are there whatever columns a caller chooses: without them nobody knows what a row is of."""
APPROX_TIME = Group("approx_time", "approx_time", ("approx_time",), dtype="text")
"""Of videos: py-feat's."""
TIME = (
    Group("pts", "time", ("pts",), dtype="integer"),
    Group("time_base", "time", ("time_base",), dtype="text"),
    Group("time_s", "time", ("time_s",), dtype="float64"),
)
"""Of videos: pts and time base as the file has them, and seconds on a player's clock."""
TRACK = Group("track", "track", ("track",), dtype="integer")
"""Of tracked faces."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Columns of a table: of each group those that are shown, in order."""

    groups: tuple[tuple[Group, tuple[str, ...]], ...]
    beside: tuple[tuple[Group, tuple[str, ...]], ...] = field(default=())
    """Columns that files of formats of ours have after these."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column."""
        return tuple(c for _, columns in self.groups for c in columns)

    @property
    def all_groups(self) -> tuple[tuple[Group, tuple[str, ...]], ...]:
        """Groups with those beside."""
        return self.groups + self.beside

    @property
    def all_columns(self) -> tuple[str, ...]:
        """Every column, with those beside."""
        return tuple(c for _, columns in self.all_groups for c in columns)

    @property
    def dtypes(self) -> dict[str, str]:
        """By column: "float32", "float64", "int64", "integer" (which may be missing) or "text"."""
        return {c: group.dtype for group, columns in self.all_groups for c in columns}

    @property
    def names_from(self) -> str | None:
        """The value by which rows are given names of persons, if they are."""
        return next((g.value for g, _ in self.groups if g.dtype == "text" and g.value not in OWN_VALUES), None)

    @property
    def values(self) -> frozenset[str]:
        """Values that stages have to give to fill them."""
        return frozenset(g.value for g, _ in self.groups if g.value not in OWN_VALUES and g is not TRACK)


def select(pipeline: Pipeline, names: Iterable[str] | None, video: bool = False, track: bool = False) -> Selection:
    """The columns that `names` (of columns or of groups) ask for; None asks for all. With `video` also those of time.

    Raises InputError for a name that the pipeline has not.
    """
    groups = _with_time(pipeline.groups) if video else pipeline.groups
    groups += (TRACK,) if track else ()
    beside = TIME if video else ()
    if names is None:
        return Selection(tuple((g, g.columns) for g in groups), tuple((g, g.columns) for g in beside))
    asked = dict.fromkeys((*names, *_ALWAYS))
    # known whatever the input is: one list of columns serves pictures and videos
    known = {n for g in (*pipeline.groups, APPROX_TIME, *TIME, TRACK) for n in (g.name, *g.columns)} | {"time"}
    for name in asked:
        if name not in known and name not in _ALWAYS:
            listed = ", ".join(g.name for g in pipeline.groups)
            raise InputError(f"no column or group {name!r} in {pipeline.name}: groups are {listed}")
    if TRACK.name in asked and not track:
        raise InputError("the column 'track' needs faces to be tracked: give track=True or detect_every")
    if "time" in asked:
        asked |= dict.fromkeys(g.name for g in beside)
    chosen = (
        (g, g.columns if g.name in asked else tuple(c for c in g.columns if c in asked)) for g in (*groups, *beside)
    )
    return Selection(tuple((g, columns) for g, columns in chosen if columns))


def _with_time(groups: tuple[Group, ...]) -> tuple[Group, ...]:
    """py-feat adds approx_time behind `frame`, before names."""
    at = next(k for k, g in enumerate(groups) if g.value == "frame") + 1
    return (*groups[:at], APPROX_TIME, *groups[at:])

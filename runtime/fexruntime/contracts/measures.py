"""How two answers about a face are held to each other: for each value its tasks' units, and how far apart they may be.

These budgets are for whole rows (`fexport compare`): ten times what py-feat differs from itself by on another convolution
library. `gates` are for single networks, and tighter.
"""

from __future__ import annotations

from dataclasses import dataclass

from fexruntime.contracts.labels import MESH_POINTS

BUDGETS = {
    "probability": 1e-3,
    "value": 1e-3,
    "scaled": 1e-3,
    "degrees": 0.1,
    "rotation": 0.1,
    "pixels": 0.1,
    "cosine": 1e-5,
}
"""By task: the largest difference that passes where nobody says another."""
UNITS = {"degrees": "°", "rotation": "° (geodesic)", "pixels": "px", "cosine": "1 - cos", "scaled": "of its value"}
"""How each task's unit is printed; the others have none."""


@dataclass(frozen=True, slots=True)
class Measure:
    """The columns of a group, from `start` up to `stop`, that are compared in one task's unit.

    "degrees" takes radians, the shorter way round; "rotation" is the angle between two 3 x 3 matrices; "cosine" is one minus
    the cosine of two vectors; "scaled" divides by the first side's value where that is above 1; the others are plain.
    """

    task: str
    start: int = 0
    stop: int | None = None


_PROBABILITY, _PIXELS, _DEGREES = (Measure("probability"),), (Measure("pixels"),), (Measure("degrees"),)

MEASURES: dict[str, tuple[Measure, ...]] = {
    "facebox": (Measure("pixels", 0, 4), Measure("probability", 4)),
    "landmarks_xy_px": _PIXELS,
    "pose": (Measure("degrees", 0, 3), Measure("scaled", 3)),
    "rotation": (Measure("rotation"),),
    "presence": _PROBABILITY,
    "au": _PROBABILITY,
    "emotion": _PROBABILITY,
    "blendshapes": _PROBABILITY,
    "valence_arousal": (Measure("value"),),
    "gaze_rad": _DEGREES,
    "embedding": (Measure("cosine"),),
    # as columns: all x, all y, all z
    "mesh_xyz": (Measure("pixels", 0, 2 * MESH_POINTS), Measure("scaled", 2 * MESH_POINTS)),
    "mesh_xyz_px": _PIXELS,
    "raw_yaw": _DEGREES,
    "raw_pitch": _DEGREES,
    "raw_roll": _DEGREES,
}
"""By value, of those that columns of float32 show."""

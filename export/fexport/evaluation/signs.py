"""Which way round a pipeline counts its angles, from pictures of heads whose pose is known.

A checkpoint may count an axis the other way than its code's authors say (NLML_HPE's heads do). Each picture of a turned
head votes, by the sign of what the network says of it.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fexport.evaluation.predictions import Signs
from fexruntime.errors import InputError

if TYPE_CHECKING:
    from fexruntime import Detector

AXES = ("Pitch", "Roll", "Yaw")
LEAST_TURN_DEG = 5.0
"""A known angle smaller than this says nothing of a sign."""


@dataclass(frozen=True, slots=True)
class Known:
    """A picture and its head's pose in degrees, with Detectorv1's signs; an axis that nobody knows is left out."""

    path: Path
    degrees: dict[str, float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the pictures say of one column."""

    column: str
    axis: str
    sign: int | None
    """1: it counts as Detectorv1 does; -1: the other way; None: the pictures disagree, or none turns this axis."""
    agree: int
    of: int

    @property
    def words(self) -> str:
        """The verdict for a person."""
        if self.sign is not None:
            return "as Detectorv1" if self.sign > 0 else "the other way"
        return "the pictures disagree" if self.of else "no picture tells"


def read(path: Path) -> list[Known]:
    """Rows of a CSV with the columns image (a path, from the CSV's folder) and pitch, yaw, roll in degrees, some of them.

    Detectorv1's signs: pitch up, yaw and roll to the subject's right, which is the picture's left.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [{str(k).strip().lower(): v for k, v in row.items()} for row in csv.DictReader(file)]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"cannot read {str(path)!r} as CSV: {error}") from None
    known = []
    for number, row in enumerate(rows, start=2):
        name = row.get("image") or row.get("input")
        if not name:
            raise InputError(f"line {number} of {str(path)!r} names no image: its columns are image, pitch, yaw, roll")
        degrees = {axis: _angle(path, number, row.get(axis.lower())) for axis in AXES}
        picture = path.parent / name
        if not picture.is_file():
            raise InputError(f"line {number} of {str(path)!r} names {name!r}, which is not there")
        known.append(Known(picture, {axis: v for axis, v in degrees.items() if v is not None}))
    if not any(abs(v) >= LEAST_TURN_DEG for k in known for v in k.degrees.values()):
        raise InputError(
            f"{str(path)!r} has no image with an angle of {LEAST_TURN_DEG:g} degrees or more: signs cannot be told from it"
        )
    return known


def _angle(path: Path, line: int, text: Any) -> float | None:
    if text is None or not str(text).strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= 180:
        raise InputError(f"line {line} of {str(path)!r} has {text!r} where degrees are wanted")
    return value


def establish(detector: Detector, known: Iterable[Known], region: str) -> tuple[list[Verdict], list[dict[str, Any]]]:
    """(a verdict for Pitch, Roll, Yaw and each raw_… column there is; what was known and read of each picture).

    The largest face of a picture is taken. Raises InputError if the bundle gives no pose, or no face was found.
    """
    columns = {axis: axis for axis in AXES}
    columns |= {f"raw_{axis.lower()}": axis for axis in AXES if f"raw_{axis.lower()}" in detector.pipeline.columns}
    if not set(AXES) <= set(detector.pipeline.columns):
        raise InputError(f"the bundle {str(detector.bundle.path)!r} ({detector.pipeline.name}) gives no pose")
    readings: list[dict[str, Any]] = []
    votes: dict[str, list[int]] = {column: [] for column in columns}
    for picture in known:
        fex = detector.detect(picture.path, region=region, columns=[*columns, "facebox"])
        area = fex["FaceRectWidth"] * fex["FaceRectHeight"]
        face = int(area.argmax()) if len(fex) and area.max() > 0 else None
        found = {c: None if face is None else math.degrees(float(fex[c][face])) for c in columns}
        readings.append({"image": str(picture.path), "known_deg": picture.degrees, "read_deg": found})
        for column, axis in columns.items():
            value = found[column]
            if value is not None and not math.isnan(value) and abs(picture.degrees.get(axis, 0.0)) >= LEAST_TURN_DEG:
                votes[column].append(1 if value * picture.degrees[axis] > 0 else -1)
    if not any(votes.values()):
        raise InputError("no face with a known turn was found in any of the images: signs cannot be told from them")
    return [_verdict(column, axis, votes[column]) for column, axis in columns.items()], readings


def _verdict(column: str, axis: str, votes: list[int]) -> Verdict:
    """Three of four pictures have to agree: an error of a few degrees near zero must not decide."""
    for sign in (1, -1):
        if votes and votes.count(sign) >= 0.75 * len(votes):
            return Verdict(column, axis, sign, votes.count(sign), len(votes))
    return Verdict(column, axis, None, max(votes.count(1), votes.count(-1)) if votes else 0, len(votes))


def corrections(verdicts: Iterable[Verdict]) -> Signs:
    """By axis, -1 where its column was found to be the wrong way round."""
    found = {v.column: v.sign for v in verdicts}
    return {axis: -1.0 if found.get(axis) == -1 else 1.0 for axis in AXES}

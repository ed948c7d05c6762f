"""Predicted rotations of a data set's samples: by running a bundle, or from a file that somebody made before.

Angles become rotations by the pipeline's declared signs and order (`contracts`): Fex counts roll the other way than the
data sets, some pipelines pitch too, and py-feat's angles are put together in the other order.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fexport.evaluation.datasets import Dataset
from fexruntime.arrays import F64
from fexruntime.boxes import iou
from fexruntime.contracts import Pipeline
from fexruntime.contracts.labels import POSE, ROTATION
from fexruntime.errors import InputError, one_line
from fexruntime.rotations import euler, from_euler

if TYPE_CHECKING:
    from fexruntime import Detector
    from fexruntime.results import FrameResult

ARRAYS = ("pred_R", "R", "rotations", "rotation")
"""Names that an array of rotations may have in an .npz or .json file, the first that is there is read."""
_NAMES = ("names", "name", "image", "input")
Signs = Mapping[str, float]
"""By "Pitch", "Roll" and "Yaw": 1, or -1 where a column is to be turned round."""
AGREED: Signs = {"Pitch": 1.0, "Roll": 1.0, "Yaw": 1.0}


def declared(pipeline: Pipeline) -> Signs:
    """What turns a pipeline's Pitch, Roll and Yaw into the data sets' pitch, roll and yaw: the contract's sign map."""
    return {"Pitch": pipeline.pitch_up, "Roll": -1.0, "Yaw": 1.0}


def from_pose(pitch_roll_yaw: Any, signs: Signs, order: str) -> F64:
    """Pose columns [N,3] in radians -> rotations [N,3,3] as the data sets have them."""
    columns = np.asarray(pitch_roll_yaw, np.float64) * [signs[name] for name in POSE[:3]]
    return from_euler(columns[:, [0, 2, 1]], order)


@dataclass(frozen=True, slots=True)
class Predictions:
    """Rotations of all samples of a data set, NaN where there is none, and how they came about."""

    rotation: F64
    """[N,3,3]"""
    source: Mapping[str, Any]
    """For the report: what predicted, what it read, with which signs."""


def run(
    detector: Detector,
    dataset: Dataset,
    crop: str,
    region: str,
    corrections: Signs = AGREED,
    batch_size: int = 1,
    progress: Callable[[int], None] = lambda done: None,
) -> Predictions:
    """Run a bundle on the samples that are scored.

    `region` "frame": each picture is one face; "face": the finder's faces, of which the one that covers the labelled face
    best is taken, or the best scored where the data set says nothing of it. `corrections` turn columns round that were found
    to be. Raises InputError if the bundle gives no pose.
    """
    pipeline = detector.pipeline
    groups = [g for g in pipeline.groups if g.value in ("pose", "rotation") and g.columns]
    given = {v for s in pipeline.stages if s.role in detector.bundle.roles for v in s.gives}
    if "pose" not in given:
        raise InputError(
            f"the bundle {str(detector.bundle.path)!r} ({pipeline.name}) gives no pose: nothing to evaluate"
        )
    signs = {name: sign * corrections[name] for name, sign in declared(pipeline).items()}
    rotation = np.full((len(dataset), 3, 3), np.nan)
    scored = [int(i) for i in dataset.listed]
    options: Any = {"region": region, "batch_size": batch_size, "columns": [g.name for g in groups]}
    places = dataset.points_xyxy_px if crop == "picture" and region == "face" else None
    stream = detector.stream(dataset.pictures(crop, scored), **options)
    for done, (i, result) in enumerate(zip(scored, stream, strict=True), start=1):
        face = _labelled(result, None if places is None else places[i])
        if face is not None:
            rotation[i] = _rotation(result, face, signs, pipeline.pose_order, corrections)
        progress(done)
    source = {
        "bundle": str(detector.bundle.path),
        "pipeline": pipeline.name,
        "contract": detector.bundle.contract,
        "stand_in_weights": list(detector.bundle.stand_ins),
        "crop": crop,
        "region": region,
        "signs_to_labels": dict(signs),
        "angles_put_together": pipeline.pose_order,
        "read": "rotation matrices" if any(g.value == "rotation" for g in groups) else "Pitch, Roll, Yaw",
    }
    return Predictions(rotation, source)


def _rotation(result: FrameResult, face: int, signs: Signs, order: str, corrections: Signs) -> F64:
    matrix = result.values.get("rotation")
    if matrix is None:
        assert result.pose is not None
        found = from_pose(result.pose[face : face + 1, :3], signs, order)
    else:
        found = matrix[face : face + 1].astype(np.float64)
        if corrections != AGREED:
            found = from_euler(euler(found) * [corrections[n] for n in ("Pitch", "Yaw", "Roll")])
    return np.asarray(found[0], np.float64)


def _labelled(result: FrameResult, face_xyxy: F64 | None) -> int | None:
    """Which face of a picture is the labelled one; None if none of them is."""
    if not len(result):
        return None
    if face_xyxy is None:
        return 0
    overlap = iou(result.boxes_xyxy_px.astype(np.float64), face_xyxy[None])[:, 0]
    best = int(overlap.argmax())
    return best if overlap[best] > 0 else None


def read(path: Path, dataset: Dataset) -> Predictions:
    """Rotations from a file: .npz, .npy or .json of matrices [N,3,3], or a table (.csv, .jsonl) of R00 … R22 or of Pitch,
    Roll, Yaw (radians, Detectorv1's signs, put together as the data sets do), as `fexport run --out` writes it.

    Rows go to samples by name if the file has names, else in order: one for each sample, or for each that is scored. Raises
    InputError for anything else.
    """
    try:
        rotation, names, what = _READERS[path.suffix.lower()](path)
    except KeyError:
        raise InputError(f"cannot tell the format of {str(path)!r}: use one of {', '.join(_READERS)}") from None
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{str(path)!r} cannot be read as predictions: {one_line(error)}") from None
    placed = np.full((len(dataset), 3, 3), np.nan)
    if names is not None:
        _place_by_name(path, placed, rotation, names, dataset)
    elif len(rotation) == len(dataset):
        placed = rotation
    elif len(rotation) == len(dataset.listed):
        placed[dataset.listed] = rotation
    else:
        raise InputError(
            f"{str(path)!r} has {len(rotation)} rotations without names; {dataset.name} has {len(dataset)} samples, of which "
            f"{len(dataset.listed)} are scored: give one for each, or names"
        )
    return Predictions(placed, {"predictions": str(path), "read": what, "by": "order" if names is None else "name"})


def _place_by_name(path: Path, placed: F64, rotation: F64, names: Sequence[str], dataset: Dataset) -> None:
    whole = {name: i for i, name in enumerate(dataset.names)}
    short = {Path(name).name: i for i, name in enumerate(dataset.names)}
    known = 0
    for name, matrix in zip(names, rotation, strict=True):
        bare = name if name in whole else str(Path(name).with_suffix(""))
        i = whole.get(bare, short.get(Path(bare).name))
        if i is None:
            continue
        known += 1
        if np.isnan(placed[i]).any():  # a table has a picture's best face first
            placed[i] = matrix
    if not known:
        raise InputError(
            f"{str(path)!r} names no sample of {dataset.name}: its first name is {next(iter(names), '')!r}"
        )


_Read = tuple[F64, "Sequence[str] | None", str]


def _matrices(value: Any) -> F64:
    array = np.asarray(value, np.float64)
    if array.ndim == 2 and array.shape[1] == 9:
        array = array.reshape(-1, 3, 3)
    if array.ndim != 3 or array.shape[1:] != (3, 3):
        raise ValueError(f"rotations must be [N,3,3], not of shape {array.shape}")
    return array


def _npy(path: Path) -> _Read:
    return _matrices(np.load(path, allow_pickle=False)), None, "rotation matrices"


def _npz(path: Path) -> _Read:
    with np.load(path, allow_pickle=False) as file:
        return _of_mapping({key: file[key] for key in file.files})


def _json(path: Path) -> _Read:
    value = json.loads(path.read_text(encoding="utf-8"))
    return _of_mapping(value) if isinstance(value, dict) else (_matrices(value), None, "rotation matrices")


def _of_mapping(value: Mapping[str, Any]) -> _Read:
    found = next((key for key in ARRAYS if key in value), None)
    if found is None:
        raise ValueError(f"it has no {', '.join(ARRAYS)}, but {', '.join(list(value)[:5]) or 'nothing'}")
    names = next((value[key] for key in _NAMES if key in value), None)
    rotation = _matrices(value[found])
    if names is not None and len(names) != len(rotation):
        raise ValueError(f"{len(names)} names for {len(rotation)} rotations")
    return rotation, None if names is None else [str(n) for n in names], "rotation matrices"


def _csv(path: Path) -> _Read:
    with path.open(encoding="utf-8", newline="") as file:
        return _of_rows(list(csv.DictReader(file)))


def _jsonl(path: Path) -> _Read:
    return _of_rows([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()])


def _of_rows(rows: list[dict[str, Any]]) -> _Read:
    if not rows:
        raise ValueError("it has no rows")
    name = next((key for key in _NAMES if key in rows[0]), None)
    names = None if name is None else [str(row[name]) for row in rows]
    if set(ROTATION) <= set(rows[0]):
        return _matrices(_cells(rows, ROTATION)), names, "rotation matrices"
    if set(POSE[:3]) <= set(rows[0]):
        signs = {"Pitch": 1.0, "Roll": -1.0, "Yaw": 1.0}
        return from_pose(_cells(rows, POSE[:3]), signs, "xyz"), names, "Pitch, Roll, Yaw (Detectorv1's signs)"
    raise ValueError(f"it has neither columns {ROTATION[0]} … {ROTATION[-1]} nor {', '.join(POSE[:3])}")


def _cells(rows: list[dict[str, Any]], columns: Sequence[str]) -> F64:
    return np.array([[np.nan if row[c] in ("", None) else float(row[c]) for c in columns] for row in rows])


_READERS: dict[str, Callable[[Path], _Read]] = {
    ".npz": _npz, ".npy": _npy, ".json": _json, ".csv": _csv, ".jsonl": _jsonl,
}  # fmt: skip

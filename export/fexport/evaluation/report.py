"""What an evaluation says: numbers as JSON, errors over yaw as a plot, the worst pictures with both poses drawn on them."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fexport.evaluation import metrics
from fexport.evaluation.datasets import Dataset
from fexport.evaluation.metrics import Errors
from fexport.evaluation.predictions import Predictions
from fexruntime.arrays import F64, U8
from fexruntime.errors import InputError
from fexruntime.files import check_ours, replacing
from fexruntime.overlay import MARK, write_png
from fexruntime.rotations import axes_in_picture, euler, from_euler
from fexruntime.sinks import printable

YAW_BIN_DEG = 15
LABEL, FOUND = (255, 255, 255), ((230, 60, 60), (60, 200, 60), (70, 110, 255))
"""Colours of the labelled axes (all one), and of the predicted left, down and forward."""
_SIDE_PX = 450
JSON_MARK = b'"written_by": "fexport evaluate"'
"""What the JSON of an evaluation has."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A data set's samples that are scored and have a prediction, their errors, and how many have none."""

    dataset: Dataset
    predictions: Predictions
    scored: NDArray[np.intp]
    """Sample numbers, in order; everything in `errors` is of these."""
    missed: int
    """Samples that should be scored and have no prediction (no face was found)."""
    errors: Errors
    swapped_labels: bool

    @property
    def labels_rad(self) -> F64:
        """[N,3] pitch, yaw, roll of the scored samples."""
        return self.dataset.labels_rad[self.scored]

    @property
    def rotation(self) -> F64:
        """[N,3,3] predicted for the scored samples."""
        return self.predictions.rotation[self.scored]


def evaluate(dataset: Dataset, predictions: Predictions, swapped_labels: bool = False) -> Evaluation:
    """Errors of the samples that have a prediction. InputError if none has, or for the label swap on another set than BIWI."""
    if swapped_labels and dataset.name != "biwi":
        raise InputError(f"TokenHPE's mistake of the label order is in its BIWI test: {dataset.name} has none")
    there = np.isfinite(predictions.rotation[dataset.listed]).all(axis=(1, 2))
    scored = dataset.listed[there]
    if not len(scored):
        raise InputError(f"there is no prediction for any of the {len(dataset.listed)} samples that are scored")
    found = metrics.errors(dataset.labels_rad[scored], predictions.rotation[scored], swapped_labels)
    return Evaluation(dataset, predictions, scored, int((~there).sum()), found, swapped_labels)


def as_json(result: Evaluation, worst: int) -> dict[str, Any]:
    """Everything as plain values, in degrees."""
    dataset = result.dataset
    return {
        "dataset": dataset.name,
        "path": str(dataset.path),
        "samples": len(dataset),
        "scored_are": dataset.chosen_by,
        "missed": result.missed,
        "label_order": "pitch and yaw swapped, as TokenHPE's BIWI test has them" if result.swapped_labels else "right",
        "predicted_by": dict(result.predictions.source),
        "scores": metrics.scores(result.errors),
        "nlml_in_range": metrics.nlml(result.labels_rad, result.rotation),
        "strict_circular": metrics.strict(result.errors),
        "over_yaw": over_yaw(result),
        "worst": [_sample(result, k) for k in order_of_worst(result)[:worst]],
    }


def over_yaw(result: Evaluation) -> list[dict[str, Any]]:
    """Means of the errors by labelled yaw, in steps of 15 degrees; empty steps are left out."""
    yaw = np.rad2deg(result.labels_rad[:, 1])
    step = np.floor(yaw / YAW_BIN_DEG).astype(int)
    rows = []
    for s in np.unique(step):
        mine = step == s
        pitch, turn, roll = (float(v) for v in result.errors.axes[mine].mean(axis=0))
        rows.append({
            "from": int(s) * YAW_BIN_DEG,
            "to": (int(s) + 1) * YAW_BIN_DEG,
            "n": int(mine.sum()),
            "yaw": turn,
            "pitch": pitch,
            "roll": roll,
            "geodesic": float(result.errors.geodesic[mine].mean()),
        })  # fmt: skip
    return rows


def order_of_worst(result: Evaluation) -> list[int]:
    """Places in `scored`, the largest geodesic error first."""
    return [int(k) for k in np.argsort(-result.errors.geodesic, kind="stable")]


def _sample(result: Evaluation, k: int) -> dict[str, Any]:
    label = np.rad2deg(result.labels_rad[k])
    found = np.rad2deg(euler(result.rotation[k : k + 1]))[0]
    axes = ("pitch", "yaw", "roll")
    return {
        "name": result.dataset.names[result.scored[k]],
        "label": {a: round(float(v), 3) for a, v in zip(axes, label, strict=True)},
        "predicted": {a: round(float(v), 3) for a, v in zip(axes, found, strict=True)},
        "geodesic": round(float(result.errors.geodesic[k]), 3),
    }


def write_json(value: Mapping[str, Any], path: Path) -> None:
    """Write a report, whole or not at all; a number that is none becomes null."""
    text = json.dumps(
        {"written_by": "fexport evaluate"} | _finite(value), indent=1, ensure_ascii=False, allow_nan=False
    )
    check_ours(path, JSON_MARK)
    with replacing(path) as temporary:
        temporary.write_text(printable(text) + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_folder(result: Evaluation, folder: Path, worst: int) -> list[Path]:
    """errors.csv, error_over_yaw.png and worst/NN_NAME.png in a folder; answers what was written."""
    pictures = list(_worst_pictures(result, worst))  # first: one that is not there must not leave half a report
    written = [folder / "errors.csv", folder / "error_over_yaw.png"]
    check_ours(written[0], b"name,label_pitch,label_yaw")
    check_ours(written[1], MARK)
    with replacing(written[0]) as temporary:
        temporary.write_text(_samples_csv(result), encoding="utf-8")
    with replacing(written[1]) as temporary:
        temporary.write_bytes(plot(result))
    for place, (k, picture) in enumerate(pictures, start=1):
        name = result.dataset.names[result.scored[k]].replace("/", "_")
        written.append(folder / "worst" / f"{place:02d}_{name}.png")
        write_png(picture, written[-1])
    return written


def _samples_csv(result: Evaluation) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    axes = ("pitch", "yaw", "roll")
    rows.writerow(["name", *(f"label_{a}" for a in axes), *(f"predicted_{a}" for a in axes), *(f"error_{a}" for a in axes),
                   "error_left", "error_down", "error_front", "geodesic"])  # fmt: skip
    for k in range(len(result.scored)):
        sample = _sample(result, k)
        numbers = (*result.errors.axes[k], *result.errors.vectors[k], result.errors.geodesic[k])
        rows.writerow([
            printable(sample["name"]), *sample["label"].values(), *sample["predicted"].values(), *(f"{v:.4f}" for v in numbers)
        ])  # fmt: skip
    return text.getvalue()


def plot(result: Evaluation) -> bytes:
    """Each sample's geodesic error over its labelled yaw, and the means of the axes' errors, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    yaw = np.rad2deg(result.labels_rad[:, 1])
    axes.scatter(yaw, result.errors.geodesic, s=8, alpha=0.35, color="grey", label="geodesic, each picture")
    bins = over_yaw(result)
    middle = [(b["from"] + b["to"]) / 2 for b in bins]
    for name in ("yaw", "pitch", "roll", "geodesic"):
        axes.plot(middle, [b[name] for b in bins], marker="o", markersize=4, label=f"{name}, mean of {YAW_BIN_DEG}°")
    total = metrics.scores(result.errors)
    axes.set_title(f"{result.dataset.name}: {total['n']} pictures, MAE {total['mae']:.2f}°, VMAE {total['vmae']:.2f}°")
    axes.set_xlabel("labelled yaw in degrees (+: to the subject's right)")
    axes.set_ylabel("error in degrees")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": MARK.decode()})
    return buffer.getvalue()


def _worst_pictures(result: Evaluation, worst: int) -> Iterator[tuple[int, U8]]:
    """The worst samples, worst first, as pictures of the published crop with both poses."""
    chosen = order_of_worst(result)[:worst]
    numbers = [int(result.scored[k]) for k in chosen]
    for k, image in zip(chosen, result.dataset.pictures("6drepnet", numbers), strict=True):
        yield k, _drawn(image, result, k)


def _drawn(image: U8, result: Evaluation, k: int) -> U8:
    import cv2

    scale = _SIDE_PX / max(image.shape[:2])
    size = max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1)
    face: Any = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    canvas: Any = np.zeros((size[1] + 58, max(size[0], _SIDE_PX), 3), np.uint8)
    canvas[: size[1], : size[0]] = face
    centre, length = (size[0] / 2, size[1] / 2), 0.32 * min(size)
    truth = from_euler(result.labels_rad[k : k + 1])[0]
    for matrix, colours, thick in ((truth, (LABEL,) * 3, 5), (result.rotation[k], FOUND, 2)):
        for (dx, dy), colour in zip(axes_in_picture(matrix), colours, strict=True):
            end = round(centre[0] + length * dx), round(centre[1] + length * dy)
            cv2.line(canvas, (round(centre[0]), round(centre[1])), end, colour, thick, cv2.LINE_AA)
    sample = _sample(result, k)
    for line, (words, colour) in enumerate((
        (f"{sample['name']}: {sample['geodesic']:.1f} deg apart", LABEL),
        ("label (white)   " + _angles(sample["label"]), LABEL),
        ("predicted       " + _angles(sample["predicted"]), (255, 210, 60)),
    )):  # fmt: skip
        at = (6, size[1] + 16 + 18 * line)
        cv2.putText(canvas, words, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
    return np.asarray(canvas, np.uint8)


def _angles(angles: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:+.1f}" for name, value in angles.items())

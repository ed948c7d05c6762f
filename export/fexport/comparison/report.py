"""A comparison as files: all numbers as JSON, the worst frames as pictures with both sides' faces."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fexport.comparison.measuring import Comparison, FrameDifference, Rows
from fexruntime.arrays import U8
from fexruntime.contracts.labels import FACEBOX, LANDMARK_XY, LANDMARKS
from fexruntime.files import check_ours, replacing
from fexruntime.overlay import write_png
from fexruntime.sinks import printable

FIRST, SECOND = (60, 220, 90), (255, 70, 160)
"""RGB colours of the two sides."""
_SHORTEST_PX = 480
JSON_MARK = b'"faces_of_second_alone": '
"""What the JSON of a comparison has."""


def as_json(found: Comparison, called: tuple[str, str], lone: Sequence[str]) -> dict[str, Any]:
    """All numbers; what is infinite (a cell that one side lacks) is the word "inf"."""
    return {
        "first": called[0],
        "second": called[1],
        "frames": found.frames,
        "faces": found.pairs,
        "faces_of_first_alone": found.only_first,
        "faces_of_second_alone": found.only_second,
        "judge": found.judge,
        "passed": found.passed,
        "groups": [{k: _finite(v) for k, v in line.items()} for line in found.table()],
        "not_compared": list(lone),
        "worst": [
            {"name": d.name, "frame": d.frame, "budgets": _finite(d.ratio), "group": d.group, "difference": _finite(d.difference)}
            for d, *_ in found.worst
        ],
    }  # fmt: skip


def _finite(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def write_json(found: Comparison, called: tuple[str, str], lone: Sequence[str], path: Path) -> None:
    """Write `as_json`, whole or not at all."""
    text = json.dumps(as_json(found, called, lone), indent=1, ensure_ascii=False, allow_nan=False)
    check_ours(path, JSON_MARK)
    with replacing(path) as temporary:
        temporary.write_text(printable(text) + "\n", encoding="utf-8")


def write_pictures(found: Comparison, called: tuple[str, str], folder: Path) -> list[Path]:
    """The worst frames, worst first, as NN_NAME.png; answers what was written."""
    written = []
    for place, (difference, pixels, first, second) in enumerate(found.worst, start=1):
        written.append(folder / f"{place:02d}_{Path(difference.name).stem or 'frame'}.png")
        write_png(drawn(pixels, difference, first, second, called), written[-1])
    return written


def drawn(pixels: U8, difference: FrameDifference, first: Rows, second: Rows, called: tuple[str, str]) -> U8:
    """A frame with both sides' boxes and landmarks, and what is apart written below it."""
    import cv2

    scale = max(1.0, _SHORTEST_PX / min(pixels.shape[:2]))
    size = round(pixels.shape[1] * scale), round(pixels.shape[0] * scale)
    image: Any = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
    thick = max(1, round(max(size) / 500))
    for rows, colour, grown in ((first, FIRST, 2 * thick), (second, SECOND, thick)):
        for left, top, width, height in rows.block(FACEBOX[:4]) * scale:
            corners = (round(left), round(top)), (round(left + width), round(top + height))
            cv2.rectangle(image, *corners, colour, grown)
        if set(LANDMARK_XY) <= set(rows.columns):
            points = rows.block(LANDMARK_XY).reshape(-1, 2, LANDMARKS).transpose(0, 2, 1).reshape(-1, 2) * scale
            for x, y in points[np.isfinite(points).all(axis=1)]:
                cv2.circle(image, (round(x), round(y)), grown, colour, -1)
    canvas: Any = np.zeros((size[1] + 58, max(size[0], _SHORTEST_PX), 3), np.uint8)
    canvas[: size[1], : size[0]] = image
    lone = len(difference.only_first), len(difference.only_second)
    said = f"{difference.group}: {difference.difference:.3g}, {difference.ratio:.3g} budgets"
    if any(lone):
        said = f"faces of one side alone: {lone[0]} of the first, {lone[1]} of the second"
    name = f"{Path(difference.name).name} frame {difference.frame}: {said}"
    for line, (words, colour) in enumerate(((name, (255, 255, 255)), (called[0], FIRST), (called[1], SECOND))):
        at = (6, size[1] + 16 + 18 * line)
        cv2.putText(canvas, printable(words), at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
    return np.asarray(canvas, np.uint8)

"""A Fex drawn as py-feat's `plot_detections` shows it: the picture with its faces, and bars of what was read of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fexruntime.arrays import U8
from fexruntime.errors import InputError
from fexruntime.fex_views import FexViews, need_matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(fex: FexViews, frame: int | None = None, picture: Any = None) -> Figure:
    """See `Fex.plot`."""
    figures = need_matplotlib()
    numbers = fex["frame"]
    if not len(fex) or (frame is not None and frame not in numbers):
        raise InputError(f"there is no frame {frame} in this Fex" if len(fex) else "this Fex has no rows to plot")
    rows = np.flatnonzero(numbers == (numbers[0] if frame is None else frame))
    seen = _picture(fex, int(rows[0]), picture)
    bars = [
        name for name in ("au", "emotion") if any(g.name == name for g in fex.pipeline.groups) and fex.columns_of(name)
    ]
    figure: Figure = figures.Figure(figsize=(5 + 3 * len(bars), 5), layout="constrained")
    axes = figure.subplots(1, 1 + len(bars), squeeze=False, width_ratios=[2.0] + [1.0] * len(bars))[0]
    axes[0].imshow(seen)
    axes[0].set_axis_off()
    _faces(axes[0], fex, rows)
    for at, name in zip(axes[1:], bars, strict=True):
        columns = fex.columns_of(name)
        values = fex.block(columns)[rows]
        height = 0.8 / len(rows)
        for k, row in enumerate(values):
            at.barh(np.arange(len(columns)) + (k - (len(rows) - 1) / 2) * height, row, height, label=f"face {k}")
        at.set_yticks(np.arange(len(columns)), columns, fontsize=8)
        at.invert_yaxis()
        at.set_xlim(0, 1)
        at.set_title({"au": "action units", "emotion": "emotions"}[name])
    if bars and len(rows) > 1:
        axes[-1].legend(fontsize=8)
    made_up = fex.info.get("stand_ins") or ()
    title = f"{Path(str(fex['input'][rows[0]])).name}: {fex.pipeline.title}, contract {fex.contract}"
    figure.suptitle(f"{title}\nSTAND-IN WEIGHTS in {', '.join(made_up)}" if made_up else title, fontsize=9)
    return figure


def _picture(fex: FexViews, row: int, given: Any) -> U8:
    from fexruntime.sources.arrays import checked
    from fexruntime.sources.images import read_image

    if given is not None:
        return checked(given, "the picture")
    path = Path(str(fex["input"][row]))
    if not path.is_file():
        raise InputError(
            f"the input {str(path)!r} cannot be read again: give plot(picture=…) an array [H,W,3] uint8 RGB"
        )
    return read_image(path)


def _faces(at: Any, fex: FexViews, rows: Any) -> None:
    """Boxes with the face's number, landmarks, and what pose and gaze are in degrees."""
    groups = {g.name for g in fex.pipeline.groups}
    boxes = fex.faceboxes[rows] if fex.columns_of("facebox") else np.empty((0, 5), np.float32)
    for k, (x, y, width, height, *_) in enumerate(boxes):
        if not np.isfinite(x):
            continue
        at.plot([x, x + width, x + width, x, x], [y, y, y + height, y + height, y], color="tab:green", linewidth=1.5)
        words = [f"face {k}"]
        for name, shown in (("pose", ("Pitch", "Roll", "Yaw")), ("gaze", ("gaze_pitch", "gaze_yaw"))):
            known = [c for c in shown if name in groups and c in fex.columns_of(name)]
            if known:
                angles = np.degrees(fex.block(known)[rows[k]])
                words.append(", ".join(f"{c} {a:+.0f}°" for c, a in zip(known, angles, strict=True)))
        at.text(
            x,
            y - 4,
            "\n".join(words),
            color="white",
            fontsize=7,
            va="bottom",
            bbox={"color": "black", "alpha": 0.5, "pad": 1},
        )
    if "landmarks" in groups and fex.columns_of("landmarks"):
        points = fex.landmarks[rows].reshape(len(rows), 2, -1)
        at.scatter(points[:, 0], points[:, 1], s=3, color="gold")

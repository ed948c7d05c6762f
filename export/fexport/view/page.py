"""The page: a template with the data in it. Numbers are little-endian arrays in base64, which a browser reads as they are."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fexport.view import media
from fexport.view.rows import Rows
from fexruntime.files import check_ours, replacing
from fexruntime.sources.video import is_video

POINT_UNITS = 8
"""Landmarks are in eighths of a pixel, as unsigned 16-bit numbers; the largest stands for none."""
_NONE = 65535
MARK = b"<title>fexport view</title>"
"""What every page has."""


def write_page(rows: Rows, source: Path, given: Sequence[Path], out: Path, link: bool = False) -> None:
    """Write the page of rows of the file `source`; `given` are files of its inputs that lie elsewhere.

    Raises InputError if an input is not there, OutputError if the page cannot be written.
    """
    data = json.dumps(_data(rows, source, given, out, link), ensure_ascii=False, allow_nan=False)
    template = files("fexport.view").joinpath("page.html").read_text(encoding="utf-8")
    # "</" would end the script that holds the data
    text = template.replace("/*DATA*/null", data.replace("</", "<\\/"))
    check_ours(out, MARK)
    with replacing(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _data(rows: Rows, source: Path, given: Sequence[Path], out: Path, link: bool) -> dict[str, Any]:
    names = list(dict.fromkeys(rows.inputs))
    mine = _indices(rows.inputs, names)
    called = _called(names)
    items: list[dict[str, Any]] = []
    pictures: list[media.Medium] = []
    item_of, place_of = np.zeros(len(names), np.int64), np.zeros(len(names), np.int64)
    positions = np.zeros(len(rows), np.float64)
    for k, name in enumerate(names):
        path = media.found(name, given, source)
        if is_video(name):
            item_of[k] = len(items)
            chosen = mine == k
            times = None if rows.times_s is None else rows.times_s[chosen]
            if times is None or not np.isfinite(times).all():
                times = media.times_of(path, rows.frames[chosen])
            positions[chosen] = times
            items.append(
                {"kind": "video", "name": called[k], "media": [_medium(media.film(path, name, out, rows.rotate, link))]}
            )
        else:
            item_of[k], place_of[k] = -1, len(pictures)
            pictures.append(media.picture(path, called[k]))
    if pictures:
        item_of[item_of < 0] = len(items)
        still = np.array([not is_video(n) for n in names])[mine]
        positions[still] = place_of[mine][still]
        items.append({"kind": "pictures", "name": "pictures", "media": [_medium(p) for p in pictures]})
    item = item_of[mine]
    order = np.lexsort((np.arange(len(rows)), positions, item))
    people = list(dict.fromkeys(rows.who))
    who = _indices(rows.who, people)
    return {
        "title": source.name,
        "items": items,
        "people": people,
        "stand_ins": rows.stand_ins,
        "notes": rows.notes,
        "item": _packed(item[order], "<i4"),
        "frame": _packed(rows.frames[order], "<i4"),
        "position": _packed(positions[order], "<f8"),
        "who": _packed(who[order], "<i4"),
        "box": _packed(rows.boxes_xywh_px[order], "<f4"),
        "score": _packed(rows.scores[order], "<f4"),
        "points": None if rows.points_xy_px is None else _packed(_eighths(rows.points_xy_px[order]), "<u2"),
        "axes": None if rows.axes is None else _packed(rows.axes[order], "<f4"),
        "series": {g: {c: _packed(v[order], "<f4") for c, v in columns.items()} for g, columns in rows.series.items()},
    }


def _called(names: Sequence[str]) -> list[str]:
    """Names for people to read: files without their folders, where those tell them apart."""
    short = [Path(n).name for n in names]
    return short if len(set(short)) == len(short) else list(names)


def _indices(words: Sequence[str], known: Sequence[str]) -> NDArray[np.int64]:
    number = {name: k for k, name in enumerate(known)}
    return np.array([number[w] for w in words], np.int64)


def _medium(medium: media.Medium) -> dict[str, Any]:
    return {"name": medium.name, "address": medium.address, "width": medium.width, "height": medium.height}


def _eighths(points: NDArray[np.float32]) -> NDArray[np.int64]:
    scaled = np.round(points.astype(np.float64) * POINT_UNITS)
    inside = np.isfinite(scaled) & (scaled >= 0) & (scaled < _NONE)
    return np.where(inside, scaled, _NONE).astype(np.int64)


def _packed(array: NDArray[Any], kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(array, np.dtype(kind)).tobytes()).decode()

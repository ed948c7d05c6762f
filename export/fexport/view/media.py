"""What rows were read from, as a browser can show it: pictures as JPEG, videos as they are or as H.264."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fexruntime.errors import InputError, OutputError
from fexruntime.overlay_video import OverlayVideo
from fexruntime.sources.images import read_image
from fexruntime.sources.video import Video, import_av

MOST_BYTES = 300 << 20
"""Browsers refuse longer addresses of data (Chromium beyond 512 MB, of which a third is base64's)."""
PICTURE_SIDE = 1600
_PLAYED = {"h264": (".mp4", ".m4v", ".mov"), "vp8": (".webm",), "vp9": (".webm", ".mp4"), "av1": (".webm", ".mp4")}
_TYPES = {".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/mp4", ".webm": "video/webm"}


@dataclass(frozen=True, slots=True)
class Medium:
    """A picture or video: an address for the page, and its size in pixels, in which rows count."""

    name: str
    address: str
    width: int
    height: int


def found(name: str, given: Sequence[Path], rows: Path) -> Path:
    """The file of an input of rows: one of `given` that is called so, else where the rows say, else beside the rows."""
    matching = [p for p in given if p.name == Path(name).name]
    candidates = [*matching, Path(name), rows.parent / Path(name).name]
    for path in candidates:
        if path.is_file():
            return path
    raise InputError(f"{name!r}, which the rows were read from, is not there: give it behind the rows")


def picture(path: Path, name: str) -> Medium:
    """A picture, at most PICTURE_SIDE pixels long."""
    import cv2

    rgb = read_image(path)
    height, width = rgb.shape[:2]
    shown: Any = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    factor = PICTURE_SIDE / max(height, width)
    if factor < 1:
        shown = cv2.resize(shown, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    data = cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()
    return Medium(name, _address(data, "image/jpeg"), width, height)


def film(path: Path, name: str, page: Path, rotate: bool, link: bool) -> Medium:
    """A video, in the page or (`link`) named by its path from the page's folder; written anew where a browser cannot play it.

    Raises InputError for one that is too long to be in a page, and for a link to what a browser cannot play.
    """
    video = Video(path, rotate)
    first = next(iter(video.frames(range(1))))
    height, width = first.rgb_u8.shape[:2]
    # browsers turn a video as its file says, whatever the rows were read from
    playable = _playable(path) and (not video.turned or rotate)
    if link:
        if not playable:
            raise InputError(f"{name!r} cannot be linked: browsers do not play it (or turn it); leave --link out")
        return Medium(name, _relative(path, page), width, height)
    if playable:
        _check_size(path.stat().st_size, name)
        return Medium(name, _address(path.read_bytes(), _TYPES[path.suffix.lower()]), width, height)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "film.mp4"
        with OverlayVideo(target) as written:
            for picked in video.frames(range(video.timeline.frames)):
                written.add(picked.rgb_u8, picked.moment)
        _check_size(target.stat().st_size, name)
        return Medium(name, _address(target.read_bytes(), "video/mp4"), width, height)


def times_of(path: Path, frames: NDArray[np.int64]) -> NDArray[np.float64]:
    """Seconds on a player's clock of frames of a video, by their numbers; InputError for one that it has not."""
    timeline = Video(path).timeline
    if len(frames) and int(frames.max()) >= timeline.frames:
        raise InputError(f"{str(path)!r} has {timeline.frames} frames, but there are rows of frame {int(frames.max())}")
    pts = timeline.pts
    return np.array(
        [timeline.moment(int(f), None if pts is None else int(pts[f]), timeline.time_base).time_s for f in frames]
    )


def _playable(path: Path) -> bool:
    with import_av().open(str(path)) as container:
        stream = container.streams.video[0]
        codec, pixels = stream.codec_context.name, stream.codec_context.pix_fmt
    suffixes = _PLAYED.get(codec.removeprefix("lib").removesuffix("-vp9"), ())
    return path.suffix.lower() in suffixes and pixels in ("yuv420p", "yuvj420p")


def _check_size(size: int, name: str) -> None:
    if size > MOST_BYTES:
        raise OutputError(
            f"{name!r} has {size >> 20} MB: browsers take at most {MOST_BYTES >> 20} inside a page; --link leaves it outside"
        )


def _address(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _relative(path: Path, page: Path) -> str:
    import os
    from urllib.parse import quote

    return quote(os.path.relpath(path.resolve(), page.resolve().parent).replace(os.sep, "/"))

"""Faces followed from frame to frame: numbers for them, boxes between detections, py-feat's smoothing.

Between detections a box moves with the picture: corners inside it are followed by Lucas-Kanade's pyramid (Bouguet 2001),
there and back, and those that come back to where they began say a shift and a scale (the median over them, as Kalal's
MedianFlow 2010). It needs no network, so it serves every pipeline. What is lost, or a cut of scene, is detected at once.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fexruntime.arrays import F32, U8
from fexruntime.boxes import iou, pairs
from fexruntime.contracts import VALUES
from fexruntime.results import FrameResult
from fexruntime.sources.frame import Frame
from fexruntime.sources.on_device import is_on_device, on_the_cpu

SAME_FACE_IOU = 0.3
"""Least overlap of a detection with where a track is, to be of it."""
PATIENCE = 3
"""Detections that a track may miss before it has ended."""
MOST_POINTS, LEAST_POINTS = 60, 8
RETURNS_PX = 1.0
"""A point that comes back farther than this from where it began was not followed."""
SEEN_SIDE = 320
"""The longer side of the grey picture in which points are followed."""
CUT_SIDE, CUT_LEVELS = 32, 28.0
"""A scene has cut where the mean grey level of thumbnails of this side differs by more than this many of 255 levels."""

Find = Callable[[Sequence[Frame]], "list[dict[str, F32]]"]
"""Detection: frames -> the finder's values of each."""


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """A small grey picture of a frame, and how many pixels of the frame one of its own is."""

    grey: U8
    factor: float


@dataclass(slots=True, eq=False)
class _Track:
    """A face that is followed: where it is (the finder's values of one face), and what it carries on."""

    number: int
    values: dict[str, F32]
    carried: dict[str, F32]
    missed: int = 0


class Tracker:
    """Numbers faces, and finds them in every Nth frame only. Frames must come in order; a new source begins anew.

    `carry` names values that are computed once a track. `state` and `restore` keep what a later tracker needs to go on
    exactly as this one would.
    """

    one_at_a_time = False
    reads: frozenset[str] = frozenset()

    def __init__(self, every: int, carry: Sequence[str] = ()) -> None:
        self.every, self.carry = every, tuple(carry)
        self.detected = self.followed = 0
        """Frames so far in which faces were looked for, and in which they were followed."""
        self._tracks: list[_Track] = []
        self._next = 0
        self._since = 0
        self._source: int | None = None
        self._seen: _View | None = None
        self._template: dict[str, F32] = {}
        """The finder's values of no face."""

    def found(self, frames: Sequence[Frame], find: Find) -> list[dict[str, F32]]:
        """The finder's values of each frame, with "track" and what tracks carry (NaN where a track is new)."""
        return [self._found(frame, find) for frame in frames]

    def remember(self, results: Sequence[FrameResult]) -> list[FrameResult]:
        """Keep the values that tracks carry, as they were first computed; answers the results as they are."""
        alive = {t.number: t for t in self._tracks}
        for result in results:
            for row, number in enumerate(result.values.get("track", ())):
                track = alive.get(int(number))
                for name in self.carry:
                    if track is not None and name not in track.carried and name in result.values:
                        value = result.values[name][row]
                        if np.isfinite(value).all():
                            track.carried[name] = value.copy()
        return list(results)

    def _found(self, frame: Frame, find: Find) -> dict[str, F32]:
        if is_on_device(frame.rgb_u8):
            raise on_the_cpu("following faces is")
        view = _view(frame.rgb_u8)
        if frame.source != self._source or (self._seen is not None and self._seen.grey.shape != view.grey.shape):
            self._tracks, self._seen, self._since, self._source = [], None, 0, frame.source
        values = None
        cut = self._seen is not None and _has_cut(self._seen.grey, view.grey)
        if self._seen is not None and not cut:
            # a track that the last detection missed stays where it was last seen
            shown = [t for t in self._tracks if not t.missed]
            moved = [_moved(t.values, self._seen, view) for t in shown]
            for track, motion in zip(shown, moved, strict=True):
                track.values = motion or track.values
            if self._since < self.every and all(m is not None for m in moved):
                self.followed += 1
                values = self._values(shown)
        if cut:
            self._tracks = []
        if values is None:
            values = self._detect(find([frame])[0])
        self._seen = view
        self._since += 1
        return values

    def _detect(self, found: dict[str, F32]) -> dict[str, F32]:
        self.detected += 1
        self._since = 0
        self._template = {n: v[:0] for n, v in found.items()}
        boxes = found["boxes_xyxy_px"]
        pairs = _pairs(boxes, [t.values["boxes_xyxy_px"][0] for t in self._tracks])
        met = {track: face for face, track in pairs}
        kept = []
        for place, track in enumerate(self._tracks):
            if place in met:
                track.values = {n: v[met[place] : met[place] + 1] for n, v in found.items()}
            track.missed = 0 if place in met else track.missed + 1
            if track.missed < PATIENCE:
                kept.append(track)
        shown: list[_Track] = []
        of_face = {face: self._tracks[track] for face, track in pairs}
        for face in range(len(boxes)):
            track_or_none = of_face.get(face)
            if track_or_none is None:
                track_or_none = _Track(self._next, {n: v[face : face + 1] for n, v in found.items()}, {})
                self._next += 1
                kept.append(track_or_none)
            shown.append(track_or_none)
        # those that are shown first, best score first: followed frames have the same order
        self._tracks = shown + [t for t in kept if t not in shown]
        return self._values(shown)

    def _values(self, tracks: Sequence[_Track]) -> dict[str, F32]:
        """The finder's values of tracks as those of a frame, with their numbers and what they carry."""
        values = {n: np.concatenate([empty, *(t.values[n] for t in tracks)]) for n, empty in self._template.items()}
        values["track"] = np.array([t.number for t in tracks], np.float32)
        for name in self.carry:
            none = np.full(VALUES[name].shape, np.nan, np.float32)
            rows = [t.carried.get(name, none) for t in tracks]
            values[name] = np.stack(rows) if rows else np.empty((0, *VALUES[name].shape), np.float32)
        return values

    def state(self) -> dict[str, Any]:
        """What a later tracker goes on from, for JSON."""
        seen = self._seen
        return {
            "next": self._next,
            "since": self._since,
            "source": self._source,
            "seen": None if seen is None else [packed(seen.grey), seen.factor],
            "template": {n: list(v.shape[1:]) for n, v in self._template.items()},
            "tracks": [
                [
                    t.number,
                    t.missed,
                    {n: packed(v) for n, v in t.values.items()},
                    {n: packed(v) for n, v in t.carried.items()},
                ]
                for t in self._tracks
            ],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`. Raises ValueError (or what its parts raise) if it is none."""
        self._next, self._since, self._source = state["next"], state["since"], state["source"]
        if not all(type(v) is int for v in (self._next, self._since)) or type(self._source) not in (int, type(None)):
            raise ValueError("a tracker's numbers are none")
        seen = state["seen"]
        self._seen = None if seen is None else _View(unpacked(seen[0], "|u1", (None, None)), float(seen[1]))
        if self._seen is not None and not (self._seen.factor >= 1.0 and min(self._seen.grey.shape) > 0):
            raise ValueError("a tracker's picture is none")
        self._template = {n: np.empty((0, *VALUES[n].shape), np.float32) for n in state["template"]}
        self._tracks = [
            _Track(int(number), _restored(values, (1,)), _restored(carried, ()), int(missed))
            for number, missed, values, carried in state["tracks"]
        ]
        if any(t.values.keys() != self._template.keys() for t in self._tracks):
            raise ValueError("a track's values are not the finder's")


class Smoother:
    """py-feat's `_smooth_bboxes`, a frame at a time: boxes become alpha of themselves and the rest of those before."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self._before: F32 | None = None
        self._source: int | None = None

    def smoothed(self, frame: Frame, values: dict[str, F32]) -> dict[str, F32]:
        """The finder's values of a frame, their boxes smoothed."""
        if frame.source != self._source:
            self._before, self._source = None, frame.source
        boxes = smooth_boxes(values["boxes_xyxy_px"], self._before, self.alpha)
        self._before = boxes if len(boxes) else None
        return values | {"boxes_xyxy_px": boxes}

    def state(self) -> dict[str, Any]:
        """What a later smoother goes on from, for JSON."""
        return {"before": None if self._before is None else packed(self._before), "source": self._source}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._before = None if state["before"] is None else unpacked(state["before"], "<f4", (None, 4))
        self._source = state["source"]


def smooth_boxes(boxes: F32, before: F32 | None, alpha: float) -> F32:
    """Boxes [N,4] smoothed by those of the frame before [M,4]: each takes the nearest centre that no other took, if it is
    within half the box's width (py-feat 2.1.5, `Detectorv2._smooth_bboxes`)."""
    out: F32 = boxes.copy()
    if before is None or not len(before):
        return out
    centres_before = (before[:, :2] + before[:, 2:]) / np.float32(2)
    centres = (boxes[:, :2] + boxes[:, 2:]) / np.float32(2)
    used: list[int] = []
    for i in range(len(boxes)):
        distance = np.linalg.norm(centres_before - centres[i], axis=1)
        distance[used] = np.inf
        nearest = int(np.argmin(distance))
        if np.isfinite(distance[nearest]) and distance[nearest] < 0.5 * max(float(boxes[i, 2] - boxes[i, 0]), 1.0):
            used.append(nearest)
            out[i] = alpha * boxes[i] + (1.0 - alpha) * before[nearest]
    return out


def _view(rgb: U8) -> _View:
    import cv2

    height, width = rgb.shape[:2]
    factor = max(1.0, max(height, width) / SEEN_SIDE)
    grey: Any = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    if factor > 1.0:
        size = (max(8, round(width / factor)), max(8, round(height / factor)))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return _View(np.asarray(grey, np.uint8), factor)


def _has_cut(before: U8, now: U8) -> bool:
    import cv2

    small = [
        cv2.resize(v, (CUT_SIDE, CUT_SIDE), interpolation=cv2.INTER_AREA).astype(np.float32) for v in (before, now)
    ]
    return float(np.abs(small[0] - small[1]).mean()) > CUT_LEVELS


def _moved(values: dict[str, F32], before: _View, now: _View) -> dict[str, F32] | None:
    """The values of one face, moved as the picture in its box did; None where too few points could be followed."""
    import cv2

    box = values["boxes_xyxy_px"][0] / before.factor
    height, width = before.grey.shape
    x1, y1 = (max(0, int(v)) for v in box[:2])
    x2, y2 = min(width, int(np.ceil(box[2]))), min(height, int(np.ceil(box[3])))
    if x2 - x1 < 6 or y2 - y1 < 6:
        return None
    corners: Any = cv2.goodFeaturesToTrack(before.grey[y1:y2, x1:x2], MOST_POINTS, 0.01, 2.0)
    if corners is None or len(corners) < LEAST_POINTS:
        return None
    start = np.asarray(corners, np.float32) + np.array([x1, y1], np.float32)
    window = {"winSize": (15, 15), "maxLevel": 3}
    there, ok1, _ = cv2.calcOpticalFlowPyrLK(before.grey, now.grey, start, np.empty_like(start), **window)  # type: ignore[call-overload]
    back, ok2, _ = cv2.calcOpticalFlowPyrLK(now.grey, before.grey, there, np.empty_like(start), **window)  # type: ignore[call-overload]
    returned = np.linalg.norm((back - start)[:, 0], axis=1) < RETURNS_PX
    good = returned & (ok1[:, 0] == 1) & (ok2[:, 0] == 1)
    if good.sum() < max(LEAST_POINTS, 0.4 * len(start)):
        return None
    p, q = start[good, 0].astype(np.float64), there[good, 0].astype(np.float64)
    first, second = np.triu_indices(len(p), 1)
    apart = np.linalg.norm(p[first] - p[second], axis=1)
    far = apart > 4.0
    ratio = np.linalg.norm(q[first] - q[second], axis=1)[far] / apart[far]
    scale = float(np.median(ratio)) if far.any() else 1.0
    if not 0.8 < scale < 1.25:
        return None
    centre = np.array([box[0] + box[2], box[1] + box[3]], np.float64) / 2
    shift = np.median(q - (centre + scale * (p - centre)), axis=0)
    middle, moved_to = centre * before.factor, (centre + shift) * now.factor
    return {n: _carried_over(n, v, middle, moved_to, scale) for n, v in values.items()}


def _carried_over(name: str, value: F32, middle: Any, moved_to: Any, scale: float) -> F32:
    """A value of a face, points in it moved and scaled with the face."""
    if name not in VALUES or not VALUES[name].points:
        return value
    pairs = value.shape[-1] // 2 * 2
    points = value[..., :pairs].reshape(*value.shape[:-1], pairs // 2, 2)
    moved = ((points - middle) * scale + moved_to).astype(np.float32).reshape(*value.shape[:-1], pairs)
    return np.concatenate([moved, value[..., pairs:]], axis=-1)


def _pairs(boxes: F32, tracks: Sequence[F32]) -> list[tuple[int, int]]:
    """(face, track) greedily by overlap, each once."""
    if not len(boxes) or not tracks:
        return []
    overlap = iou(boxes, np.stack(tracks))
    return pairs(overlap, overlap >= SAME_FACE_IOU)


def packed(array: Any) -> list[Any]:
    """An array as JSON's lists and text, bit for bit."""
    return [array.dtype.str, list(array.shape), base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()]


def unpacked(made: Sequence[Any], wanted: str | None = None, shape: Sequence[int | None] | None = None) -> Any:
    """The array that `packed` made this of; ValueError if it is not of this type and shape (None: any, any length)."""
    dtype, said, text = made
    wanted, shape = wanted or dtype, said if shape is None else shape
    fits = len(said) == len(shape) and all(want in (None, n) for n, want in zip(said, shape, strict=True))
    if dtype != wanted or not fits:
        raise ValueError(f"an array of {dtype!r:.20} {said!r:.40} is not one of {wanted}")
    return np.frombuffer(base64.b64decode(text), dtype).reshape(said).copy()


def _restored(values: Mapping[str, Any], rows: tuple[int, ...]) -> dict[str, F32]:
    """The packed values of one face, in arrays of so many rows."""
    return {n: unpacked(v, "<f4", (*rows, *VALUES[n].shape)) for n, v in values.items()}

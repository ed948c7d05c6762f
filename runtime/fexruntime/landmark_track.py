"""Faces of a video read where the last frame's mesh lay: MediaPipe's FaceMesh with static_image_mode=False.

Mirrors mediapipe 0.10.21's face_landmark_front graph: the square round a face's landmarks, turned with its eyes and enlarged,
is where its mesh is read in the next frame; faces are looked for while fewer are known than may be; a region that was
followed takes the place of one that was found and overlaps it; a face that fails the presence test is forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fexruntime import blazeface
from fexruntime.arrays import F32
from fexruntime.contracts import VALUES
from fexruntime.contracts import facemesh as C
from fexruntime.options import Options
from fexruntime.results import FrameResult
from fexruntime.sources.frame import Frame
from fexruntime.track import Find, packed, unpacked
from fexruntime.warp import corners_of

_EYES = list(C.EYE_LINE)


@dataclass(slots=True, eq=False)
class _Face:
    """A face that is followed: its number, and where it is looked for next, in pixels of the frame that was seen."""

    number: int
    region: F32
    """[4,2] corners of the square, as `warp.corners_of` orders them."""


class LandmarkTracker:
    """Follows faces by their landmarks. Frames must come in order, each one's results be remembered before the next; a new source
    or size of frame begins anew.

    `points` and `presence` name the values of a face's mesh and of its probability, `gives` those of the finder. `state` and
    `restore` keep what a later tracker needs to go on exactly as this one would.
    """

    one_at_a_time = True

    def __init__(self, points: str, presence: str, gives: Sequence[str], options: Options) -> None:
        self.reads = frozenset((points, presence))
        """Values that `remember` has to see."""
        self.detected = self.followed = 0
        """Frames so far in which faces were looked for, and in which they were followed alone."""
        self._points, self._presence, self._gives = points, presence, tuple(gives)
        self._most, self._every, self._numbered = options.max_faces, options.detect_every, options.track
        self._faces: list[_Face] = []
        self._next = self._since = 0
        self._lost = False
        self._source: int | None = None
        self._frame: Frame | None = None
        self._size_hw: tuple[int, ...] | None = None

    def found(self, frames: Sequence[Frame], find: Find) -> list[dict[str, F32]]:
        """The finder's values of one frame, those of faces that are followed among them, with "track"."""
        (frame,) = frames
        size_hw = frame.rgb_u8.shape[:2]
        if (frame.source, size_hw) != (self._source, self._size_hw):
            self._faces, self._source, self._size_hw = [], frame.source, size_hw
        self._frame = frame
        if self._enough():
            self.followed += 1
            values = {name: np.empty((0, *VALUES[name].shape), np.float32) for name in self._gives}
        else:
            self.detected += 1
            self._since = 0
            values = find([frame])[0]
        self._since += 1
        return [self._joined(values)]

    def _enough(self) -> bool:
        """Whether nobody has to be looked for."""
        if self._most is not None and len(self._faces) >= self._most:
            return True
        return bool(self._faces) and not self._lost and self._since < self._every

    def _joined(self, values: dict[str, F32]) -> dict[str, F32]:
        """What was found, less what is followed already, then what is followed: in this order, as MediaPipe has them."""
        new = len(values["scores"])
        regions = np.concatenate([values["region_xy_px"], *(f.region[None] for f in self._faces)])
        upright = [_upright(region) for region in regions]
        kept = np.array(blazeface.apart(upright), np.int64)
        known = {
            "boxes_xyxy_px": np.array([_around(*square) for square in upright[new:]], np.float32).reshape(-1, 4),
            "scores": np.ones(len(self._faces), np.float32),
            "region_xy_px": regions[new:],
        }  # box and score until the mesh says them
        whole = {}
        for name, value in values.items():
            following = known.get(name)
            if following is None:
                following = np.full((len(self._faces), *value.shape[1:]), np.nan, np.float32)
            whole[name] = np.concatenate([value, following])[kept] if new else following[kept]
        fresh = int((kept < new).sum())  # a number is given to who is new alone: float32 counts to 16 million
        numbers = [*range(self._next, self._next + fresh), *(self._faces[k - new].number for k in kept if k >= new)]
        self._next += fresh
        return whole | {"track": np.array(numbers, np.float32)}

    def remember(self, results: Sequence[FrameResult]) -> list[FrameResult]:
        """Where the faces of the frame lie, for the next one; the result, a followed face's box that of its mesh, its score its
        presence."""
        (result,) = results
        frame = self._frame
        assert frame is not None
        numbers = result.values["track"].astype(int).tolist()
        before = {f.number for f in self._faces}
        mesh = result.values[self._points][:, :, :2]
        boxes, scores, rects = (np.array(v) for v in (result.boxes_xyxy_px, result.scores, result.facerects_xywh_px))
        faces = []
        for row, number in enumerate(numbers):
            xy = np.ascontiguousarray(mesh[row].T)
            low, high = np.fmin.reduce(xy, axis=1), np.fmax.reduce(xy, axis=1)  # of the points that are known
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                continue
            if number in before:
                boxes[row], scores[row] = [*low, *high], result.values[self._presence][row]
                rects[row] = [*low, *(high - low)]
            faces.append(_Face(number, _region(np.stack([low, high, *mesh[row, _EYES]]), frame)))
        self._lost = not before <= {f.number for f in faces}
        self._faces = faces
        values = {k: v for k, v in result.values.items() if self._numbered or k != "track"}
        values |= {"boxes_xyxy_px": boxes, "scores": scores}
        return [replace(result, facerects_xywh_px=rects, values=values)]

    def state(self) -> dict[str, Any]:
        """What a later tracker goes on from, for JSON."""
        return {
            "next": self._next,
            "since": self._since,
            "lost": self._lost,
            "source": self._source,
            "size": None if self._size_hw is None else list(self._size_hw),
            "faces": [[f.number, packed(f.region)] for f in self._faces],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`. Raises ValueError (or what its parts raise) if it is none."""
        self._next, self._since, self._lost, self._source = (state[k] for k in ("next", "since", "lost", "source"))
        self._size_hw = None if state["size"] is None else tuple(state["size"])
        self._faces = [_Face(number, unpacked(region, "<f4", (4, 2))) for number, region in state["faces"]]
        whole = (self._next, self._since, *(self._size_hw or ()), *(f.number for f in self._faces))
        if not all(type(v) is int for v in whole) or type(self._lost) is not bool:
            raise ValueError("a tracker's numbers are none")
        if type(self._source) not in (int, type(None)):
            raise ValueError("a tracker's source is none")


def _region(corners_and_eyes: F32, frame: Frame) -> F32:
    """Corners [4,2], in the frame seen, of the square round a mesh: of its lowest and highest x and y and its eyes [4,2], in pixels of
    the original. (Scaled, the lowest is the lowest of what is scaled: rounding keeps the order.)"""
    height, width = frame.rgb_u8.shape[:2]
    size = np.array([width, height], np.float32)
    share = (corners_and_eyes * np.float32(frame.scale) + np.array(frame.pad_xy, np.float32)) / size
    low, high = share[:2]
    centre, extent, angle = blazeface.region(np.concatenate([low, high - low]), share[2:], size)
    return corners_of(centre * size, extent * size, angle)


def _upright(region: F32) -> tuple[F32, F32]:
    """(centre, size) of a square's corners [4,2], as if it were not turned."""
    x, y = region[0] - region[1]
    side = np.sqrt(x * x + y * y)
    return (region[0] + region[2]) / np.float32(2), np.array([side, side], np.float32)


def _around(centre: F32, size: F32) -> F32:
    """The box [4] that a region was made of, of its centre and size."""
    half = size / np.float32(2 * C.REGION_SCALE)
    return np.concatenate([centre - half, centre + half])

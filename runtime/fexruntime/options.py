"""The options of a run, checked once: what `detect`, `stream`, `run`, the command line and the benchmark all build."""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias, TypedDict

import numpy as np

from fexruntime.arrays import F32, ArrayLike
from fexruntime.contracts import detection
from fexruntime.errors import InputError
from fexruntime.identity import METHODS, SAME_PERSON

LEAST_OUTPUT_SIZE = 32
LEAST_DETECTOR_SIZE = 64
REGIONS = ("face", "frame")
FARTHEST_PX = 1e6
"""Beyond this float32 has no pixels left to tell apart."""

OutputSize = int | tuple[int, int] | None


class OptionFields(TypedDict, total=False):
    """The fields of `Options`, for the keywords of `Detector.detect` and its like."""

    batch_size: int
    output_size: OutputSize
    face_detection_threshold: float
    face_identity_threshold: float
    identity_method: str
    exif: bool
    detector_size: int | None
    columns: Iterable[str] | None
    region: str
    max_faces: int | None
    mediapipe_presence: bool
    skip_frames: int
    start: float | str | None
    end: float | str | None
    rotate: bool
    detect_every: int
    track: bool
    use_prev_landmarks: bool
    bbox_smoothing_alpha: float


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a run. NumPy's numbers serve as Python's. Raises InputError for a value that cannot be used.

    - `batch_size`: frames that are read and run together; those of one size share a run.
    - `output_size`: scale the longer side to this and pad to a square (or fit into (height, width)), as py-feat's;
      coordinates are the original's all the same.
    - `face_detection_threshold`: least score of a face; below 0.5 it has no effect, as in py-feat.
    - `face_identity_threshold`, `identity_method`: see `identity.name_identities`.
    - `exif`: turn images as their orientation tag says (py-feat does not).
    - `detector_size`: shrink the finder's input so that its longer side is at most this. Faster on large frames and
      **not exact**: boxes move by some percent of their size, faces under 16 px after shrinking are lost.
    - `columns`: names of Fex columns ("AU12") or of groups of them ("au", "pose"); what nobody asked for is not computed,
      and rows have these columns, `input` and `frame` alone. None: everything.
    - `region`: "face", the faces that are found; "frame", every frame is taken as one face that fills it (score 1), and nothing
      is looked for: for pictures that are faces cut out already, as TokenHPE's test has them.
    - `max_faces`: the best so many faces of a frame that the finder found (MediaPipe's max_num_faces: one that turns out to be
      none makes no room for another). None: all.
    - `mediapipe_presence`: of a FaceMesh bundle with refinement: MediaPipe's own refined answer, whose presence head drops
      many true faces, instead of the plain mesh with refined lips, eyes and irises.

    Of videos, and of frames that follow each other:

    - `skip_frames`: read frames 0, N, 2·N, … (py-feat's word for it).
    - `start`, `end`: read frames shown from `start` to before `end`: seconds, or "minutes:seconds", "h:m:s".
    - `rotate`: turn a video's frames as its file says, as py-feat's decoder does (False: as they are stored).
    - `detect_every`: look for faces in every Nth frame that is read; in between they are followed (see `track`). Faster
      and **not parity**: 1 is.
    - `track`: number faces that are one from frame to frame, as the value and column "track"; each track's embedding is
      computed once. **Not parity** either; implied by `detect_every`.
    - `use_prev_landmarks`: of FaceMesh's pipelines, MediaPipe's name for `static_image_mode=False`: a face is read where the last
      frame's mesh of it lay, and faces are looked for only while fewer than `max_faces` are known (without `max_faces` in every
      frame, or as `detect_every` says). Faster, and MediaPipe's video mode; every frame by itself, the default, is its static one.
      A followed face's box is that of its mesh, its score its presence; new faces come first, then those that are followed.
    - `bbox_smoothing_alpha`: py-feat's attribute of that name: boxes become alpha of themselves and the rest of those
      of the frame before, if they are near; 0 for none. Not with `use_prev_landmarks`.
    """

    batch_size: int = 1
    output_size: OutputSize = None
    face_detection_threshold: float = detection.FINAL_SCORE
    face_identity_threshold: float = SAME_PERSON
    identity_method: str = METHODS[0]
    exif: bool = False
    detector_size: int | None = None
    columns: Iterable[str] | None = field(default=None)
    region: str = REGIONS[0]
    max_faces: int | None = None
    mediapipe_presence: bool = False
    skip_frames: int = 1
    start: float | str | None = None
    end: float | str | None = None
    rotate: bool = True
    detect_every: int = 1
    track: bool = False
    use_prev_landmarks: bool = False
    bbox_smoothing_alpha: float = 0.0

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "batch_size": _whole("batch_size", self.batch_size, 1),
            "output_size": _output_size(self.output_size),
            "face_detection_threshold": _number("face_detection_threshold", self.face_detection_threshold, 0.0, 1.0),
            "face_identity_threshold": _number("face_identity_threshold", self.face_identity_threshold, -1.0, 1.0),
            "exif": bool(self.exif),
            "columns": _names(self.columns),
            "skip_frames": _whole("skip_frames", self.skip_frames, 1),
            "rotate": bool(self.rotate),
            "detect_every": _whole("detect_every", self.detect_every, 1),
            "track": bool(self.track) or self.detect_every > 1,
            "use_prev_landmarks": bool(self.use_prev_landmarks),
            "bbox_smoothing_alpha": _number("bbox_smoothing_alpha", self.bbox_smoothing_alpha, 0.0, 1.0),
        }
        if self.max_faces is not None:
            checked["max_faces"] = _whole("max_faces", self.max_faces, 1)
        checked["mediapipe_presence"] = bool(self.mediapipe_presence)
        if self.detector_size is not None:
            checked["detector_size"] = _whole("detector_size", self.detector_size, LEAST_DETECTOR_SIZE)
        if self.identity_method not in METHODS:
            raise InputError(f"no identity method {self.identity_method!r}: use {', '.join(METHODS)}")
        if self.region not in REGIONS:
            raise InputError(f"no region {self.region!r}: use {', '.join(REGIONS)}")
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.use_prev_landmarks and self.region == "frame":
            raise InputError("region='frame' and use_prev_landmarks exclude each other: give one of them")
        if self.use_prev_landmarks and self.bbox_smoothing_alpha:
            raise InputError(
                "bbox_smoothing_alpha and use_prev_landmarks exclude each other: the box of a followed face is that of its mesh"
            )
        start, end = self.start_s, self.end_s
        if end is not None and end <= (start or 0.0):
            raise InputError(f"end must be later than start: {self.end!r} is not later than {self.start or 0!r}")

    @property
    def start_s(self) -> float | None:
        """`start` in seconds."""
        return _seconds("start", self.start)

    @property
    def end_s(self) -> float | None:
        """`end` in seconds."""
        return _seconds("end", self.end)


_PYFEATS = {
    "data_type": "what an input is is seen from it",
    "num_workers": "files are read ahead of need by a thread",
    "progress_bar": "`stream` gives each frame as it is done",
    "save": "`record` writes rows as they come",
}
"""Arguments of py-feat's `detect` that have no counterpart, and what is so instead."""


def options_of(given: OptionFields) -> Options:
    """Options from keywords; InputError names one that is not there."""
    known = [f.name for f in fields(Options)]
    for name in given:
        if name not in known:
            if name in _PYFEATS:
                raise InputError(f"no option {name!r}, which is py-feat's: {_PYFEATS[name]}; leave it out")
            raise InputError(f"no option {name!r}: there are {', '.join(known)}")
    return Options(**given)


def _whole(name: str, value: Any, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, (bool, np.bool_)) or number < least:
        raise InputError(f"{name} must be a whole number of {least} or more, not {value!r}")
    return number


def _number(name: str, value: Any, least: float, most: float) -> float:
    number = math.nan
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        number = float(value)
    if not least <= number <= most:  # not true of NaN either
        raise InputError(f"{name} must be a number in {least:g}..{most:g}, not {value!r}")
    return number


def _seconds(name: str, value: Any) -> float | None:
    if value is None:
        return None
    seconds = math.nan
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            *larger, last = value.strip().split(":")
            parts = [float(int(p)) for p in larger] + [float(last)]
            if len(parts) <= 3 and all(p >= 0 for p in parts):
                seconds = sum(p * 60**k for k, p in enumerate(reversed(parts)))
    elif isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        seconds = float(value)
    if not 0 <= seconds < math.inf:
        raise InputError(f"{name} must be seconds, or a time such as 1:30 or 0:01:30.5, not {value!r}")
    return seconds


def _output_size(value: Any) -> OutputSize:
    if value is None:
        return None
    sides = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    try:
        numbers = [_whole("output_size", side, LEAST_OUTPUT_SIZE) for side in sides]
    except InputError:
        numbers = []
    if len(numbers) not in (1, 2) or (len(numbers) == 1 and isinstance(value, (tuple, list))):
        raise InputError(
            f"output_size must be a whole number (or two: height, width) of {LEAST_OUTPUT_SIZE} or more, not {value!r}"
        )
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


def _names(columns: Any) -> tuple[str, ...] | None:
    if columns is None:
        return None
    names = [n.strip() for n in columns.split(",")] if isinstance(columns, str) else list(columns)
    if not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"columns must be names of columns or of groups of them, not {columns!r}")
    return tuple(names)


Boxes: TypeAlias = "ArrayLike | Sequence[ArrayLike | Sequence[Sequence[float]]]"
"""The caller's own faces: an array [N,4] (x1, y1, x2, y2) for one frame, or a list with an array, or its rows, for each frame."""


class GivenBoxes:
    """The caller's own boxes: `boxes` is [N,4] (x1, y1, x2, y2) for one frame, or a list with one such array a frame.

    Raises InputError for another shape, for numbers that are not finite, and if frames and boxes differ in number.
    """

    def __init__(self, boxes: Any) -> None:
        if isinstance(boxes, np.ndarray) and boxes.ndim <= 2:
            boxes = [boxes]
        try:
            self._frames = [checked_boxes(b) for b in boxes]
        except TypeError:
            raise InputError(f"boxes must be an array [N,4], or a list of one for each frame, not {boxes!r}") from None

    def of(self, index: int) -> F32:
        """Boxes [N,4] of the frame with this running number."""
        if index >= len(self._frames):
            raise InputError(f"{self._given()}, but there are more frames")
        return self._frames[index]

    def check_number(self, inputs: int) -> None:
        """Check that there were as many inputs, bad ones included, as boxes."""
        if inputs != len(self._frames):
            raise InputError(f"{self._given()}, but there are {inputs}")

    def _given(self) -> str:
        return (
            f"boxes were given for {len(self._frames)} frames (a list has one array [N,4] a frame; "
            "give the boxes of a single frame as an array)"
        )


def checked_boxes(boxes: Any) -> F32:
    """Boxes of one frame as [N,4] float32; InputError for what cannot be boxes."""
    try:
        array = np.asarray(boxes, np.float32)
    except (TypeError, ValueError):
        raise InputError(f"boxes must be numbers x1, y1, x2, y2, not {boxes!r}") from None
    if array.size == 0:
        return np.empty((0, 4), np.float32)
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or array.shape[1] != 4:
        raise InputError(f"boxes of a frame must be [N,4] (x1, y1, x2, y2), not of shape {array.shape}")
    if not (np.abs(array) <= FARTHEST_PX).all():
        raise InputError(
            f"boxes must be finite numbers within {FARTHEST_PX:.0e} px; leave out faces that are not there"
        )
    if (array[:, 2:] < array[:, :2]).any():
        raise InputError(f"boxes are corners x1, y1, x2, y2 with x2 >= x1 and y2 >= y1, not {array.tolist()}")
    return array

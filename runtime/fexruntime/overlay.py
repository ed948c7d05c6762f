"""Results drawn on the picture, for a person to look at: boxes, points, pose axes, gaze, words, and what is not real.

Colours are RGB. With stand-in weights in the bundle a strip above the picture says so.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fexruntime.arrays import U8
from fexruntime.contracts import VALUES
from fexruntime.errors import OutputError
from fexruntime.face_geometry import canonical_face
from fexruntime.files import check_ours, is_ours, replacing
from fexruntime.results import FrameResult

BOX, POINTS, MESH, BANNER = (60, 220, 90), (255, 210, 60), (90, 170, 255), (200, 30, 30)
GAZE, WORDS = (255, 110, 220), (255, 255, 255)
SHOWN_AUS = 4
"""At most so many action units are written beside a face: the strongest, of 0.5 and more."""
LEAST_SIDE = 480
READABLE_FACE, READABLE_MESH = 96, 240
"""Side of a face, in pixels, beside which words are not larger than it; and on which a mesh is more than a veil."""
MOST_SIDE = 2000
"""A picture is not enlarged beyond this for the sake of its faces."""
MARK = b"fexport overlay"
"""What every picture and video that is drawn here has in it."""
_EYES = (slice(36, 42), slice(42, 48))
IRIS = (255, 120, 40)
AXES = ((230, 60, 60), (60, 200, 60), (70, 110, 255))
"""Subject's left, up, and forward (out of the face)."""


def draw(
    frame_rgb_u8: U8,
    result: FrameResult,
    stand_ins: Sequence[str] = (),
    pitch_up: float = 1.0,
    labels: Mapping[str, Sequence[str]] | None = None,
    magnify: bool = False,
) -> U8:
    """A copy of the frame [H,W,3] with its faces drawn on it: box, number and score, points, axes, words.

    Lines and words go by the size of the face. A picture of less than `LEAST_SIDE` px is enlarged, a whole number of times;
    with stand-ins a strip is added above it.

    `stand_ins` names networks without real weights; `pitch_up` is the pipeline row's: 1 where a positive Pitch looks up;
    `labels` are the columns of "au" and "emotion" (`Pipeline.labels`), without which these are not written. `magnify`: enlarge a
    picture of small faces, too, until they can be read, to `MOST_SIDE` px at most; pictures of a video have to be of one size.
    """
    import cv2

    image: Any = frame_rgb_u8.copy()
    factor = math.ceil(LEAST_SIDE / max(image.shape[:2]))
    if magnify:
        factor = max(factor, _magnification(result, max(image.shape[:2])))
    if factor > 1:
        image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        result = _enlarged(result, factor)
    for i in range(len(result)):
        x1, y1, x2, y2 = (round(float(v)) for v in result.boxes_xyxy_px[i])
        side = math.sqrt(max((x2 - x1) * (y2 - y1), 1))
        thick = max(1, round(side / 120), round(max(image.shape[:2]) / 1200))
        # as large as the picture asks for, but a line of words is no more than a little wider than the face
        scale = max(0.45, min(max(0.45 * max(image.shape[:2]) / 900, min(side / 350, 3.0)), side / 170))
        cv2.rectangle(image, (x1, y1), (x2, y2), BOX, thick)
        _text(image, f"{i}: {result.scores[i]:.2f}", (x1, max(y1 - 4 - thick, round(24 * scale))), BOX, scale)
        if result.mesh_xyz is not None:
            _dots(image, result.mesh_xyz[i, :, :2], MESH, max(1, round(side / 300)))
        if result.mesh_xyz_px is not None:
            _triangles(image, result.mesh_xyz_px[i, :, :2], max(1, round(side / 600)), min(0.6, side / 600))
        elif result.landmarks_xy_px is not None:
            _dots(image, result.landmarks_xy_px[i], POINTS, max(1, round(side / 150)))
        elif result.points_xy_px is not None:
            _dots(image, result.points_xy_px[i], POINTS, max(1, round(side / 60)))
        if result.pose is not None:
            left, top, width, height = (float(v) for v in result.facerects_xywh_px[i])
            centre = (left + width / 2, top + height / 2)
            pitch, roll, yaw = (float(v) for v in result.pose[i, :3])
            _axes(image, centre, 0.35 * max(width, height), pose_axes(pitch_up * pitch, roll, yaw), thick + 1)
        if result.gaze_rad is not None:
            _gaze_arrows(image, result, i, pitch_up, thick + 1)
        for k, line in enumerate(words_of(result, i, labels or {})):
            _text(image, line, (x1, y2 + round(31 * scale * (k + 1))), WORDS, scale)
    if stand_ins:
        image = _banner(image, f"STAND-IN WEIGHTS, numbers mean nothing: {', '.join(stand_ins)}")
    return np.asarray(image, np.uint8)


def _magnification(result: FrameResult, longer: int) -> int:
    """How many times a picture of that longer side has to be enlarged for half its faces to be readable."""
    boxes = np.asarray(result.boxes_xyxy_px, np.float64).reshape(-1, 4)
    sides = np.sqrt(np.clip((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), 1, None))
    if not len(sides) or not np.isfinite(sides).all():
        return 1
    wanted = READABLE_FACE if result.mesh_xyz_px is None and result.mesh_xyz is None else READABLE_MESH
    return min(math.ceil(wanted / float(np.median(sides))), max(1, MOST_SIDE // longer))


def _enlarged(result: FrameResult, factor: int) -> FrameResult:
    """A result of the picture made `factor` times as large."""
    pixels = {"boxes_xyxy_px", *(name for name, value in VALUES.items() if value.points)}
    values = {k: np.asarray(v * factor, np.float32) if k in pixels else v for k, v in result.values.items()}
    return replace(result, facerects_xywh_px=result.facerects_xywh_px * np.float32(factor), values=values)


def words_of(result: FrameResult, face: int, labels: Mapping[str, Sequence[str]]) -> list[str]:
    """What is written below a face: its likeliest emotion, then its strongest action units."""
    lines = []
    if result.emotion is not None and "emotion" in labels:
        best = int(np.argmax(result.emotion[face]))
        lines.append(f"{labels['emotion'][best]} {result.emotion[face, best]:.2f}")
    if result.au is not None and "au" in labels:
        order = [int(k) for k in np.argsort(-result.au[face], kind="stable") if result.au[face, k] >= 0.5]
        # a line each: the outline of a long line drifts from its letters in OpenCV 5
        lines += [f"{labels['au'][k]} {result.au[face, k]:.2f}" for k in order[:SHOWN_AUS]]
    return lines


def gaze_direction(pitch: float, yaw: float) -> tuple[float, float]:
    """Image direction (x right, y down) of a gaze in radians: +pitch looks up, +yaw to the picture's right."""
    return math.sin(yaw) * math.cos(pitch), -math.sin(pitch)


def _gaze_arrows(image: U8, result: FrameResult, face: int, pitch_up: float, thick: int) -> None:
    """From both eyes, as long as the face is wide where it looks sideways."""
    import cv2

    assert result.gaze_rad is not None
    pitch, yaw = (float(v) for v in result.gaze_rad[face, :2])
    _, _, width, height = (float(v) for v in result.facerects_xywh_px[face])
    if result.landmarks_xy_px is not None:
        eyes = [result.landmarks_xy_px[face, part].mean(axis=0) for part in _EYES]
    elif result.points_xy_px is not None and np.isfinite(result.points_xy_px[face, :2]).all():
        eyes = list(result.points_xy_px[face, :2])
    else:
        eyes = [result.boxes_xyxy_px[face].reshape(2, 2).mean(axis=0)]
    across, down = gaze_direction(pitch_up * pitch, yaw)
    if not math.isfinite(across + down + width + height):
        return
    for x, y in eyes:
        start = (round(float(x)), round(float(y)))
        end = (round(float(x) + across * min(width, height)), round(float(y) + down * min(width, height)))
        cv2.arrowedLine(image, start, end, GAZE, thick, cv2.LINE_AA, tipLength=0.25)


def _triangles(image: U8, mesh_xy: NDArray[Any], thick: int, opaque: float) -> None:
    """MediaPipe's mesh as thin lines through which the face is seen (`opaque` in 0..1), and a circle for each iris that is known (its
    centre, then four points round it)."""
    import cv2

    known = mesh_xy[: len(canonical_face().vertices_cm)]
    if np.isfinite(known).all():
        corners = np.rint(known * 8).astype(np.int32)[canonical_face().triangles]
        over: Any = image.copy()
        cv2.polylines(over, list(corners), True, MESH, thick, cv2.LINE_AA, shift=3)
        cv2.addWeighted(over, opaque, image, 1 - opaque, 0, dst=image)
    for iris in mesh_xy[len(known) :].reshape(-1, 5, 2):
        if np.isfinite(iris).all():
            radius = float(np.linalg.norm(iris[1:] - iris[0], axis=1).mean())
            centre = (round(float(iris[0, 0]) * 8), round(float(iris[0, 1]) * 8))
            cv2.circle(image, centre, max(round(radius * 8), 8), IRIS, 2 * thick, cv2.LINE_AA, shift=3)


def pose_axes(pitch: float, roll: float, yaw: float) -> NDArray[np.float64]:
    """Image directions [3,2] (x right, y down) of the subject's left, up and forward, for Fex angles in radians.

    Fex: +pitch looks up, +yaw turns and +roll tilts to the subject's right, which is the picture's left.
    """
    cp, sp, cy, sy, cr, sr = (f(a) for a in (pitch, yaw, roll) for f in (math.cos, math.sin))
    turn = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    nod = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    tilt = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
    # columns: left (picture's right), up (picture's -y), forward (towards the camera)
    axes = turn @ nod @ tilt @ np.array([[1, 0, 0], [0, -1, 0], [0, 0, 1]])
    return np.asarray(axes.T[:, :2])


def write_png(image_rgb_u8: U8, path: Path) -> None:
    """Write an image as PNG, whole or not at all, with a mark that it is a drawing of ours (see `is_drawing`). OutputError where another file is."""
    import cv2

    done, encoded = cv2.imencode(".png", cv2.cvtColor(image_rgb_u8, cv2.COLOR_RGB2BGR))
    if not done:
        raise OutputError(f"OpenCV could not encode {str(path)!r}")
    data = encoded.tobytes()
    head = 8 + 25  # signature and IHDR, behind which other chunks may stand
    check_ours(path, _CHUNK)
    with replacing(path) as temporary:
        temporary.write_bytes(data[:head] + _CHUNK + data[head:])


def is_drawing(path: Path) -> bool:
    """Whether a file is a PNG or a video that fexport drew (or an empty one): such a one may be replaced."""
    return path.is_file() and is_ours(path, MARK)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


_CHUNK = _chunk(b"tEXt", b"Software\0" + MARK)


def _dots(image: U8, points_xy: NDArray[Any], colour: tuple[int, int, int], radius: int) -> None:
    import cv2

    for x, y in points_xy[np.isfinite(points_xy).all(axis=1)]:
        cv2.circle(image, (round(float(x)), round(float(y))), radius, colour, -1, cv2.LINE_AA)


def _axes(image: U8, centre: tuple[float, float], length: float, axes: NDArray[Any], thick: int) -> None:
    import cv2

    start = (round(centre[0]), round(centre[1]))
    for direction, colour in zip(axes, AXES, strict=True):
        end = (round(centre[0] + length * direction[0]), round(centre[1] + length * direction[1]))
        cv2.line(image, start, end, colour, thick, cv2.LINE_AA)


def _text(image: U8, text: str, at: tuple[int, int], colour: tuple[int, int, int], scale: float) -> None:
    import cv2

    thick = max(1, round(1.5 * scale))
    # a filled ground, not an outline: a thick stroke of a long line drifts from its letters in OpenCV 5
    (across, down), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
    at = (max(min(at[0], image.shape[1] - across - 2), 2), min(at[1], image.shape[0] - below - 2))
    left, top, right, bottom = at[0] - 2, max(at[1] - down - 2, 0), at[0] + across + 2, at[1] + below
    ground = image[top:bottom, max(left, 0) : right]
    ground[:] = ground // 3
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thick, cv2.LINE_AA)


def _banner(image: U8, text: str) -> U8:
    """The picture with a strip above it that says something, in as many lines as it needs."""
    import cv2

    width = image.shape[1]
    scale = max(0.45, 0.5 * width / 800)
    thick = max(1, round(1.5 * scale))
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and cv2.getTextSize(longer, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)[0][0] > width - 12:
            lines.append(word)
        else:
            lines[-1] = longer
    step = round(36 * scale)
    strip = np.empty((step * len(lines) + 8, width, 3), np.uint8)
    strip[:] = BANNER
    for k, line in enumerate(lines):
        at = (6, round(step * (k + 0.8)))
        cv2.putText(strip, line, at, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), thick, cv2.LINE_AA)
    return np.concatenate([strip, image])

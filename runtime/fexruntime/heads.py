"""Raw outputs of the face networks -> named values, in pixels of the frame that the detector saw.

Mirrors `Detectorv2.forward` and `Detectorv1.forward`. Axis signs come from the contract row. Points become pixels of
the original frame once, at the end of the walk (`faces`): (p - pad) / scale, in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fexruntime import facemesh, hog
from fexruntime.arrays import F32, Values
from fexruntime.contracts import AxisMap, Crop, Stage
from fexruntime.contracts.labels import DLIB68_FROM_MESH, LANDMARKS, MESH_POINTS, POSE
from fexruntime.crop import to_frame
from fexruntime.decoding import Decoder, Faces
from fexruntime.options import Options
from fexruntime.rotations import euler

_DLIB68 = np.array(DLIB68_FROM_MESH)


def to_original(points_xy: F32, pad_xy: tuple[int, int], scale: float) -> F32:
    """Pixels [..., 2] of the frame the detector saw -> pixels of the original."""
    original: F32 = (points_xy - np.array(pad_xy, np.float32)) / np.float32(scale)
    return original


def facerects(region_xyxy_px: F32, pad_xy: tuple[int, int], scale: float) -> F32:
    """Regions [N,4] as corners, seen frame -> FaceRect [N,4] (left, top, width, height), original frame."""
    corner = to_original(region_xyxy_px[:, :2], pad_xy, scale)
    extent = (region_xyxy_px[:, 2:] - region_xyxy_px[:, :2]) / np.float32(scale)
    return np.concatenate([corner, extent], axis=1)


def mapped(raw: F32, axes: AxisMap) -> F32:
    """Columns of `raw` [N,K] picked and signed as the contract says."""
    chosen: F32 = raw[:, list(axes.index)] * np.array(axes.sign, np.float32)
    return chosen


def _multitask(raw: Values, faces: Faces, stage: Stage, crop: Crop | None) -> dict[str, F32]:
    """Detectorv2's multitask network."""
    assert crop is not None
    mesh = raw["mesh"].reshape(-1, MESH_POINTS, 3)
    xy = to_frame(mesh[:, :, :2], faces.regions(crop).decode_xyxy_px)
    axes = {a.value: a for a in stage.axes}
    values = {
        "landmarks_xy_px": xy[:, _DLIB68],
        "pose": mapped(raw["pose"], axes["pose"]),
        "gaze_rad": _with_angle(mapped(raw["gaze"], axes["gaze_rad"])),
        "mesh_xyz": np.concatenate([xy, mesh[:, :, 2:]], axis=2),
    }
    return values | {name: raw[name] for name in stage.gives if name in raw and name not in values}


def _landmarks_68(raw: Values, faces: Faces, stage: Stage, crop: Crop | None) -> dict[str, F32]:
    """dlib's landmarks from 136 crop fractions (x0, y0, x1, …)."""
    assert crop is not None
    (fractions,) = raw.values()
    points = fractions.reshape(-1, LANDMARKS, 2)
    # in the frame, and as they are
    return dict(zip(stage.gives, (to_frame(points, faces.regions(crop).decode_xyxy_px), points), strict=False))


def _hog(raw: Values, faces: Faces, stage: Stage, crop: Crop | None) -> dict[str, F32]:
    """Histograms of oriented gradients of a crop, aligned by the landmarks in it."""
    return dict(zip(stage.gives, hog.features(*raw.values()), strict=True))


def _gaze(raw: Values, faces: Faces, stage: Stage, crop: Crop | None) -> dict[str, F32]:
    """Pitch and yaw, and the angle that they make."""
    (axes,), (value,) = stage.axes, raw.values()
    return {axes.value: _with_angle(mapped(value, axes))}


def _axes(raw: Values, faces: Faces, stage: Stage, crop: Crop | None) -> dict[str, F32]:
    """Outputs whose columns the contract picks and signs."""
    return {a.value: mapped(value, a) for a, value in zip(stage.axes, raw.values(), strict=True)}


def _as_is(raw: Values, faces: Faces, stage: Stage, crop: Crop | None) -> dict[str, F32]:
    """Outputs that are the stage's values, in its order."""
    return dict(zip(stage.gives, raw.values(), strict=True))


def _rotation(raw: Values, faces: Faces, stage: Stage, crop: Crop | None) -> dict[str, F32]:
    """Rotation matrices: their Euler angles as a pose without a place, and the matrices as they are."""
    pose, *matrices = stage.gives
    angles = mapped(euler(next(iter(raw.values()))).astype(np.float32), stage.axes[0])
    place = np.full((len(angles), len(POSE) - angles.shape[1]), np.nan, np.float32)
    return {pose: np.concatenate([angles, place], axis=1), **dict(zip(matrices, raw.values(), strict=True))}


def _thirds(raw: Values, faces: Faces, stage: Stage, crop: Crop | None) -> dict[str, F32]:
    """One output whose columns are the stage's values, one after another, of equal width."""
    (whole,) = raw.values()
    return dict(zip(stage.gives, np.split(whole, len(stage.gives), axis=1), strict=True))


def _signed(raw: Values, faces: Faces, stage: Stage, crop: Crop | None) -> dict[str, F32]:
    """Angles [N,1] that came from several networks, as a pose without a place."""
    (axes,) = stage.axes
    angles = mapped(np.concatenate(list(raw.values()), axis=1), axes)
    place = np.full((len(angles), len(POSE) - angles.shape[1]), np.nan, np.float32)
    return {axes.value: np.concatenate([angles, place], axis=1)}


def _with_angle(pitch_yaw: F32) -> F32:
    """Append the angle from straight ahead: arccos(cos(pitch)·cos(yaw))."""
    cosine = np.clip(np.cos(pitch_yaw[:, 0]) * np.cos(pitch_yaw[:, 1]), -1.0, 1.0)
    return np.concatenate([pitch_yaw, np.arccos(cosine)[:, None]], axis=1)


DECODERS: dict[str, Decoder] = {
    "multitask": _multitask,
    "landmarks-68": _landmarks_68,
    "hog": _hog,
    "gaze": _gaze,
    "axes": _axes,
    "as-is": _as_is,
    "rotation": _rotation,
    "thirds": _thirds,
    "signed": _signed,
    **facemesh.DECODERS,
}
REPLACES: dict[str, Callable[[Options], bool]] = {**facemesh.REPLACES}
"""By decoder: under which options it takes nothing of the values of the same names that came before it. What gave those
alone is not run then."""

"""Raw outputs of the face networks -> named values in the original frame's coordinates.

Mirrors `Detectorv2.forward` and `Detectorv1.forward`. Axis signs come from the contract row. Chip fractions become
pixels of the frame the detector saw, then of the original: (p - pad) / scale, in float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fexruntime.contracts import AxisMap, Pipeline
from fexruntime.contracts.labels import DLIB68_FROM_MESH, MESH_POINTS
from fexruntime.crop import to_frame

F32 = NDArray[np.float32]
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


def from_multitask(
    outputs: Mapping[str, F32], pipeline: Pipeline, region: F32, pad_xy: tuple[int, int], scale: float
) -> dict[str, F32]:
    """Values of Detectorv2's multitask network, keyed as in FrameResult."""
    mesh = outputs["mesh"].reshape(-1, MESH_POINTS, 3)
    xy = to_original(to_frame(mesh[:, :, :2], region), pad_xy, scale)
    mesh_xyz = np.concatenate([xy, mesh[:, :, 2:]], axis=2)
    assert pipeline.pose is not None
    assert pipeline.gaze is not None
    values = {
        "landmarks_xy_px": xy[:, _DLIB68],
        "pose": mapped(outputs["pose"], pipeline.pose),
        "au": outputs["au"].copy(),
        "emotion": outputs["emotion"].copy(),
        "valence_arousal": outputs["valence_arousal"].copy(),
        "gaze_rad": _with_angle(mapped(outputs["gaze"], pipeline.gaze)),
        "mesh_xyz": mesh_xyz,
    }
    if "blendshapes" in outputs:
        values["blendshapes"] = outputs["blendshapes"].copy()
    return values


def from_landmarks(
    outputs: Mapping[str, F32], pipeline: Pipeline, region: F32, pad_xy: tuple[int, int], scale: float
) -> dict[str, F32]:
    """Values of Detectorv1's landmark and pose networks, keyed as in FrameResult."""
    assert pipeline.pose is not None
    points = landmarks_in_frame(outputs["landmarks"], region)
    return {
        "landmarks_xy_px": to_original(points, pad_xy, scale),
        "pose": mapped(outputs["pose"], pipeline.pose),
    }


def landmarks_in_frame(raw: F32, region: F32) -> F32:
    """Detectorv1's 136 crop fractions (x0, y0, x1, …) -> [N,68,2] pixels of the frame the detector saw."""
    return to_frame(raw.reshape(-1, 68, 2), region)


def _with_angle(pitch_yaw: F32) -> F32:
    """Append the angle from straight ahead: arccos(cos(pitch)·cos(yaw))."""
    cosine = np.clip(np.cos(pitch_yaw[:, 0]) * np.cos(pitch_yaw[:, 1]), -1.0, 1.0)
    return np.concatenate([pitch_yaw, np.arccos(cosine)[:, None]], axis=1)

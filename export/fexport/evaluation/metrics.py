"""The errors of head pose that papers quote, in degrees, as the scripts that made those numbers compute them.

- `scores`: `test.py` of TokenHPE and 6DRepNet, in the float32 that they run in. MAE forgives a turn of 180 degrees of an
  axis; VMAE is the angle between the **rows** of the matrices (the head's left, down and front in the picture).
- `nlml`: NLML_HPE_Test.py: labels within its range alone, angles rounded to three digits, nothing forgiven.
- `geodesic_deg` and `strict_deg` are not theirs: the angle of the rotation between the two, and each axis' error round the circle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fexruntime.arrays import F32, F64
from fexruntime.rotations import euler, from_euler

NLML_RANGE_DEG = ((-40.0, 41.0), (-50.0, 51.0), (-30.0, 31.0))
"""Pitch, yaw, roll, both ends included (config_EncoderTrainer.yaml)."""
_DEG = 180 / np.pi


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors of each sample in degrees, of which `scores` are means."""

    axes: F32
    """[N,3] pitch, yaw, roll."""
    vectors: F32
    """[N,3] left, down, front."""
    geodesic: F64
    """[N]"""
    strict: F64
    """[N,3] pitch, yaw, roll round the circle, with nothing forgiven."""


def errors(labels_rad: F64, rotation: NDArray[np.floating], swapped_labels: bool = False) -> Errors:
    """Errors of rotations [N,3,3] against labels [N,3] (pitch, yaw, roll in radians, the data sets' signs).

    `swapped_labels` repeats the mistake of TokenHPE's BIWI test: it reads yaw where its labels have pitch, and the other way
    round. Vector and geodesic errors do not see it.
    """
    truth64 = from_euler(labels_rad)
    truth, found = truth64.astype(np.float32), np.asarray(rotation, np.float32)
    label = (
        labels_rad.astype(np.float32)[:, [1, 0, 2] if swapped_labels else [0, 1, 2]]
        * np.float32(180)
        / np.float32(np.pi)
    )
    angle = euler(found) * np.float32(180) / np.float32(np.pi)
    gaps = np.abs(angle[None] + np.array([0, 360, -360, 180, -180], np.float32)[:, None, None] - label[None])
    cosine = (truth * found).sum(axis=2, dtype=np.float32)
    vectors = np.arccos(np.clip(cosine, -1, 1)) * np.float32(180) / np.float32(np.pi)
    trace = np.einsum("nij,nij->n", truth64, np.asarray(rotation, np.float64))
    plain = np.rad2deg(labels_rad) - angle.astype(np.float64)
    return Errors(
        gaps.min(axis=0),
        vectors,
        np.arccos(np.clip((trace - 1) / 2, -1, 1)) * _DEG,
        np.abs((plain + 180) % 360 - 180),
    )


def scores(found: Errors) -> dict[str, float]:
    """Means over the samples: yaw, pitch, roll and mae; vec1 … vec3 and vmae; geodesic."""
    pitch, yaw, roll = (float(v) for v in found.axes.mean(axis=0, dtype=np.float64))
    left, down, front = (float(v) for v in found.vectors.mean(axis=0, dtype=np.float64))
    return {
        "n": len(found.geodesic),
        "yaw": yaw,
        "pitch": pitch,
        "roll": roll,
        "mae": (yaw + pitch + roll) / 3,
        "vec1": left,
        "vec2": down,
        "vec3": front,
        "vmae": (left + down + front) / 3,
        "geodesic": float(found.geodesic.mean()),
    }


def strict(found: Errors) -> dict[str, float]:
    """Means of the axes' errors round the circle, with nothing forgiven."""
    pitch, yaw, roll = (float(v) for v in found.strict.mean(axis=0))
    return {"yaw": yaw, "pitch": pitch, "roll": roll, "mae": (yaw + pitch + roll) / 3}


def in_nlml_range(labels_rad: F64) -> NDArray[np.bool_]:
    """Which labels [N,3] NLML_HPE was trained for, and scores."""
    low, high = np.array(NLML_RANGE_DEG).T
    degrees = np.rad2deg(labels_rad).round(9)  # a label of 51 degrees is one, whatever its radians round to
    return np.asarray(((degrees >= low) & (degrees <= high)).all(axis=1))


def nlml(labels_rad: F64, rotation: NDArray[np.floating]) -> dict[str, float] | None:
    """NLML_HPE's means and deviations over the samples in its range; None if there are none."""
    kept = in_nlml_range(labels_rad)
    if not kept.any():
        return None
    labels = np.rad2deg(labels_rad[kept])
    angles = np.round(np.rad2deg(euler(np.asarray(rotation)[kept]).astype(np.float64)), 3)
    gap = np.abs(labels - angles)
    cosine = np.einsum("nij,nij->ni", from_euler(labels_rad[kept]), from_euler(np.deg2rad(angles)))
    vectors = np.arccos(np.clip(cosine, -1, 1)).mean(axis=0) * _DEG
    pitch, yaw, roll = (float(v) for v in gap.mean(axis=0))
    deviations = gap.std(axis=0, ddof=1) if len(gap) > 1 else np.full(3, np.nan)
    return {
        "n": int(kept.sum()),
        "yaw": yaw,
        "pitch": pitch,
        "roll": roll,
        "mae": (yaw + pitch + roll) / 3,
        **{f"std_{a}": float(deviations[k]) for a, k in (("yaw", 1), ("pitch", 0), ("roll", 2))},
        **dict(zip(("left", "down", "front"), map(float, vectors), strict=True)),
        "maev": float(vectors.mean()),
    }

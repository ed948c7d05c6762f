"""Head pose from 68 landmarks with NumPy alone, for services that have landmarks already.

Mirrors `feat/utils/face_pose_mlp.py`; the weights are those of a Detectorv1 bundle's pose network.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fexruntime.backends.numpy import NumpyBackend
from fexruntime.bundle import MANIFEST, open_bundle
from fexruntime.contracts import Pipeline
from fexruntime.errors import BundleError, InputError
from fexruntime.heads import mapped

F32 = NDArray[np.float32]
BUNDLE_VARIABLE = "FEXPORT_BUNDLE"


def pose_from_landmarks(landmarks_xy: F32, bundle: str | Path | None = None) -> F32:
    """Pose [N,6] (Pitch, Roll, Yaw in radians; X, Y, Z) from dlib landmarks [N,68,2] or [68,2] in pixels.

    Signs are Fex's: +pitch up, +yaw and +roll to the subject's right. Rows with a landmark that is not finite are NaN.
    `bundle` is a bundle with a pose network (`fexport build OUT --pipeline detectorv1`); None means the one that the
    environment variable FEXPORT_BUNDLE names. Raises BundleError without one, InputError for another shape.
    """
    try:
        points = np.asarray(landmarks_xy, np.float32)
    except (TypeError, ValueError):
        raise InputError("landmarks must be numbers [N,68,2] (x, y)") from None
    if points.ndim == 2:
        points = points[None]
    if points.ndim != 3 or points.shape[1:] != (68, 2):
        raise InputError(f"landmarks must be [N,68,2] (x, y), not of shape {points.shape}")
    folder = bundle if bundle is not None else os.environ.get(BUNDLE_VARIABLE)
    if folder is None:
        raise BundleError(
            "pose_from_landmarks needs a bundle with a pose network: give bundle=…, or name one in the environment "
            f"variable {BUNDLE_VARIABLE} (`fexport build OUT --pipeline detectorv1`)"
        )
    network, pipeline = _load(Path(folder))
    assert pipeline.pose is not None
    pose = np.full((len(points), 6), np.nan, np.float32)
    whole = np.isfinite(points).all(axis=(1, 2))
    if whole.any():
        raw = network.infer({network.spec.input_name: np.ascontiguousarray(points[whole])})["pose"]
        pose[whole] = mapped(raw, pipeline.pose)
    return pose


def _load(folder: Path) -> tuple[NumpyBackend, Pipeline]:
    try:
        changed = (folder / MANIFEST).stat().st_mtime_ns
    except OSError:
        changed = 0
    return _load_once(folder, changed)


@lru_cache(maxsize=4)
def _load_once(folder: Path, changed: int) -> tuple[NumpyBackend, Pipeline]:
    bundle = open_bundle(folder)
    if "pose" not in bundle.networks:
        raise BundleError(
            f"the bundle {str(folder)!r} has no pose network: build one with `fexport build OUT --pipeline detectorv1`"
        )
    return NumpyBackend(bundle.networks["pose"]), bundle.pipeline

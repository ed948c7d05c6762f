"""Head pose from 68 landmarks with NumPy alone, for services that have landmarks already.

Mirrors `feat/utils/face_pose_mlp.py`; the weights are those of a Detectorv1 bundle's pose network.
"""

from __future__ import annotations

import os
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fexruntime.arrays import F32
from fexruntime.backends.arrays import Arrays
from fexruntime.backends.base import Place
from fexruntime.bundle import BundleNetwork, open_bundle
from fexruntime.contracts.labels import LANDMARKS, POSE
from fexruntime.errors import BundleError, InputError, StandInWarning
from fexruntime.heads import mapped
from fexruntime.manifest import MANIFEST

BUNDLE_VARIABLE = "FEXPORT_BUNDLE"
_HOW = "`fexport build OUT --pipeline detectorv1`"


def pose_from_landmarks(landmarks_xy: Any, bundle: str | Path | None = None) -> F32:
    """Pose [N,6] (Pitch, Roll, Yaw in radians; X, Y, Z) from dlib landmarks [N,68,2] or [68,2] in pixels.

    Signs are Fex's: +pitch up, +yaw and +roll to the subject's right. Rows with a landmark that is not finite are NaN.
    `bundle` is a bundle with a pose network (`fexport build OUT --pipeline detectorv1`); None means the one that the
    environment variable FEXPORT_BUNDLE names. Raises BundleError without one, InputError for another shape. Warns
    (StandInWarning) at each call if the bundle's weights are made up.
    """
    try:
        points = np.asarray(landmarks_xy, np.float32)
    except (TypeError, ValueError):
        raise InputError("landmarks must be numbers [N,68,2] (x, y)") from None
    if points.ndim == 2:
        points = points[None]
    if points.ndim != 3 or points.shape[1:] != (LANDMARKS, 2):
        raise InputError(f"landmarks must be [N,68,2] (x, y), not of shape {points.shape}")
    folder = bundle if bundle is not None else os.environ.get(BUNDLE_VARIABLE) or None
    if folder is None:
        raise BundleError(
            "pose_from_landmarks needs a bundle with a pose network: give bundle=…, or name one in the environment "
            f"variable {BUNDLE_VARIABLE} ({_HOW})"
        )
    runner, network = _load(folder)
    if network.record.stand_in:
        warnings.warn(
            f"stand-in weights in {network.row.name}: what it answers means nothing", StandInWarning, stacklevel=2
        )
    (axes,) = network.stage.axes
    pose = np.full((len(points), len(POSE)), np.nan, np.float32)
    whole = np.isfinite(points).all(axis=(1, 2))
    if whole.any():
        (name,) = (t.name for t in runner.spec.inputs)
        (raw,) = runner.infer({name: np.ascontiguousarray(points[whole])}).values()
        pose[whole] = mapped(raw, axes)
    return pose


def _load(folder: str | Path) -> tuple[Arrays, BundleNetwork]:
    try:
        changed = (Path(folder) / MANIFEST).stat().st_mtime_ns
    except OSError:
        changed = 0
    return _load_once(folder, changed)


@lru_cache(maxsize=4)
def _load_once(folder: str | Path, changed: int) -> tuple[Arrays, BundleNetwork]:
    bundle = open_bundle(folder)
    for network in bundle.networks.values():
        if [a.value for a in network.stage.axes] == ["pose"] and network.choice.reads == ("landmarks_xy_px",):
            return Arrays(network, network.variant("fp32", Arrays.reads), Place()), network
    raise BundleError(f"the bundle {str(folder)!r} has no pose network: build one with {_HOW}")

"""Differences between two answers of a network, in the unit of the task that the contract's tolerance names."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fexruntime.contracts import Tolerance

F32 = NDArray[np.float32]
UNITS = {"degrees": "°", "pixels": "px of the crop", "relative": "of its range", "cosine": "1 - cos"}
"""How each task's unit is printed; the others have none."""


def difference(tolerance: Tolerance, expected: F32, found: F32, chip_size: int) -> NDArray[np.float64]:
    """Differences of one output, flat, in its task's unit; one for each vector with "cosine", else one a value."""
    a, b = expected.astype(np.float64), found.astype(np.float64)
    if tolerance.columns is not None:
        a, b = a[..., list(tolerance.columns)], b[..., list(tolerance.columns)]
    if not a.size:
        return np.empty(0)
    if tolerance.task == "cosine":
        dot = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
        return np.asarray(1.0 - dot).ravel()
    scale = {"degrees": 180.0 / np.pi, "pixels": float(chip_size), "relative": 1.0 / max(float(np.ptp(a)), 1e-12)}
    return np.asarray(np.abs(a - b) * scale.get(tolerance.task, 1.0)).ravel()

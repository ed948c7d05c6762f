"""Head rotations: matrices, their Euler angles, and where the head's axes lie in the picture.

The convention is that of 300W-LP, AFLW2000 and BIWI: R = Rz(roll) · Ry(yaw) · Rx(pitch), right-handed, with positive
pitch up, positive yaw to the subject's right and positive roll clockwise in the picture. Fex (py-feat's Detectorv1) counts
roll the other way. Maths: TokenHPE's and 6DRepNet's `utils.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_SINGULAR = 1e-6
"""Below this hypot(R00, R10) counts as gimbal lock: roll is taken as 0."""
ORDERS = ("xyz", "zyx")
"""How pitch (x), yaw (y) and roll (z) are put together: "xyz" is the data sets', R = Rz(roll) · Ry(yaw) · Rx(pitch); "zyx" is
img2pose's and so py-feat's, whose angles come of the head's rotation in the camera: R = Rx(pitch) · Ry(yaw) · Rz(roll)."""


def euler(rotation: NDArray[Any]) -> NDArray[Any]:
    """Rotations [N,3,3] -> [N,3] pitch, yaw, roll in radians, in the matrices' own float type (yaw within ±π/2)."""
    r = rotation
    flat = np.sqrt(r[:, 0, 0] * r[:, 0, 0] + r[:, 1, 0] * r[:, 1, 0])
    locked = flat < _SINGULAR
    pitch = np.where(locked, np.arctan2(-r[:, 1, 2], r[:, 1, 1]), np.arctan2(r[:, 2, 1], r[:, 2, 2]))
    roll = np.where(locked, np.zeros_like(flat), np.arctan2(r[:, 1, 0], r[:, 0, 0]))
    return np.stack([pitch, np.arctan2(-r[:, 2, 0], flat), roll], axis=1)


def from_euler(pitch_yaw_roll: NDArray[Any], order: str = ORDERS[0]) -> NDArray[np.float64]:
    """Angles [N,3] in radians (the data sets' signs) -> rotations [N,3,3] float64; `order` is one of `ORDERS`."""
    pitch, yaw, roll = np.asarray(pitch_yaw_roll, np.float64).T
    turns = [_about(axis, angle) for axis, angle in enumerate((pitch, yaw, roll))]
    x, y, z = turns
    return z @ y @ x if order == "xyz" else x @ y @ z


def axes_in_picture(rotation: NDArray[Any]) -> NDArray[np.float64]:
    """Directions [3,2] (x right, y down) of the subject's left, down and forward, for one rotation [3,3].

    They are the matrix's rows, which is why the vector errors of TokenHPE and 6DRepNet are taken of rows.
    """
    flip = np.array([1.0, -1.0, 1.0])
    return np.asarray((rotation * np.outer(flip, flip))[:, :2], np.float64)


def _about(axis: int, angle: NDArray[np.float64]) -> NDArray[np.float64]:
    cos, sin = np.cos(angle), np.sin(angle)
    a, b = ((1, 2), (2, 0), (0, 1))[axis]
    out = np.zeros((len(angle), 3, 3))
    out[:, axis, axis] = 1.0
    out[:, a, a], out[:, b, b] = cos, cos
    out[:, a, b], out[:, b, a] = -sin, sin
    return out

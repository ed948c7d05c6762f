"""Rotation vectors, matrices and angles, many at once, in float32.

Mirrors `feat/utils/geometry.py`, whose branches are part of what py-feat answers: near half a turn the axis is read off the
matrix's diagonal, and the matrices that img2pose makes are no exact rotations.
"""

from __future__ import annotations

import numpy as np

from fexruntime.arrays import F32

_NEAR_HALF_TURN = np.float32(np.pi - 0.05)
_NEAR_NONE = np.float32(1e-6)


def matrix_of(vector: F32) -> F32:
    """Rotation vectors [N,3] (axis times angle in radians) -> matrices [N,3,3], by Rodrigues' formula."""
    angle = np.sqrt((vector * vector).sum(axis=1))
    x, y, z = (vector / np.where(angle > 0, angle, np.float32(1))[:, None]).T
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=1).reshape(-1, 3, 3)
    sine, cosine = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    matrix: F32 = np.eye(3, dtype=np.float32) + sine * cross + (1 - cosine) * (cross @ cross)
    return matrix


def vector_of(matrix: F32) -> F32:
    """Matrices [N,3,3] -> rotation vectors [N,3]."""
    one, two = np.float32(1), np.float32(2)
    diagonal = np.diagonal(matrix, axis1=1, axis2=2)
    angle = np.arccos(np.clip((diagonal.sum(axis=1) - one) / two, -one, one))
    skew = _skew(matrix)
    sine = np.sin(angle)
    vector = skew / (two * np.where(np.abs(sine) > np.float32(1e-8), sine, one))[:, None] * angle[:, None]
    near = np.flatnonzero(angle > _NEAR_HALF_TURN)
    if len(near):
        outer = (matrix[near] + np.eye(3, dtype=np.float32)) / two
        column = np.diagonal(outer, axis1=1, axis2=2).argmax(axis=1)
        axis = outer[np.arange(len(near)), :, column]
        axis = axis / np.maximum(np.sqrt((axis * axis).sum(axis=1, keepdims=True)), np.float32(1e-12))
        sign = np.sign((axis * skew[near]).sum(axis=1, keepdims=True))
        vector[near] = axis * np.where(sign == 0, one, sign) * angle[near, None]
    turned: F32 = np.where((angle < _NEAR_NONE)[:, None], skew * np.float32(0.5), vector)
    return turned


def euler_of(matrix: F32) -> F32:
    """Matrices [N,3,3] -> angles [N,3] in radians about x, y and z, by way of the unit quaternion (Shepperd's method)."""
    diagonal = np.diagonal(matrix, axis1=1, axis2=2)
    xx, yy, zz = diagonal.T
    trace = xx + yy + zz
    sx, sy, sz = _skew(matrix).T
    pxy, pxz, pyz = (matrix[:, i, j] + matrix[:, j, i] for i, j in ((0, 1), (0, 2), (1, 2)))
    one = np.float32(1)
    double = np.float32(2) * np.sqrt(
        np.maximum(
            np.stack([one + trace, one + xx - yy - zz, one - xx + yy - zz, one - xx - yy + zz]), np.float32(1e-12)
        )
    )
    quarter = np.float32(0.25) * double
    candidates = np.stack(
        [
            np.stack([quarter[0], sx / double[0], sy / double[0], sz / double[0]]),
            np.stack([sx / double[1], quarter[1], pxy / double[1], pxz / double[1]]),
            np.stack([sy / double[2], pxy / double[2], quarter[2], pyz / double[2]]),
            np.stack([sz / double[3], pxz / double[3], pyz / double[3], quarter[3]]),
        ]
    )
    largest = np.stack([trace, xx, yy, zz]).argmax(axis=0)
    quaternion = candidates[largest, :, np.arange(len(matrix))]
    w, x, y, z = (quaternion / np.sqrt((quaternion * quaternion).sum(axis=1, keepdims=True))).T
    two = np.float32(2)
    about_x = np.arctan2(two * (w * x + y * z), one - two * (x * x + y * y))
    about_y = np.arcsin(np.clip(two * (w * y - z * x), -one, one))
    about_z = np.arctan2(two * (w * z + x * y), one - two * (y * y + z * z))
    return np.stack([about_x, about_y, about_z], axis=1)


def _skew(matrix: F32) -> F32:
    """[N,3] twice the sine of the angle, times the axis."""
    pairs = ((2, 1), (0, 2), (1, 0))
    return np.stack([matrix[:, i, j] - matrix[:, j, i] for i, j in pairs], axis=1)

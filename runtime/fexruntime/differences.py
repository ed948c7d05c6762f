"""Differences between two answers of a network, in the unit of the task that the contract's gate names."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fexruntime import detections
from fexruntime.arrays import F32, F64, Indices, Values
from fexruntime.contracts import Gate

UNITS = {
    "degrees": "°",
    "pixels": "px of the crop",
    "relative": "of its range",
    "scaled": "of its value",
    "cosine": "1 - cos",
    "logit": "probability",
    **detections.UNITS,
}
"""How each task's unit is printed; the others have none."""


def gate_difference(
    gate: Gate,
    expected: Values,
    found: Values,
    crop_size: int,
    given: Mapping[str, F32],
    rows: Indices | slice | NDArray[np.bool_] = slice(None),
) -> F64:
    """Differences that a gate is about, of two answers of a network to the same inputs `given`, by name, flat.

    `rows` are the items that are compared.
    """
    if gate.task in detections.TASKS:
        (frames,) = given.values()
        height, width = frames.shape[2:]
        return detections.difference(gate.task, expected, found, (height, width))
    return difference(gate, expected[gate.output][rows], found[gate.output][rows], crop_size)


def difference(gate: Gate, expected: F32, found: F32, crop_size: int) -> F64:
    """Differences of one output, flat, in its task's unit; one for each vector with "cosine", else one a value.

    `crop_size` is the side in pixels of the crops that the network reads. Raises ValueError for shapes that differ.
    """
    a, b = expected.astype(np.float64), found.astype(np.float64)
    if a.shape != b.shape:
        raise ValueError(f"{gate.output} has shape {b.shape}, not {a.shape}")
    if gate.columns is not None:
        a, b = a[..., list(gate.columns)], b[..., list(gate.columns)]
    if not a.size:
        return np.empty(0)
    if gate.task == "logit":
        a, b = (1.0 / (1.0 + np.exp(-np.clip(v, -500.0, 500.0))) for v in (a, b))
    if gate.task == "cosine":
        dot = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
        return np.asarray(1.0 - dot).ravel()
    if gate.task == "scaled":
        return np.asarray(np.abs(a - b) / np.maximum(1.0, np.abs(a))).ravel()
    scale = {"degrees": 180.0 / np.pi, "pixels": float(crop_size), "relative": 1.0 / max(float(np.ptp(a)), 1e-12)}
    return np.asarray(np.abs(a - b) * scale.get(gate.task, 1.0)).ravel()

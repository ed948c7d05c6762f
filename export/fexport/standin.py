"""Stand-in weights: every tensor a pure function of (seed, key, shape), for machines that cannot have the real ones.

They exercise each tensor (a default initialisation leaves GRN and batch norms trivial) and keep activations in range.
What a network with stand-in weights answers has no meaning; it tests arithmetic and plumbing. RandomState's stream is frozen by
NumPy's compatibility policy, so the values are the same everywhere.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_RESIDUAL_ENDS = re.compile(r"(bn2|conv2|project\.conv|mlp\.fc2)\.weight$")
_MESH_OUT = "lmk.mlp.4"

MULTITASK_CONFIG: dict[str, Any] = {
    "backbone": "convnextv2_tiny.fcmae_ft_in22k_in1k",
    "image_size": 224,
    "n_au": 20,
    "n_mesh": 478,
    "n_emotion": 7,
    "n_blendshape": 52,
    "mesh_normalized": True,
    "bs_use_mesh": True,
    "knn_k": 4,
    "drop_mefl": True,
    "use_head_v3": True,
}
"""Flags that the published checkpoints share."""

MULTITASK_FLAGS: dict[str, dict[str, Any]] = {
    "multitask-v2": {"emotion_use_au_prob": True},
    "multitask-v28": {
        "gaze_eye_roi": True,
        "gaze_pose_6d": True,
        "gaze_bins": 180,
    },
}
"""Flags in which they differ."""

POSE_MLP_ARCHITECTURE: dict[str, Any] = {
    "hidden": [512, 256, 128],
    "dropout": 0.15,
    "output_normalization": {
        "mean": [0.02, -0.01, 0.03, 0.4, -0.6, 9.0],
        "std": [0.2, 0.15, 0.35, 1.1, 0.9, 3.0],
    },
}


def tensors(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, NDArray[Any]]:
    """Stand-in values for a state dict of these keys and shapes."""
    return {key: tensor(key, shape, seed) for key, shape in shapes.items()}


def tensor(key: str, shape: tuple[int, ...], seed: int) -> NDArray[Any]:
    """One stand-in tensor: batch-norm statistics round 1, biases small, weights scaled by their fan-in."""
    rng = np.random.RandomState(zlib.crc32(f"{seed}:{key}".encode()) & 0x7FFFFFFF)
    leaf = key.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "running_var":
        # the first batch norm of the ResNet detector sees mean-subtracted pixels of 0..255
        scale = 6000.0 if key == "body.bn1.running_var" else 1.0
        return np.asarray(scale * rng.uniform(0.6, 1.4, shape), np.float32)
    if leaf == "running_mean":
        return np.asarray(0.05 * rng.standard_normal(shape), np.float32)
    if key == f"{_MESH_OUT}.bias":  # fractions of the chip: keep most of the mesh inside it
        return np.asarray(rng.uniform(0.1, 0.9, shape), np.float32)
    if leaf == "bias" or not shape:
        return np.asarray(0.05 * rng.standard_normal(shape), np.float32)
    if len(shape) == 1:
        low, high = (0.1, 0.3) if "prelu" in key else (0.7, 1.1)
        return np.asarray(rng.uniform(low, high, shape), np.float32)
    return np.asarray(_gain(key) / np.sqrt(int(np.prod(shape[1:]))) * rng.standard_normal(shape), np.float32)


def _gain(key: str) -> float:
    if key == f"{_MESH_OUT}.weight":
        return 0.05
    if "BboxHead" in key or "LandmarkHead" in key:
        return 0.3
    # the last layer of a residual branch, kept small so that the trunk's scale stays flat
    return 0.4 if _RESIDUAL_ENDS.search(key) else 1.4

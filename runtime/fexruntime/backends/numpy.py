"""NumPy alone, for networks small enough to need nothing else: today Pose-MLP.

Weights come from the bundle's .npz, which holds the checkpoint's own arrays.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fexruntime.backends.base import Arrays, Spec
from fexruntime.bundle import BundleNetwork
from fexruntime.errors import BundleError

F32 = NDArray[np.float32]
_LAYER_NORM_EPS = np.float32(1e-5)
_erf = np.frompyfunc(math.erf, 1, 1)


class NumpyBackend:
    """Pose-MLP in NumPy: the same numbers as its ONNX graph to 1e-5.

    Raises BundleError if the bundle has no arrays for the network.
    """

    def __init__(self, network: BundleNetwork) -> None:
        if network.arrays is None:
            raise BundleError(
                f"{network.row.name} cannot run on the backend 'numpy': use 'onnxruntime' (only Pose-MLP has arrays)"
            )
        with np.load(network.arrays.checked_path()) as file:
            self._arrays: dict[str, F32] = dict(file)
        self._linear = sorted(
            {int(k.split(".")[1]) for k, v in self._arrays.items() if k.endswith("weight") and v.ndim == 2}
        )
        self.spec = Spec(network.entry["inputs"][0]["name"], tuple(network.input_shape), tuple(network.output_names))

    def infer(self, inputs: Arrays, out: dict[str, F32] | None = None) -> dict[str, F32]:
        """landmarks_xy [N,68,2] -> pose [N,6] raw; see `Backend.infer`."""
        points = inputs[self.spec.input_name]
        eyes = points[:, 36] - points[:, 45]
        distance = np.maximum(np.sqrt((eyes * eyes).sum(axis=1, keepdims=True)), np.float32(1e-6))
        centred = points - points.mean(axis=1, keepdims=True)
        x = centred.transpose(0, 2, 1).reshape(len(points), -1) / distance
        for k in self._linear[:-1]:
            x = self._activated(self._affine(x, k), k + 1)
        pose = (self._affine(x, self._linear[-1]) * self._arrays["std"] + self._arrays["mean"]).astype(np.float32)
        if out is None:
            return {"pose": pose}
        out["pose"][...] = pose
        return out

    def warmup(self, shapes: list[tuple[int, ...]]) -> None:
        """Nothing to set up."""

    def close(self) -> None:
        """Drop the weights."""
        self._arrays.clear()

    def describe(self) -> dict[str, Any]:
        """What is in use."""
        return {"backend": "numpy", "version": np.__version__, "device": "cpu", "precision": "fp32", "threads": 1}

    def _affine(self, x: F32, k: int) -> F32:
        y: F32 = x @ self._arrays[f"net.{k}.weight"].T + self._arrays[f"net.{k}.bias"]
        return y

    def _activated(self, x: F32, k: int) -> F32:
        gain = self._arrays.get(f"net.{k}.weight")
        if gain is None or gain.ndim != 1:  # version 1: ReLU, no LayerNorm
            relu: F32 = np.maximum(x, np.float32(0))
            return relu
        centred = x - x.mean(axis=1, keepdims=True)
        variance = (centred * centred).mean(axis=1, keepdims=True)
        x = centred / np.sqrt(variance + _LAYER_NORM_EPS) * gain + self._arrays[f"net.{k}.bias"]
        gelu: F32 = x * np.float32(0.5) * (1 + _erf(x / math.sqrt(2)).astype(np.float32))
        return gelu

"""NumPy alone, for networks small enough to need nothing else. Weights come from the bundle's .npz."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from fexruntime.arrays import F32, Values
from fexruntime.backends.base import Place, Spec
from fexruntime.backends.classifiers import boosted_trees, linear_machines
from fexruntime.bundle import BundleNetwork
from fexruntime.contracts.labels import OUTER_EYE_CORNERS
from fexruntime.errors import BundleError
from fexruntime.manifest import Variant

_LAYER_NORM_EPS = np.float32(1e-5)
_erf = np.frompyfunc(math.erf, 1, 1)


class Arrays:
    """A network as a NumPy function of its arrays: the same numbers as its ONNX graph to 1e-5.

    Raises BundleError for a network that has no such function.
    """

    reads: ClassVar[tuple[str, ...]] = ("arrays",)
    devices: ClassVar[tuple[str, ...]] = ("cpu",)

    def __init__(self, network: BundleNetwork, variant: Variant, place: Place) -> None:
        if network.row.name not in FUNCTIONS:
            raise BundleError(f"{network.row.name} cannot run on the backend 'arrays': use 'onnxruntime'")
        self._function = FUNCTIONS[network.row.name]
        with np.load(io.BytesIO(network.read(variant.model))) as file:
            self._arrays: dict[str, F32] = dict(file)
        self.spec = Spec(network.record.inputs, network.record.outputs)

    def infer(self, inputs: Values, out: Values | None = None) -> dict[str, F32]:
        """See `Backend.infer`."""
        found = self._function(self._arrays, *(inputs[t.name] for t in self.spec.inputs))
        answers = dict(zip((t.name for t in self.spec.outputs), found, strict=True))
        if out is None:
            return answers
        for name, array in out.items():
            array[...] = answers[name]
        return dict(out)

    def share(self) -> Arrays:
        """Itself: nothing in it changes."""
        return self

    def close(self) -> None:
        """Drop the weights."""
        self._arrays = {}

    def describe(self) -> dict[str, Any]:
        """What is in use."""
        kinds = {str(v.dtype) for v in self._arrays.values()}
        precision = "fp32" if kinds == {"float32"} else ", ".join(sorted(kinds))
        return {"backend": "arrays", "version": np.__version__, "device": "cpu", "precision": precision, "threads": 1}


def _pose_mlp(arrays: Mapping[str, F32], points: F32) -> tuple[F32, ...]:
    """landmarks_xy [N,68,2] -> pose [N,6] raw; see `fexport.networks.pose_mlp`."""
    right, left = OUTER_EYE_CORNERS
    eyes = points[:, right] - points[:, left]
    distance = np.maximum(np.sqrt((eyes * eyes).sum(axis=1, keepdims=True)), np.float32(1e-6))
    centred = points - points.mean(axis=1, keepdims=True)
    x = centred.transpose(0, 2, 1).reshape(len(points), -1) / distance
    linear = sorted({int(k.split(".")[1]) for k, v in arrays.items() if k.endswith("weight") and v.ndim == 2})
    for k in linear[:-1]:
        x = _activated(arrays, _affine(arrays, x, k), k + 1)
    pose = _affine(arrays, x, linear[-1]) * arrays["std"] + arrays["mean"]
    return (pose.astype(np.float32),)


def _affine(arrays: Mapping[str, F32], x: F32, k: int) -> F32:
    y: F32 = x @ arrays[f"net.{k}.weight"].T + arrays[f"net.{k}.bias"]
    return y


def _activated(arrays: Mapping[str, F32], x: F32, k: int) -> F32:
    gain = arrays.get(f"net.{k}.weight")
    if gain is None or gain.ndim != 1:  # version 1: ReLU, no LayerNorm
        relu: F32 = np.maximum(x, np.float32(0))
        return relu
    centred = x - x.mean(axis=1, keepdims=True)
    variance = (centred * centred).mean(axis=1, keepdims=True)
    x = centred / np.sqrt(variance + _LAYER_NORM_EPS) * gain + arrays[f"net.{k}.bias"]
    gelu: F32 = x * np.float32(0.5) * (1 + _erf(x / math.sqrt(2)).astype(np.float32))
    return gelu


FUNCTIONS: dict[str, Callable[..., tuple[F32, ...]]] = {
    "pose-mlp": _pose_mlp,
    "xgb-au": boosted_trees,
    "svm-au": linear_machines,
    "svm-emotion": linear_machines,
}
"""By network: a function of its arrays and its inputs, in order, that answers its outputs, in order."""

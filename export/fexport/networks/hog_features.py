"""What all classifiers on HOG share: a scaler and principal components for each part of the face they look at.

Mirrors `feat/au_detectors/StatLearning/SL_test.py: pca_transform` with scikit-learn's StandardScaler and PCA below it.
Names are those of the published .skops files (`fexport.skops_files`).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fexport.checkpoints import Checkpoint
from fexruntime.arrays import F32, F64
from fexruntime.contracts.labels import HOG_SIZE, LANDMARKS
from fexruntime.errors import CheckpointError

UNUSED = 1e-12
"""Components below this share of the largest are a fit's round-off: the column was constant in training."""
POINTS = 2 * LANDMARKS
REGIONS = ("upper", "lower", "full")


class HogFeatures(nn.Module):
    """hog [N,5408], points [N,68,2] -> features of a region, float64 [N, components + 136]."""

    def __init__(self, checkpoint: Checkpoint, regions: Sequence[str]) -> None:
        super().__init__()
        self.regions = tuple(regions)
        self.whiten = {r: bool((checkpoint.config or {}).get(f"pca_model_{r}.whiten")) for r in regions}
        for region in regions:
            width = self.width_of(checkpoint, region)
            scaler, pca = nn.Module(), nn.Module()
            for module, name, shape in (
                (scaler, "mean_", (HOG_SIZE,)),
                (scaler, "scale_", (HOG_SIZE,)),
                (pca, "components_", (width, HOG_SIZE)),
                (pca, "mean_", (HOG_SIZE,)),
                (pca, "explained_variance_", (width,)),
            ):
                module.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
            self.add_module(f"scaler_{region}", scaler)
            self.add_module(f"pca_model_{region}", pca)

    @staticmethod
    def width_of(checkpoint: Checkpoint, region: str) -> int:
        """How many components the file has for a region; CheckpointError if it has none."""
        components = checkpoint.tensors.get(f"pca_model_{region}.components_")
        if components is None or components.ndim != 2:
            name = ", ".join(r.filename for r in checkpoint.records)
            raise CheckpointError(f"{name} has no principal components of the {region} face (pca_model_{region})")
        return len(components)

    def features(self, region: str, hog: Tensor, points: Tensor) -> NDArray[np.float64]:
        """Features of a region, step by step as scikit-learn computes them."""
        mean, scale = (self.array(f"scaler_{region}.{name}") for name in ("mean_", "scale_"))
        x = hog.numpy().copy()
        x -= mean
        x /= scale
        components = self.array(f"pca_model_{region}.components_")
        projected = x @ components.T - self.array(f"pca_model_{region}.mean_") @ components.T
        if self.whiten[region]:
            projected /= self.deviation(region)
        return np.concatenate([projected, points.numpy().reshape(len(x), -1)], axis=1)

    def array(self, key: str) -> NDArray[np.float64]:
        """One of its buffers as an array."""
        value: NDArray[np.float64] = self.get_buffer(key).numpy()
        return value

    def deviation(self, region: str) -> F64:
        """What whitening divides by."""
        deviation = np.sqrt(self.array(f"pca_model_{region}.explained_variance_"))
        least: F64 = np.maximum(deviation, np.finfo(deviation.dtype).eps)
        return least

    def folded(self, region: str, weights: NDArray[Any] | None = None) -> dict[str, NDArray[Any]]:
        """A region's arrays for `fexruntime.backends.classifiers`: the columns that matter, components by `weights`."""
        components = self.array(f"pca_model_{region}.components_")
        if self.whiten[region]:
            components = components / self.deviation(region)[:, None]
        mean = self.array(f"pca_model_{region}.mean_")
        if weights is not None:
            components = weights @ components
        columns = np.flatnonzero(np.abs(components).max(axis=0) > UNUSED * np.abs(components).max())
        return {
            f"{region}.columns": columns,
            f"{region}.mean": self.array(f"scaler_{region}.mean_")[columns],
            f"{region}.scale": self.array(f"scaler_{region}.scale_")[columns],
            f"{region}.weights": np.ascontiguousarray(components[:, columns].T, np.float64),
            f"{region}.shift": components @ mean,
        }


def random_state(seed: int, *name: object) -> np.random.RandomState:
    """A stream of its own for each name."""
    return np.random.RandomState(zlib.crc32(":".join(map(str, (seed, *name))).encode()) & 0x7FFFFFFF)


def stand_in_features(seed: int, regions: Mapping[str, int]) -> dict[str, Tensor]:
    """Scalers and orthonormal components of these widths; upper and lower face read a part of the columns, as published."""
    parts = {"upper": slice(0, 2414), "lower": slice(2414, HOG_SIZE), "full": slice(0, HOG_SIZE)}
    tensors: dict[str, Tensor] = {}
    for region, width in regions.items():
        rng, part = random_state(seed, "hog", region), parts[region]
        mean, scale, pca_mean = np.zeros(HOG_SIZE), np.ones(HOG_SIZE), np.zeros(HOG_SIZE)
        size = part.stop - part.start
        mean[part], scale[part] = rng.uniform(0.05, 0.2, size), rng.uniform(0.05, 0.15, size)
        pca_mean[part] = 0.05 * rng.standard_normal(size)
        components = np.zeros((width, HOG_SIZE))
        components[:, part] = rng.standard_normal((width, size)) / np.sqrt(size)
        variance = rng.uniform(0.5, 9.0, width)
        for key, value in (
            (f"scaler_{region}.mean_", mean),
            (f"scaler_{region}.scale_", scale),
            (f"pca_model_{region}.components_", components),
            (f"pca_model_{region}.mean_", pca_mean),
            (f"pca_model_{region}.explained_variance_", variance),
        ):
            tensors[key] = torch.from_numpy(value)
    return tensors


def as_float32(value: NDArray[Any]) -> F32:
    """An array as contiguous float32."""
    return np.ascontiguousarray(value, np.float32)

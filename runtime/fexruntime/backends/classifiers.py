"""The classifiers of Detectorv1 on HOG features, as NumPy functions of their arrays: boosted trees and linear machines.

Mirrors `feat/au_detectors/StatLearning` and `feat/emo_detectors/StatLearning` with what scikit-learn and xgboost do below
them: features are standardised in float32, projected in float64, and handed to the trees in float32. Trees compare
float32 with float32, so a split goes the way it goes there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fexruntime.arrays import F32, F64

REGIONS = ("upper", "lower", "full")
"""Parts of the face; each has a scaler and principal components of its own."""
_Arrays = Mapping[str, NDArray[Any]]


def boosted_trees(arrays: _Arrays, hog: F32, points: F32) -> tuple[F32, ...]:
    """hog [N,5408], points [N,68,2] -> probabilities [N,K] of K classifiers.

    Node k's children are `left[k]` and `left[k] + 1`; a leaf is its own left child and has no greater number. Faces with a
    feature that is not finite are NaN.
    """
    x = tree_features(arrays, hog, points)
    leaves = arrays["value"][descend(arrays, x)]
    margin = np.add.reduceat(leaves, arrays["first_tree"], axis=1, dtype=np.float32) + arrays["base"]
    with np.errstate(over="ignore"):
        probability = np.float32(1) / (np.float32(1) + np.exp(-margin))
    answer: F32 = np.where(arrays["hinge"], (margin > 0).astype(np.float32), probability)
    answer[~np.isfinite(x).all(axis=1)] = np.nan
    return (answer,)


def tree_features(arrays: _Arrays, hog: F32, points: F32) -> F32:
    """What the trees look at, [N,F]: principal components of each region, then the points' x and y in turn."""
    parts = [_projected(arrays, region, hog) for region in REGIONS]
    return np.concatenate([*parts, points.reshape(len(points), -1)], axis=1, dtype=np.float32, casting="same_kind")


def descend(arrays: _Arrays, x: F32) -> NDArray[np.int64]:
    """Leaves [N,T] that features [N,F] reach in T trees."""
    feature, threshold, left = arrays["feature"], arrays["threshold"], arrays["left"]
    row = np.arange(len(x))[:, None]
    node: NDArray[np.int64] = np.repeat(arrays["roots"][None], len(x), axis=0)
    for _ in range(int(arrays["depth"])):
        node = left[node] + (x[row, feature[node]] >= threshold[node])
    return node


def linear_machines(arrays: _Arrays, hog: F32, points: F32) -> tuple[F32, ...]:
    """hog [N,5408], points [N,68,2] -> labels [N,K] of K linear support vector machines."""
    label = np.where(decisions(arrays, hog, points) > 0, *arrays["classes"][:, ::-1].T[:, None])
    return (label.astype(np.float32),)


def decisions(arrays: _Arrays, hog: F32, points: F32) -> F64:
    """Decision values [N,K]; components, their mean and the machines' weights are one product."""
    flat = points.reshape(len(points), -1).astype(np.float64)
    total: F64 = flat @ arrays["points"] + arrays["offset"]
    for region in REGIONS:
        if f"{region}.machines" in arrays:
            total[:, arrays[f"{region}.machines"]] += _projected(arrays, region, hog)
    return total


def _projected(arrays: _Arrays, region: str, hog: F32) -> F64:
    """Standardised in float32, in two steps as scikit-learn does, times `weights` in float64."""
    x = hog[:, arrays[f"{region}.columns"]]
    centred = (x - arrays[f"{region}.mean"]).astype(np.float32)
    unit = (centred / arrays[f"{region}.scale"]).astype(np.float32)
    projected: F64 = unit.astype(np.float64) @ arrays[f"{region}.weights"] - arrays[f"{region}.shift"]
    return projected

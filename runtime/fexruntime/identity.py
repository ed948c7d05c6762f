"""Names for faces from their embeddings: Person_0, Person_1, … by first appearance.

Mirrors `feat/utils/stats.py: cluster_identities`. Rows whose embedding is not finite have no name.
"""

from __future__ import annotations

import math

import numpy as np

from fexruntime.arrays import F32
from fexruntime.errors import EnvironmentMissingError, InputError

SAME_PERSON = 0.8
"""py-feat's least cosine of two faces of one person."""
METHODS = ("gallery", "connected", "hdbscan")
_NOISE = -1


def name_identities(embeddings: F32, threshold: float = SAME_PERSON, method: str = "gallery") -> list[str | None]:
    """Names of N faces from embeddings [N,D] (any scale; they are L2-normalised here).

    - "gallery": in row order, a face joins the running centroid it is most like, if their cosine is at least
      `threshold`, else it starts a new one. One pass, O(N·people).
    - "connected": connected components of the graph of pairs whose cosine is greater than `threshold`. O(N²).
    - "hdbscan": density clusters (needs scikit-learn); outliers are "Unknown".

    Raises InputError for another method, EnvironmentMissingError if scikit-learn is needed and not there.
    """
    if method not in METHODS:
        raise InputError(f"no identity method {method!r}: use {', '.join(METHODS)}")
    embeddings64 = np.asarray(embeddings, np.float64)
    finite = np.flatnonzero(np.isfinite(embeddings64).all(axis=1)) if len(embeddings64) else np.empty(0, np.int64)
    names: list[str | None] = [None] * len(embeddings64)
    if not len(finite):
        return names
    rows = embeddings64[finite]
    unit = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _TINY)).astype(np.float32)
    labels = {"gallery": _gallery, "connected": _connected, "hdbscan": _hdbscan}[method](unit, threshold)
    order: dict[int, int] = {}
    for row, label in zip(finite, labels, strict=True):
        names[row] = "Unknown" if label == _NOISE else f"Person_{order.setdefault(label, len(order))}"
    return names


_TINY = 1e-12


def _gallery(unit: F32, threshold: float) -> list[int]:
    centroids = np.empty((16, unit.shape[1]), np.float32)
    counts: list[int] = []
    labels = []
    for face in unit:
        if counts:
            likeness = centroids[: len(counts)] @ face
            best = int(np.argmax(likeness))
            if likeness[best] >= threshold:
                counts[best] += 1
                moved = centroids[best] + (face - centroids[best]) / np.float32(counts[best])
                centroids[best] = moved / max(float(np.linalg.norm(moved)), _TINY)
                labels.append(best)
                continue
        if len(counts) == len(centroids):
            centroids = np.concatenate([centroids, np.empty_like(centroids)])
        centroids[len(counts)] = face
        labels.append(len(counts))
        counts.append(1)
    return labels


def _connected(unit: F32, threshold: float, block: int = 1024) -> list[int]:
    """Each face is looked at once: whoever is like it and has no label yet gets its label, and is looked at next."""
    labels = np.full(len(unit), _NOISE)
    for first in range(len(unit)):
        if labels[first] != _NOISE:
            continue
        labels[first] = first
        frontier = np.array([first])
        while len(frontier):
            now, frontier = frontier[:block], frontier[block:]
            free = np.flatnonzero(labels == _NOISE)
            reached = free[(unit[free] @ unit[now].T > threshold).any(axis=1)]
            labels[reached] = first
            frontier = np.concatenate([frontier, reached])
    return [int(label) for label in labels]


def _hdbscan(unit: F32, threshold: float, min_cluster_size: int = 2) -> list[int]:
    try:
        from sklearn.cluster import HDBSCAN
    except ImportError:
        raise EnvironmentMissingError(
            'identity method "hdbscan" needs scikit-learn: pip install scikit-learn, or use method "gallery"'
        ) from None
    if len(unit) < min_cluster_size:
        return [_NOISE] * len(unit)
    # unit vectors: distance² = 2 - 2·cosine
    epsilon = math.sqrt(max(0.0, 2.0 - 2.0 * threshold))
    clusters = HDBSCAN(min_cluster_size=min_cluster_size, metric="euclidean", cluster_selection_epsilon=epsilon)
    return [int(label) for label in clusters.fit_predict(unit)]

"""Names for faces from their embeddings: Person_0, Person_1, … by first appearance.

Mirrors `feat/utils/stats.py: cluster_identities`. Rows whose embedding is not finite have no name.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fexruntime.arrays import F32, Indices
from fexruntime.errors import EnvironmentMissingError, InputError

SAME_PERSON = 0.8
"""py-feat's least cosine of two faces of one person."""
METHODS = ("gallery", "connected", "hdbscan")
INCREMENTAL = METHODS[0]
"""The method that names faces as they come; the others need all embeddings at once."""
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
    names: list[str | None] = [None] * len(embeddings)
    if not len(embeddings):
        return names
    finite, unit = _units(embeddings)
    if not len(finite):
        return names
    labels = {"gallery": _gallery, "connected": _connected, "hdbscan": _hdbscan}[method](unit, threshold)
    order: dict[int, int] = {}
    for row, label in zip(finite, labels, strict=True):
        names[row] = "Unknown" if label == _NOISE else f"Person_{order.setdefault(label, len(order))}"
    return names


_TINY = 1e-12


class Gallery:
    """The running centroids of "gallery": a person each, as many floats as an embedding has. Faces are given as they come."""

    def __init__(self, threshold: float = SAME_PERSON) -> None:
        self.threshold = threshold
        self.counts: list[int] = []
        """Faces of each person."""
        self._centroids = np.empty((0, 0), np.float32)
        self._changed: set[int] = set()

    def labels(self, unit: F32) -> list[int]:
        """The person of each row of L2-normalised vectors [N,D]."""
        return [self._label(face) for face in unit]

    def names(self, embeddings: F32) -> list[str | None]:
        """Names of faces from embeddings [N,D], going on from all that were given before; None where one is not finite."""
        finite, unit = _units(embeddings)
        names: list[str | None] = [None] * len(embeddings)
        for row, label in zip(finite, self.labels(unit), strict=True):
            names[row] = f"Person_{label}"
        return names

    def _label(self, face: F32) -> int:
        if self.counts:
            likeness = self._centroids[: len(self.counts)] @ face
            best = int(np.argmax(likeness))
            if likeness[best] >= self.threshold:
                self.counts[best] += 1
                moved = self._centroids[best] + (face - self._centroids[best]) / np.float32(self.counts[best])
                self._centroids[best] = moved / max(float(np.linalg.norm(moved)), _TINY)
                self._changed.add(best)
                return best
        return self._add(face, 1)

    def _add(self, centroid: F32, count: int) -> int:
        if len(self.counts) == len(self._centroids):
            grown = np.empty((max(16, 2 * len(self._centroids)), len(centroid)), np.float32)
            if self.counts:
                grown[: len(self.counts)] = self._centroids[: len(self.counts)]
            self._centroids = grown
        self._centroids[len(self.counts)] = centroid
        self.counts.append(count)
        self._changed.add(len(self.counts) - 1)
        return len(self.counts) - 1

    def changes(self) -> dict[str, Any]:
        """By person, the count and centroid of those that changed since this was last asked: text that JSON can hold."""
        changed, self._changed = sorted(self._changed), set()
        return {
            str(k): [self.counts[k], base64.b64encode(self._centroids[k].astype("<f4").tobytes()).decode()]
            for k in changed
        }

    def restore(self, people: Mapping[str, Any]) -> None:
        """Go on from what `changes` gave, merged by person."""
        for k in range(len(people)):
            count, text = people[str(k)]
            self._add(np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32), int(count))
        self._changed.clear()


def _units(embeddings: F32) -> tuple[Indices, F32]:
    """(rows that are finite, those rows L2-normalised in float64)."""
    wide = np.asarray(embeddings, np.float64)
    finite = np.flatnonzero(np.isfinite(wide).all(axis=1)) if len(wide) else np.empty(0, np.int64)
    rows = wide[finite]
    return finite, (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _TINY)).astype(np.float32)


def _gallery(unit: F32, threshold: float) -> list[int]:
    return Gallery(threshold).labels(unit)


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

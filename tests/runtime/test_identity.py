from __future__ import annotations

import numpy as np
import pytest

from fexruntime.errors import InputError
from fexruntime.identity import name_identities


def people(*labels, spread=0.05, seed=0):
    rng = np.random.RandomState(seed)
    centres = rng.standard_normal((max(labels) + 1, 64))
    return np.array([centres[k] * rng.uniform(0.5, 20) + rng.standard_normal(64) * spread for k in labels], np.float32)


@pytest.mark.parametrize("method", ["gallery", "connected", "hdbscan"])
def test_people_are_numbered_by_first_appearance(method):
    pytest.importorskip("sklearn") if method == "hdbscan" else None
    faces = people(2, 0, 2, 1, 0, 1)
    assert name_identities(faces, 0.8, method) == [f"Person_{k}" for k in (0, 1, 0, 2, 1, 2)]


def test_a_row_without_an_embedding_has_no_name():
    faces = people(0, 1)
    faces[0, 3] = np.nan
    assert name_identities(faces) == [None, "Person_0"]
    assert name_identities(np.full((2, 8), np.nan, np.float32)) == [None, None]
    assert name_identities(np.empty((0, 8), np.float32)) == []


def test_gallery_joins_at_the_threshold_and_connected_only_above_it():
    faces = np.array([[1, 0], [0.6, 0.8]], np.float32)
    assert name_identities(faces, float(np.float32(0.6)), "gallery") == ["Person_0", "Person_0"]
    assert name_identities(faces, 0.6000001, "gallery") == ["Person_0", "Person_1"]
    assert name_identities(faces, float(np.float32(0.6)), "connected") == ["Person_0", "Person_1"]


def test_connected_is_transitive():
    angles = np.radians([0, 30, 60, 90])
    faces = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    assert set(name_identities(faces, 0.8, "connected")) == {"Person_0"}
    assert len(set(name_identities(faces, 0.8, "gallery"))) > 1


@pytest.mark.parametrize("threshold", [0.45, 0.55, 0.65])
def test_connected_is_the_components_of_the_graph_of_pairs(threshold):
    """Held to the definition written plainly: join every pair, one after the other."""
    faces = np.random.RandomState(4).standard_normal((300, 24)).astype(np.float32)
    unit = faces / np.linalg.norm(faces, axis=1, keepdims=True)
    parent = list(range(len(unit)))

    def root(i):
        while parent[i] != i:
            i = parent[i]
        return i

    for a, b in zip(*np.nonzero(unit @ unit.T > threshold), strict=True):
        parent[root(b)] = root(a)
    groups = [root(i) for i in range(len(unit))]
    names = name_identities(faces, threshold, "connected")
    assert 1 < len(set(names)) < len(names)
    assert len(set(zip(groups, names, strict=True))) == len(set(groups)) == len(set(names))


def test_hdbscan_calls_outliers_unknown():
    pytest.importorskip("sklearn")
    assert name_identities(people(0, 0, 1, 0), 0.8, "hdbscan")[2] == "Unknown"


def test_an_unknown_method_is_refused():
    with pytest.raises(InputError, match="gallery"):
        name_identities(people(0), method="kmeans")

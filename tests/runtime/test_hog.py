"""HOG of aligned, masked faces against py-feat's own, on chips of the packaged photograph (see tests/goldens/README.md)."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import GOLDENS

from fexruntime import hog


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDENS / "hog_pyfeat215.npz")


@pytest.fixture(scope="module")
def chips(golden):
    return golden["chips"].astype(np.float32) / np.float32(255)


def bits(packed, faces):
    return np.unpackbits(packed)[: faces * hog.SIZE**2].reshape(faces, hog.SIZE, hog.SIZE).astype(bool)


def test_features_equal_pyfeats_at_and_off_the_edge_of_the_chip(golden, chips):
    vectors, points = hog.features(chips, golden["fractions"])
    assert np.array_equal(points, golden["points"])
    away = np.abs(vectors - golden["hog"])
    # five pixels of the last two lie within float32's noise of a tie (two channels alike to 1e-7, 157.50002° of 157.5°) and
    # fall to the other side here; each touches the cells of its blocks
    assert away[:2].max() < 1e-5
    assert (away[2:] > 1e-5).sum(axis=1).max() < 0.05 * away.shape[1]
    assert away.max() < 0.05
    # the last face reaches beyond its chip: what lies there is 128, far brighter than white
    matrices = hog.alignment(golden["fractions"] * np.float32(hog.SIZE))
    face = hog.warped(chips, matrices.astype(np.float32))
    assert (face * hog.masks(golden["points"].astype(np.int64))[:, None])[3].max() == hog.FILL


def test_masks_equal_scipys_and_scikit_images_wherever_the_landmarks_are(golden):
    assert np.array_equal(hog.masks(golden["points"].astype(np.int64)), bits(golden["masks"], len(golden["points"])))
    moved = golden["moved"].astype(np.int64)
    assert np.array_equal(hog.masks(moved), bits(golden["moved_masks"], len(moved)))
    assert len({tuple(m.sum(axis=0)) for m in hog.masks(moved)}) == len(moved)


def test_a_jaw_left_of_the_face_stamps_no_forehead():
    points = np.tile(np.array([[50, 60]]), (68, 1))
    points[[0, 16, 8]] = [-1, 40], [80, 40], [40, 100]
    without = hog.masks(points[None])[0]
    points[0] = [0, 40]
    assert hog.masks(points[None])[0][:40, :80].all()
    assert not without[:40, :79].any()


def test_landmarks_on_one_line_or_point_are_a_mask_too():
    line = np.stack([np.arange(68), np.full(68, 30)], 1)
    line[[0, 16]] = [0, 0]
    assert hog.masks(line[None])[0][30, 1:68].sum() >= 60
    point = np.tile(np.array([[40, 50]]), (68, 1))
    assert hog.masks(point[None]).sum() == 1


def test_faces_do_not_depend_on_each_other(golden, chips):
    together, _ = hog.features(chips, golden["fractions"])
    for k in range(len(chips)):
        alone, _ = hog.features(chips[k : k + 1], golden["fractions"][k : k + 1])
        assert np.array_equal(alone[0], together[k])

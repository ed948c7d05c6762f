from __future__ import annotations

import numpy as np
import pytest

from fexruntime import Detector, Place, open_bundle, pose_from_landmarks
from fexruntime.backends import open_variant
from fexruntime.errors import BundleError, InputError, StandInWarning

POINTS = np.random.RandomState(3).uniform(0, 300, (5, 68, 2)).astype(np.float32)


def answers(v1_bundle, points):
    """By kind of artefact: what the pose network says."""
    network = open_bundle(v1_bundle).networks["pose"]
    return {
        v.kind: open_variant(network, v, Place()).infer({"landmarks_xy": points})["pose"]
        for v in network.record.variants
    }


def test_numpy_equals_onnx(v1_bundle):
    found = answers(v1_bundle, POINTS)
    assert set(found) == {"onnx", "arrays"}
    assert np.abs(found["onnx"] - found["arrays"]).max() <= 1e-5


def test_stand_in_weights_warn_at_each_call(v1_bundle):
    for _ in range(2):
        with pytest.warns(StandInWarning, match="pose-mlp"):
            pose_from_landmarks(POINTS, v1_bundle)


def test_signs_are_the_contracts_and_the_detectors(v1_bundle, photo):
    fex = Detector(v1_bundle).detect(photo, boxes=np.array([[178.0, 54, 271, 179]], np.float32))
    points = np.stack([fex.block([f"{a}_{i}" for i in range(68)]) for a in "xy"], axis=2)
    assert np.allclose(
        pose_from_landmarks(points, v1_bundle), fex.block(["Pitch", "Roll", "Yaw", "X", "Y", "Z"]), atol=1e-4
    )
    raw = answers(v1_bundle, points)["arrays"]
    # raw is Pitch, Roll, Yaw, …; Fex is -Pitch, -Yaw as Roll, +Roll as Yaw
    assert np.allclose(fex.block(["Pitch", "Roll", "Yaw"]), np.stack([-raw[:, 0], -raw[:, 2], raw[:, 1]], 1), atol=1e-4)


def test_one_face_and_faces_that_are_not_there(v1_bundle):
    assert pose_from_landmarks(POINTS[0], v1_bundle).shape == (1, 6)
    broken = POINTS.copy()
    broken[2, 5, 0] = np.nan
    pose = pose_from_landmarks(broken, v1_bundle)
    assert np.isnan(pose[2]).all()
    assert np.isfinite(np.delete(pose, 2, 0)).all()
    assert pose_from_landmarks(np.empty((0, 68, 2), np.float32), v1_bundle).shape == (0, 6)


def test_degenerate_landmarks_stay_finite(v1_bundle):
    assert np.isfinite(pose_from_landmarks(np.zeros((1, 68, 2), np.float32), v1_bundle)).all()


def test_where_the_weights_come_from(v1_bundle, monkeypatch):
    monkeypatch.delenv("FEXPORT_BUNDLE", raising=False)
    with pytest.raises(BundleError, match="FEXPORT_BUNDLE"):
        pose_from_landmarks(POINTS)
    monkeypatch.setenv("FEXPORT_BUNDLE", str(v1_bundle))
    assert pose_from_landmarks(POINTS).shape == (5, 6)
    with pytest.raises(BundleError, match="no pose network"):
        pose_from_landmarks(POINTS, "edge")
    with pytest.raises(InputError, match="68,2"):
        pose_from_landmarks(POINTS[:, :5], v1_bundle)

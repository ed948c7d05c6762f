from __future__ import annotations

import numpy as np
import pytest

from fexruntime import Detector, open_bundle, pose_from_landmarks
from fexruntime.backends import make_backend
from fexruntime.errors import BundleError, InputError

POINTS = np.random.RandomState(3).uniform(0, 300, (5, 68, 2)).astype(np.float32)


def test_numpy_equals_onnx(v1_bundle):
    network = open_bundle(v1_bundle).networks["pose"]
    answers = [make_backend(name, network).infer({"landmarks_xy": POINTS})["pose"] for name in ("numpy", "onnxruntime")]
    assert np.abs(answers[0] - answers[1]).max() <= 1e-5


def test_signs_are_the_contracts_and_the_detectors(v1_bundle, photo):
    fex = Detector(v1_bundle).detect(photo, boxes=np.array([[178.0, 54, 271, 179]], np.float32))
    points = np.stack([fex.block([f"{a}_{i}" for i in range(68)]) for a in "xy"], axis=2)
    assert np.allclose(
        pose_from_landmarks(points, v1_bundle), fex.block(["Pitch", "Roll", "Yaw", "X", "Y", "Z"]), atol=1e-4
    )
    raw = make_backend("numpy", open_bundle(v1_bundle).networks["pose"]).infer({"landmarks_xy": points})["pose"]
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

"""The whole chain against py-feat's answers on the packaged photograph, with stand-in weights (seed 0).

Captured by running py-feat 2.0.3 and 2.1.5 themselves (`tests/goldens/README.md` has the commands).
"""

from __future__ import annotations

import numpy as np
import pytest
from conftest import GOLDENS
from fex_compare import assert_same_fex

from fexport import build, plan
from fexruntime import Detector
from fexruntime.contracts import WITH_BUGS

EDGE = "retinaface-mobilenet025"

BOXES = np.array(
    [
        [177.7, 53.75, 271.0, 178.75],
        [-30.5, -20.25, 90.0, 80.5],
        [300.0, 300.0, 301.0, 300.5],
        [100.25, 50.5, 450.75, 520.0],
    ],
    np.float32,
)


def test_detectorv2_pyfeat20_equals_pyfeat203(v2_bundle, photo):
    assert_same_fex(Detector(v2_bundle).detect(photo), GOLDENS / "detectorv2_pyfeat203.csv")


def test_detectorv2_pyfeat20_boxes(v2_bundle, photo):
    assert_same_fex(Detector(v2_bundle).detect(photo, boxes=BOXES), GOLDENS / "detectorv2_pyfeat203_boxes.csv")


def test_detectorv2_pyfeat21_with_output_size_equals_pyfeat215(v28_bundle, photo):
    # resizing rounds to uint8: a handful of pixels round the other way, which shows in the fourth digit
    fex = Detector(v28_bundle).detect(photo, output_size=300)
    assert_same_fex(fex, GOLDENS / "detectorv2_pyfeat215_output_size300.csv", px=0.05, relative=1e-3)


def test_detectorv2_pyfeat21_boxes(v28_bundle, photo):
    assert_same_fex(Detector(v28_bundle).detect(photo, boxes=BOXES), GOLDENS / "detectorv2_pyfeat215_boxes.csv")


def test_detectorv2_with_facenet(tmp_path, photo):
    choices = {"faces": "retinaface-mobilenet025", "identity": "facenet"}
    build.build(plan.plan("detectorv2", "pyfeat-2.1", choices, stand_in_seed=0), tmp_path / "bundle")
    fex = Detector(tmp_path / "bundle").detect(photo, boxes=BOXES)
    assert_same_fex(fex, GOLDENS / "detectorv2_pyfeat215_boxes_facenet.csv")


def test_detectorv1_equals_pyfeat215(v1_bundle, photo):
    assert_same_fex(Detector(v1_bundle).detect(photo), GOLDENS / "detectorv1_pyfeat215.csv")


def test_detectorv1_boxes(v1_bundle, photo):
    assert_same_fex(Detector(v1_bundle).detect(photo, boxes=BOXES), GOLDENS / "detectorv1_pyfeat215_boxes.csv")


V1_BOXES = np.array(
    [
        [177.7, 53.75, 271.0, 178.75],
        [150.25, 30.5, 300.75, 210.0],
        [100.25, 50.5, 450.75, 520.0],
        [190.5, 60.25, 260.0, 190.5],
    ],
    np.float32,
)


def test_detectorv1_as_by_default(v1_whole_bundle, photo):
    """XGB action units, ResMaskNet, L2CS, ArcFace."""
    fex = Detector(v1_whole_bundle).detect(photo, boxes=V1_BOXES)
    assert_same_fex(fex, GOLDENS / "detectorv1_pyfeat215_default_boxes.csv")


def test_detectorv1_with_support_vector_machines_and_pfld(tmp_path, photo):
    choices = {"faces": EDGE, "landmarks": "pfld", "au": "svm", "emotion": "svm", "gaze": "none"}
    build.build(plan.plan("detectorv1", "pyfeat-2.1", choices, stand_in_seed=0), tmp_path / "bundle")
    fex = Detector(tmp_path / "bundle").detect(photo, boxes=V1_BOXES)
    assert_same_fex(fex, GOLDENS / "detectorv1_pyfeat215_svm_pfld_boxes.csv")


def test_detectorv1_with_mobilenet_as_pyfeat_has_it_and_as_it_should_be(tmp_path, photo):
    choices = {"faces": EDGE, "landmarks": "mobilenet", "emotion": "none"}
    build.build(plan.plan("detectorv1", WITH_BUGS, choices, stand_in_seed=0), tmp_path / "bugs")
    theirs = Detector(tmp_path / "bugs").detect(photo, boxes=V1_BOXES)
    assert_same_fex(theirs, GOLDENS / "detectorv1_pyfeat215_mobilenet_bugs_boxes.csv")
    build.build(plan.plan("detectorv1", "pyfeat-2.1", choices, stand_in_seed=0), tmp_path / "sound")
    ours = Detector(tmp_path / "sound").detect(photo, boxes=V1_BOXES)
    assert np.array_equal(ours["x_30"], theirs["x_30"])
    assert np.isfinite(ours["AU12"]).all()
    assert np.ptp(ours["gaze_yaw"]) > 3 * np.ptp(theirs["gaze_yaw"])


def test_a_golden_that_is_off_is_noticed(v1_bundle, photo):
    with pytest.raises(AssertionError, match="FaceRect"):
        assert_same_fex(
            Detector(v1_bundle).detect(photo, boxes=BOXES + np.float32(1)), GOLDENS / "detectorv1_pyfeat215_boxes.csv"
        )

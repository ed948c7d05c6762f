from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from conftest import FACE

from fexruntime import Detector, open_bundle, overlay
from fexruntime.contracts import pipeline_row


def test_axes_of_a_face_that_looks_straight_at_the_camera():
    left, up, forward = overlay.pose_axes(0, 0, 0)
    assert left.tolist() == pytest.approx([1, 0])
    assert up.tolist() == pytest.approx([0, -1])
    assert forward.tolist() == pytest.approx([0, 0])


def test_axes_follow_fex_signs():
    assert overlay.pose_axes(0.3, 0, 0)[2][1] < -0.2  # +pitch: the nose goes up the picture
    assert overlay.pose_axes(0, 0, 0.3)[2][0] < -0.2  # +yaw: to the subject's right, the picture's left
    assert overlay.pose_axes(0, 0.3, 0)[1][0] < -0.2  # +roll: the head's top goes to the picture's left


@pytest.mark.parametrize(("fixture", "up"), [("v2_bundle", -1.0), ("v28_bundle", 1.0), ("v1_bundle", 1.0)])
def test_the_nose_axis_goes_where_the_contract_says_a_positive_pitch_looks(fixture, up, request, frame, monkeypatch):
    """Detectorv2 under pyfeat-2.0 counts a pitch downwards as positive; the others count upwards."""
    bundle = open_bundle(request.getfixturevalue(fixture))
    assert bundle.pipeline.pitch_up == up
    (result,) = Detector().stream(frame)
    nodding = np.array([[0.3, 0, 0, 0, 0, 0]], np.float32)
    drawn = []
    monkeypatch.setattr(overlay, "_axes", lambda image, centre, length, axes, thick: drawn.append(axes))
    overlay.draw(
        frame, dataclasses.replace(result, values={**result.values, "pose": nodding}), (), bundle.pipeline.pitch_up
    )
    across, down = drawn[0][2]
    assert np.sign(-down) == up
    assert across == 0


def test_the_contracts_disagree_on_the_same_raw_pitch():
    axes = {c: pipeline_row("detectorv2", c) for c in ("pyfeat-2.0", "pyfeat-2.1")}
    signs = {c: next(a for a in row.stage("multitask").axes if a.value == "pose").sign[0] for c, row in axes.items()}
    # the raw pitch is positive downwards: the column's sign times the row's `pitch_up` must be the same everywhere
    assert {c: signs[c] * row.pitch_up for c, row in axes.items()} == {"pyfeat-2.0": -1.0, "pyfeat-2.1": -1.0}


def test_draws_where_the_face_is_and_leaves_the_frame_alone(frame):
    before = frame.copy()
    (result,) = Detector().stream(frame)
    picture = overlay.draw(frame, result)
    assert np.array_equal(frame, before)
    changed = np.argwhere((picture != frame).any(axis=2))
    x1, y1, x2, y2 = FACE[0]
    assert changed[:, 1].min() > x1 - 20
    assert changed[:, 1].max() < x2 + 20
    assert changed[:, 0].min() > y1 - 25
    assert changed[:, 0].max() < y2 + 20


def test_stand_ins_are_written_across_the_picture(frame):
    (result,) = Detector().stream(np.zeros_like(frame))
    plain, labelled = (overlay.draw(frame, result, names) for names in ((), ("arcface",)))
    assert np.array_equal(plain, frame)
    assert (labelled[:10] != frame[:10]).mean() > 0.5


def test_gaze_emotions_and_action_units_are_drawn_in_words_and_arrows(frame):
    (found,) = Detector().stream(frame)
    labels = pipeline_row("detectorv1").labels
    emotion, au = np.zeros((1, 7), np.float32), np.zeros((1, 20), np.float32)
    emotion[0, 3], au[0, 9], au[0, 4], au[0, 0] = 0.9, 0.8, 0.6, 0.4
    said = {"emotion": emotion, "au": au, "gaze_rad": np.array([[0.0, 0.6, 0.6]], np.float32)}
    result = dataclasses.replace(found, values={**found.values, **said})
    assert overlay.words_of(result, 0, labels) == ["happiness 0.90", "AU12 0.80", "AU06 0.60"]
    assert overlay.words_of(result, 0, {}) == []
    picture = overlay.draw(frame, result, labels=labels)
    drawn = (picture == np.array(overlay.GAZE, np.uint8)).all(axis=2)
    x, y = result.points_xy_px[0, :2].mean(axis=0)
    rows, columns = np.argwhere(drawn).T
    assert columns.max() > x + 40  # +yaw looks to the picture's right
    assert abs(rows.mean() - y) < 10
    up = overlay.gaze_direction(0.5, 0.0)
    assert up[0] == 0
    assert up[1] < 0


def crowd(frame, side, count=20):
    """A frame of a crowd, and its result: `count` faces of `side` px, side by side."""
    (found,) = Detector().stream(frame)
    across = np.arange(count, dtype=np.float32)[:, None] * (side + 4) % (frame.shape[1] - side)
    boxes = np.concatenate([across, across * 0 + 40, across + side, across * 0 + 40 + side], axis=1).astype(np.float32)
    values = {
        "boxes_xyxy_px": boxes,
        "scores": np.ones(count, np.float32),
        "points_xy_px": np.repeat(boxes[:, :2], 5, axis=0).reshape(count, 5, 2) + side / 2,
    }
    return dataclasses.replace(found, values=values, facerects_xywh_px=boxes - np.tile(boxes[:, :2], 2) * [0, 0, 1, 1])


@pytest.mark.parametrize(("side", "factor"), [(20, 3), (60, 2), (150, 1)])
def test_pictures_of_small_faces_are_enlarged_where_they_are_one_each(frame, side, factor):
    result = crowd(frame, side)
    assert overlay.draw(frame, result).shape == frame.shape  # frames of a video are of one size
    picture = overlay.draw(frame, result, magnify=True)
    assert picture.shape[:2] == (frame.shape[0] * factor, frame.shape[1] * factor)
    assert max(picture.shape) <= overlay.MOST_SIDE


def test_words_are_little_wider_than_the_face_beside_which_they_stand(monkeypatch):
    frame = np.zeros((3000, 4000, 3), np.uint8)
    scales = []
    monkeypatch.setattr(overlay, "_text", lambda image, text, at, colour, scale: scales.append(scale))
    for side in (190, 900):
        overlay.draw(frame, crowd(frame, side, 1))
    small, large = scales
    import cv2

    width = cv2.getTextSize("Surprise 0.99", cv2.FONT_HERSHEY_SIMPLEX, small, round(1.5 * small))[0][0]
    assert 0.8 * 190 < width < 1.5 * 190
    assert large == pytest.approx(900 / 350)

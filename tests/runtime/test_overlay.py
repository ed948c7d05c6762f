from __future__ import annotations

import numpy as np
import pytest
from conftest import FACE

from fexruntime import Detector, overlay


def test_axes_of_a_face_that_looks_straight_at_the_camera():
    left, up, forward = overlay.pose_axes(0, 0, 0)
    assert left.tolist() == pytest.approx([1, 0])
    assert up.tolist() == pytest.approx([0, -1])
    assert forward.tolist() == pytest.approx([0, 0])


def test_axes_follow_fex_signs():
    assert overlay.pose_axes(0.3, 0, 0)[2][1] < -0.2  # +pitch: the nose goes up the picture
    assert overlay.pose_axes(0, 0, 0.3)[2][0] < -0.2  # +yaw: to the subject's right, the picture's left
    assert overlay.pose_axes(0, 0.3, 0)[1][0] < -0.2  # +roll: the head's top goes to the picture's left


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

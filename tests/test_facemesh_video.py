"""FaceMesh's video mode: faces read where the last frame's mesh lay. Held to mediapipe's own in docs/facemesh.md's table."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fexruntime import Detector
from fexruntime.errors import InputError
from fexruntime.options import Options


@pytest.fixture(scope="module")
def facemesh():
    return Detector("facemesh", threads=1)


@pytest.fixture(scope="module")
def film(frame):
    """A window that drifts over the photograph; the face is covered in two frames."""
    images = np.stack([frame[2 * n : 2 * n + 360, 60 + 4 * n : 420 + 4 * n] for n in range(9)])
    images[4:6] = 90
    return images


def walked(detector, frames, **options):
    walk = detector.walk(frames, Options(use_prev_landmarks=True, **options))
    return [r for batch in walk.batches() for _, r in batch], walk.tracker


def test_faces_are_looked_for_only_while_fewer_are_known(facemesh, film):
    results, tracker = walked(facemesh, film, max_faces=1, track=True)
    assert [len(r) for r in results] == [1, 1, 1, 1, 0, 0, 1, 1, 1]
    # the first, the one after the face was lost, and the one in which it is there again
    assert (tracker.detected, tracker.followed) == (3, 6)
    assert [t for r in results for t in r.tracks.tolist()] == [0] * 4 + [1] * 3
    single = list(facemesh.stream(film))
    for n, (one, other) in enumerate(zip(results, single, strict=True)):
        if len(one):
            apart = np.abs(one.mesh_xyz_px[:, :468] - other.mesh_xyz_px[:, :468])
            assert (apart.max() == 0) == (n in (0, 6))
            assert apart.mean() < 1.5
            if n not in (0, 6):
                xy = one.mesh_xyz_px[0, :, :2]
                np.testing.assert_array_equal(one.boxes_xyxy_px[0], [*xy.min(axis=0), *xy.max(axis=0)])
    every, tracker = walked(facemesh, film)
    assert tracker.detected == 9
    assert [len(r) for r in every] == [len(r) for r in results]
    assert "track" not in every[0].values
    _, tracker = walked(facemesh, film, detect_every=3)
    assert 3 < tracker.detected < 9


def test_what_was_written_down_goes_on_exactly(facemesh, film):
    whole, _ = walked(facemesh, film, max_faces=1)
    first = facemesh.walk(film[:3], Options(use_prev_landmarks=True, max_faces=1))
    assert len([r for batch in first.batches() for r in batch]) == 3
    second = facemesh.walk(film[3:], Options(use_prev_landmarks=True, max_faces=1, batch_size=4))
    second.restore(json.loads(json.dumps(first.state())))
    rest = [r for batch in second.batches() for _, r in batch]
    for one, other in zip(whole[3:], rest, strict=True):
        np.testing.assert_array_equal(one.mesh_xyz_px, other.mesh_xyz_px)


def test_columns_change_nothing(facemesh, film):
    whole = facemesh.detect(film, use_prev_landmarks=True, max_faces=1)
    pose = facemesh.detect(film, use_prev_landmarks=True, max_faces=1, columns=["pose"])
    np.testing.assert_array_equal(whole.block(["Yaw"]), pose.block(["Yaw"]))


def test_where_it_cannot_be_had_it_is_said(facemesh, frame):
    with pytest.raises(InputError, match="has no mesh to follow"):
        Detector().detect(frame, use_prev_landmarks=True)
    with pytest.raises(InputError, match="exclude each other"):
        facemesh.detect(frame, use_prev_landmarks=True, region="frame")

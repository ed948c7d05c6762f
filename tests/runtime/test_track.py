"""Faces followed between detections, numbered, named once a track; boxes smoothed as py-feat's."""

from __future__ import annotations

import json
from pathlib import Path

import clips
import cv2
import numpy as np
import pytest

from fexruntime import Detector
from fexruntime.errors import InputError
from fexruntime.options import Options
from fexruntime.track import smooth_boxes

GOLDENS = Path(__file__).parent.parent / "goldens"


@pytest.fixture(scope="module")
def film(tmp_path_factory, photo):
    """A face that drifts across the picture, by half a pixel to a pixel a frame, and comes nearer: no cut, no jump."""
    whole = cv2.cvtColor(cv2.imread(str(photo)), cv2.COLOR_BGR2RGB)
    images = []
    for n in range(24):
        left, top, side = 120 + n, 20 + n // 2, 190 - n // 2
        part = whole[top : top + side, left : left + side]
        images.append(cv2.resize(part, (clips.SIZE, clips.SIZE), interpolation=cv2.INTER_AREA))
    return clips.write(tmp_path_factory.mktemp("track") / "film.mp4", images)


def followed(detector, frames, every):
    walk = detector.walk(frames, Options(detect_every=every))
    return [r for batch in walk.batches() for _, r in batch], walk.tracker


@pytest.mark.parametrize("every", [2, 5])
def test_boxes_that_are_followed_stay_near_those_that_are_found(film, every):
    detector = Detector()
    found = list(detector.stream(film))
    near, tracker = followed(detector, film, every)
    assert tracker.detected == -(-24 // every)
    assert tracker.followed == 24 - tracker.detected
    assert [r.tracks.tolist() for r in near] == [[0]] * 24
    apart = [np.abs(a.boxes_xyxy_px - b.boxes_xyxy_px).max() for a, b in zip(found, near, strict=True)]
    width = found[0].boxes_xyxy_px[0, 2] - found[0].boxes_xyxy_px[0, 0]
    assert max(apart[::every]) == 0  # a detection is what it would have been
    assert 0 < np.mean(apart) < 0.05 * width
    moved = [np.abs(found[k].boxes_xyxy_px - found[k - k % every].boxes_xyxy_px).max() for k in range(24)]
    assert np.mean(apart) < np.mean(moved)  # nearer than a box that is left where it was


def test_a_cut_of_scene_is_looked_at_at_once(photo):
    face = clips.pictures(photo, 4)
    blank = [np.full_like(face[0], 15)] * 3
    results, tracker = followed(Detector(), np.stack([*face, *blank, *face]), 100)
    assert [len(r) for r in results] == [1] * 4 + [0] * 3 + [1] * 4
    assert [t for r in results for t in r.tracks.tolist()] == [0] * 4 + [1] * 4
    assert tracker.detected == 3


def test_a_face_that_is_lost_is_looked_for(photo):
    face = clips.pictures(photo, 1)[0]
    covered = face.copy()
    covered[20:150, 10:150] = 128  # of much the same brightness: no cut
    results, tracker = followed(Detector(), np.stack([face, face, covered, covered]), 100)
    assert [len(r) for r in results][:2] == [1, 1]
    assert [len(r) for r in results][2:] == [0, 0]
    assert tracker.detected >= 2


def test_two_videos_share_no_track(film, tmp_path):
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(film.read_bytes())
    results, _ = followed(Detector(), [film, copy], 4)
    assert {t for r in results[:24] for t in r.tracks} == {0}
    assert {t for r in results[24:] for t in r.tracks} == {1}


def test_an_identity_is_computed_once_a_track(v1_edge_bundle, film):
    ran: list[tuple[str, int]] = []
    with Detector(v1_edge_bundle, observe=lambda stage, seconds, items: ran.append((stage, items))) as detector:
        tracked = detector.detect(film, track=True)
        once = [items for stage, items in ran if stage == "identity network"]
        others = [items for stage, items in ran if stage == "landmarks network"]
        assert (sum(once), sum(others)) == (1, 24)
        assert tracked.identities == ["Person_0"] * 24
        assert tracked.columns[-1] == "track"
        assert np.ptp(tracked.block([f"Identity_{k}" for k in range(1, 513)]), axis=0).max() == 0
        ran.clear()
        detector.detect(film, columns=["facebox", "pose"], track=True)
        assert not [stage for stage, _ in ran if stage == "identity network"]


def test_off_by_default_and_then_the_table_is_pyfeats(v1_edge_bundle, film):
    with Detector(v1_edge_bundle) as detector:
        plain, tracked = detector.detect(film, skip_frames=8), detector.detect(film, skip_frames=8, track=True)
        assert "track" not in plain
        assert tracked["track"].tolist() == [0, 0, 0]
        np.testing.assert_array_equal(plain.block(["x_0", "Yaw"]), tracked.block(["x_0", "Yaw"]))
        with pytest.raises(InputError, match="needs faces to be tracked"):
            detector.detect(film, columns=["track"])


def test_boxes_are_smoothed_as_pyfeats():
    golden = json.loads((GOLDENS / "smooth_bboxes.json").read_text(encoding="utf-8"))
    before = None
    for boxes, expected in zip(golden["boxes"], golden["smoothed"], strict=True):
        before = smooth_boxes(np.array(boxes, np.float32), before, golden["alpha"])
        np.testing.assert_allclose(before, np.array(expected, np.float32), atol=1e-4)


def test_smoothing_is_an_option(film):
    detector = Detector()
    found, smooth = list(detector.stream(film)), list(detector.stream(film, bbox_smoothing_alpha=0.3))
    expected = found[0].boxes_xyxy_px
    for plain, smoothed in zip(found, smooth, strict=True):
        expected = smooth_boxes(plain.boxes_xyxy_px, expected, 0.3) if plain is not found[0] else expected
        np.testing.assert_allclose(smoothed.boxes_xyxy_px, expected, atol=1e-3)
    assert np.abs(smooth[1].boxes_xyxy_px - found[1].boxes_xyxy_px).max() > 0.1

"""FaceMesh's video mode: faces read where the last frame's mesh lay. Held to mediapipe's own in docs/facemesh.md's table."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path

import clips
import numpy as np
import pytest
from command import fexport, stopped_at_rows

from fexport import build, plan
from fexruntime import Detector, landmark_track
from fexruntime.errors import InputError
from fexruntime.landmark_track import LandmarkTracker
from fexruntime.options import Options
from fexruntime.recording import record
from fexruntime.results import FrameResult
from fexruntime.sources.frame import Frame
from fexruntime.sources.images import read_image

GOLDENS = Path(__file__).parent / "goldens"


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


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_recording_gone_on_with_is_the_whole_ones_byte_for_byte(facemesh, photo, tmp_path, suffix):
    """`fexport run VIDEO --use-prev-landmarks`, stopped, and then `--resume`."""
    film = clips.write(tmp_path / "film.mp4", clips.pictures(photo, 16))
    whole, out, stop = tmp_path / f"whole{suffix}", tmp_path / f"out{suffix}", threading.Event()
    seen = []

    def on_batch(pairs):
        seen.extend(pairs)
        if len(seen) >= 7:
            stop.set()

    given = {"use_prev_landmarks": True, "max_faces": 1, "batch_size": 1}
    record(facemesh, film, whole, **given)
    assert record(facemesh, film, out, on_batch=on_batch, stop=stop, **given).frames == 7
    again = record(facemesh, film, out, resume=True, **given)
    assert (again.frames, again.resumed_frames) == (16, 7)
    assert out.read_bytes() == whole.read_bytes()
    single = tmp_path / f"single{suffix}"
    record(facemesh, film, single, **{**given, "use_prev_landmarks": False})
    assert single.read_bytes() != whole.read_bytes()  # the squares that went on are no new detections


def test_the_command_stopped_and_gone_on_with_follows_the_same_faces(photo, tmp_path):
    film = clips.write(tmp_path / "film.mp4", clips.pictures(photo, 300))
    out, whole = tmp_path / "out.csv", tmp_path / "whole.csv"

    def arguments(to):
        return ["run", "--bundle", "facemesh", film, "--out", to, "--use-prev-landmarks", "--max-faces", "1"]

    # a row has about 15,000 bytes
    status, said, wrong = stopped_at_rows(arguments(out), out, 100_000, signal.SIGTERM)
    assert status == 143, wrong
    assert "--resume goes on" in said
    done = fexport(*arguments(out), "--resume")
    assert done.returncode == 0, done.stderr
    assert fexport(*arguments(whole)).returncode == 0
    assert out.read_bytes() == whole.read_bytes()


def test_a_run_is_as_far_from_itself_as_from_mediapipe(facemesh, film, monkeypatch):
    """A hundred-thousandth of a pixel in a square, once, is a hundred times that in the frames behind: nobody else's run can be nearer."""
    whole, _ = walked(facemesh, film[:4], max_faces=1)
    exact, frames = landmark_track._region, []

    def nudged(corners_and_eyes, frame):
        frames.append(frame)
        return exact(corners_and_eyes + np.float32(3e-5 if len(frames) == 1 else 0), frame)

    monkeypatch.setattr(landmark_track, "_region", nudged)
    again, _ = walked(facemesh, film[:4], max_faces=1)
    apart = [np.nanmax(np.abs(a.mesh_xyz_px - b.mesh_xyz_px)) for a, b in zip(whole, again, strict=True)]
    assert apart[0] == 0
    assert 3e-4 < apart[1] < 0.05
    assert 3e-3 < max(apart[2:]) < 0.5


@pytest.mark.parametrize(("refined", "most"), [(False, 3), (True, 5)])
def test_several_faces_are_followed_as_mediapipe_follows_them(reference, tmp_path, refined, most):
    """Six frames of a picture of three faces that moves by (2, 1) pixels: as many faces, in the same order, each frame."""
    picture = read_image(reference / "images" / "multi_face.jpg")
    height, width = picture.shape[:2]
    frames = np.zeros((6, *picture.shape), np.uint8)
    for k, moved in enumerate(frames):
        moved[k:, 2 * k :] = picture[: height - k, : width - 2 * k]
    if not refined:
        build.build(plan.plan("facemesh"), tmp_path / "plain")
    detector = Detector("facemesh" if refined else tmp_path / "plain", threads=1)
    found = detector.stream(frames, use_prev_landmarks=True, max_faces=most, mediapipe_presence=refined)
    with np.load(GOLDENS / "facemesh_video_mediapipe01021.npz") as said:
        for k, result in enumerate(found):
            mediapipes = said[f"{'refined' if refined else 'plain'}_{k}"]
            assert len(result) == len(mediapipes)
            if len(result):
                # feed-back: a hundredth of a pixel moves the next square, and so on
                assert np.abs(result.mesh_xyz_px[:, said["points"]] - mediapipes).max() < (0.02 if k == 0 else 0.35)


def test_columns_change_nothing(facemesh, film):
    whole = facemesh.detect(film, use_prev_landmarks=True, max_faces=1)
    pose = facemesh.detect(film, use_prev_landmarks=True, max_faces=1, columns=["pose"])
    np.testing.assert_array_equal(whole.block(["Yaw"]), pose.block(["Yaw"]))


def test_where_it_cannot_be_had_it_is_said(facemesh, frame):
    with pytest.raises(InputError, match="has no mesh to follow"):
        Detector().detect(frame, use_prev_landmarks=True)
    with pytest.raises(InputError, match="exclude each other"):
        facemesh.detect(frame, use_prev_landmarks=True, region="frame")
    with pytest.raises(InputError, match="exclude each other"):
        facemesh.detect(frame, use_prev_landmarks=True, bbox_smoothing_alpha=0.5)


def seen_at(*places):
    """What a finder says of faces whose regions are squares of 60 px with their upper left corners there."""
    corners = np.array([[0, 60], [0, 0], [60, 0], [60, 60]], np.float32)
    regions = np.array([corners + np.float32(at) for at in places], np.float32).reshape(-1, 4, 2)
    boxes = np.concatenate([regions.min(axis=1) + 10, regions.max(axis=1) - 10], axis=1)
    return {"boxes_xyxy_px": boxes, "scores": np.ones(len(places), np.float32), "region_xy_px": regions}


def stepped(tracker, frame, *places, unknown=()):
    """The numbers of a frame's faces; a finder would see them at these places, and the meshes of some are not known."""
    (values,) = tracker.found([frame], lambda frames: [seen_at(*places)])
    boxes = values["boxes_xyxy_px"]
    share = np.random.default_rng(1).random((1, 468, 2), np.float32)
    mesh = boxes[:, None, :2] + share * (boxes[:, None, 2:] - boxes[:, None, :2])
    mesh[np.isin(values["track"], unknown)] = np.nan
    said = {"mesh_xyz_px": np.pad(mesh, ((0, 0), (0, 0), (0, 1))), "presence": values["scores"]}
    tracker.remember([FrameResult(0, "", (200, 300), boxes.copy(), values | said)])
    return values["track"].tolist()


@pytest.fixture
def blank():
    return Frame(np.zeros((200, 300, 3), np.uint8), 0, "")


def following(every):
    gives = ("boxes_xyxy_px", "scores", "region_xy_px")
    return LandmarkTracker("mesh_xyz_px", "presence", gives, Options(detect_every=every, track=True))


def test_a_number_is_given_to_a_new_face_alone(blank):
    tracker = following(1)
    assert stepped(tracker, blank, (10, 10)) == [0]
    assert stepped(tracker, blank, (11, 10)) == [0]
    assert stepped(tracker, blank, (12, 10), (150, 90)) == [1, 0]


def test_faces_are_looked_for_when_the_mesh_of_one_is_not_known(blank):
    tracker, both = following(9), ((10, 10), (150, 90))
    for unknown in ((), (1,)):
        assert sorted(stepped(tracker, blank, *both, unknown=unknown)) == [0, 1]
    assert tracker.detected == 1
    assert sorted(stepped(tracker, blank, *both)) == [0, 2]
    assert tracker.detected == 2


@pytest.mark.parametrize(
    "forged",
    [
        {"next": "1"},
        {"lost": 0},
        {"source": [1]},
        {"size": [200, None]},
        {"faces": [[0, ["<f4", [2], "AAAAAAAAAAA="]]]},
    ],
)
def test_a_forged_state_is_refused_before_it_is_gone_on_with(blank, forged):
    tracker = following(1)
    stepped(tracker, blank, (10, 10))
    state = json.loads(json.dumps(tracker.state()))
    following(1).restore(state)
    with pytest.raises(ValueError, match=r"none|not one of"):
        following(1).restore(state | forged)

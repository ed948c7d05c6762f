"""fexport run, as a user calls it."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil

import clips
import cv2
import pytest
from command import fexport, refused

from fexruntime.bundle import edge_bundle_path


def test_run_finds_the_face_without_a_build(photo, tmp_path):
    done = fexport("run", photo, "--out", tmp_path / "faces.csv", "--overlay", tmp_path / "pictures")
    assert done.returncode == 0, done.stderr
    assert "1 face in 1 image: 1 row" in done.stdout
    with (tmp_path / "faces.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["FaceScore"]) > 0.99
    picture = cv2.imread(str(tmp_path / "pictures" / "astronaut.png"))
    assert picture.shape == (512, 512, 3)


def test_run_shows_a_table(photo):
    done = fexport("run", photo)
    assert done.returncode == 0
    assert "astronaut.jpg" in done.stdout
    assert "0.999" in done.stdout


def test_run_with_a_bundle_shows_pose_aus_emotion_and_labels_stand_ins(v28_bundle, photo):
    done = fexport("run", v28_bundle, photo)
    assert done.returncode == 0, done.stderr
    assert "pitch roll yaw" in done.stdout
    assert re.search(r"AU\d\d 0\.\d\d, AU\d\d 0\.\d\d", done.stdout), done.stdout
    assert "Person_0" in done.stdout
    assert "STAND-IN WEIGHTS in retinaface-r34, multitask-v28, arcface" in done.stderr


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_other_formats(photo, tmp_path, suffix):
    assert fexport("run", "edge", photo, "--out", tmp_path / f"x.{suffix}").returncode == 0
    assert (tmp_path / f"x.{suffix}").stat().st_size > 100


def test_bad_input_is_one_line_and_leaves_nothing(photo, tmp_path):
    out = tmp_path / "faces.csv"
    (tmp_path / "text.jpg").write_text("hello", encoding="utf-8")
    (tmp_path / "cut.jpg").write_bytes(photo.read_bytes()[:20000])
    (tmp_path / "empty").mkdir()
    for name, says in (
        ("missing.jpg", "No such file"),
        ("text.jpg", "not an image"),
        ("cut.jpg", "cut off"),
        ("empty", "no images"),
    ):
        refused(fexport("run", tmp_path / name, "--out", out), says, name)
        assert not list(tmp_path.glob("faces.csv*"))
        # what was read before it is kept for --resume, in a part that is no table yet; drawings are not
        later = tmp_path / f"{name}.csv"
        done = fexport("run", photo, tmp_path / name, "--out", later, "--overlay", tmp_path / "o")
        refused(done, says, *(() if name == "missing.jpg" else ("1 row is kept",)))
        assert not later.exists()
        assert not (tmp_path / "o").exists()
    again = fexport("run", photo, tmp_path / "cut.jpg", "--out", tmp_path / "cut.jpg.csv")
    refused(again, "has 1 row of a run that did not end: go on with --resume")
    done = fexport("run", photo, tmp_path / "cut.jpg", "--out", tmp_path / "cut.jpg.csv", "--resume", "--skip-bad")
    assert done.returncode == 3
    assert "1 row in" in done.stdout


def test_overlays_never_replace_a_picture_and_never_each_other(photo, tmp_path):
    picture = cv2.imread(str(photo))
    for name in ("a.png", "a.jpg", "a_2.bmp"):
        cv2.imwrite(str(tmp_path / name), picture)
    before = (tmp_path / "a.png").read_bytes()
    refused(fexport("run", tmp_path, "--overlay", tmp_path), "is a folder of inputs")
    done = fexport("run", *(tmp_path / n for n in ("a.jpg", "a.png", "a_2.bmp")), "--overlay", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.png").read_bytes() == before
    assert sorted(p.name for p in tmp_path.glob("*.png")) == ["a.png", "a_2.png", "a_2_2.png", "a_3.png"]


def test_bad_images_are_skipped_where_asked_for(photo, tmp_path):
    (tmp_path / "text.jpg").write_text("hello", encoding="utf-8")
    done = fexport("run", tmp_path / "text.jpg", photo, "--skip-bad", "--out", tmp_path / "x.csv")
    assert done.returncode == 3
    assert "Skipped:" in done.stderr
    with (tmp_path / "x.csv").open() as file:
        assert [row["frame"] for row in csv.DictReader(file)] == ["1"]


def test_swapped_and_mistyped_bundles_are_told(photo, tmp_path):
    refused(fexport("run", photo, edge_bundle_path()), "is a bundle: give it first")
    refused(fexport("run", tmp_path / "bundel", photo), "neither a bundle nor an image")


def test_columns_are_chosen_by_name_and_by_group(v1_edge_bundle, photo, tmp_path):
    done = fexport("run", v1_edge_bundle, photo, "--columns", "pose, FaceRectX", "--out", tmp_path / "x.csv")
    assert done.returncode == 0, done.stderr
    head = (tmp_path / "x.csv").read_text(encoding="utf-8").splitlines()[0]
    assert head == "FaceRectX,Pitch,Roll,Yaw,X,Y,Z,input,frame"
    refused(fexport("run", v1_edge_bundle, photo, "--columns", "AU99"), "no column or group 'AU99'")
    refused(fexport("run", v1_edge_bundle, photo, "--columns", "au"), "built without what gives au")
    assert "pitch roll yaw" in fexport("run", v1_edge_bundle, photo, "--columns", "pose").stdout


def test_a_picture_that_cannot_be_written_does_not_cost_the_rows(photo, tmp_path):
    (tmp_path / "drawn" / "astronaut.png").mkdir(parents=True)
    done = fexport("run", photo, "--out", tmp_path / "x.csv", "--overlay", tmp_path / "drawn")
    refused(done, "cannot write", "astronaut.png")
    assert done.returncode == 1
    assert (tmp_path / "x.csv").read_text(encoding="utf-8").count("\n") == 2


def test_names_in_brackets_are_shown_as_they_are(photo, tmp_path):
    for name in ("me[red].jpg", "a[bold].jpg"):
        shutil.copy(photo, tmp_path / name)
    done = fexport("run", tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("me[red].jpg", "a[bold].jpg"):
        assert name in done.stdout


def test_names_that_are_not_utf8_are_shown_and_written(photo, tmp_path):
    shutil.copy(photo, os.fsencode(tmp_path) + b"/caf\xe9.jpg")
    done = fexport("run", tmp_path, "--out", tmp_path / "x.jsonl")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "x.jsonl").read_text(encoding="utf-8"))["input"].endswith("caf\\xe9.jpg")
    assert "caf\\xe9.jpg" in fexport("run", tmp_path).stdout


def test_skip_bad_hears_of_empty_folders_too(photo, tmp_path):
    (tmp_path / "empty").mkdir()
    done = fexport("run", photo, tmp_path / "empty", photo, "--skip-bad", "--out", tmp_path / "x.csv")
    assert done.returncode == 3, done.stderr
    assert "no images in the folder" in done.stderr
    with (tmp_path / "x.csv").open() as file:
        assert [row["frame"] for row in csv.DictReader(file)] == ["0", "2"]


def test_a_folder_called_edge_hides_nothing(photo, tmp_path):
    (tmp_path / "edge").mkdir()
    shutil.copy(photo, tmp_path / "edge" / "p.jpg")
    assert "1 face" in fexport("run", photo, "--out", "x.csv", cwd=tmp_path).stdout
    assert "1 face" in fexport("run", "./edge", "--out", "y.csv", cwd=tmp_path).stdout
    refused(fexport("run", "edge", cwd=tmp_path), "a folder of that name is ./edge")
    assert fexport("verify", cwd=tmp_path).returncode == 0


def test_opencv_adds_nothing_to_the_one_sentence(frame, tmp_path):
    for suffix in (".bmp", ".tiff", ".webp"):
        done, data = cv2.imencode(suffix, frame[:200, :200])
        assert done
        (tmp_path / f"cut{suffix}").write_bytes(data.tobytes()[: len(data) // 2])
        refused(fexport("run", tmp_path / f"cut{suffix}"), "Error: ", "is not an image")
        said = fexport("run", tmp_path / f"cut{suffix}").stderr
        assert "[ERROR" not in said
        assert len(said.splitlines()) == 1, said


def test_a_picture_without_a_face_is_none_whatever_columns_are_shown(tmp_path):
    import numpy as np

    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((96, 96, 3), np.uint8))
    for columns in ("FaceScore", "facebox", "FaceRectX"):
        shown = fexport("run", tmp_path / "black.png", "--columns", columns).stdout
        assert "none" in shown, columns


def test_rows_of_videos_are_told_apart_by_their_frame(photo, tmp_path):
    for name in ("a.mp4", "b.mp4"):
        clips.write(tmp_path / name, clips.pictures(photo, 3))
    done = fexport("run", "a.mp4", "b.mp4", "--skip-frames", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    head, *lines = (line.split() for line in done.stdout.splitlines()[:5])
    assert head[:3] == ["image", "frame", "face"]
    assert [line[:3] for line in lines] == [[n, f, "0"] for n in ("a.mp4", "b.mp4") for f in ("0", "2")]

"""What a stranger meets: nothing overwritten by surprise, results that say where they come from, rows for a pipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import fexport, refused

from fexruntime import open_bundle, overlay
from fexruntime.contracts import CONTRACTS
from fexruntime.sources.folders import files_in


def test_a_bundle_is_replaced_with_force_alone(tmp_path):
    out = tmp_path / "b"
    assert fexport("build", out, "--pipeline", "faces").returncode == 0
    before = (out / "manifest.json").read_bytes()
    done = fexport("build", out, "--pipeline", "faces", "--face-detector", "retinaface-r34", "--stand-in-all")
    refused(done, "is a bundle of faces (pyfeat-2.1) already", "--force")
    assert (out / "manifest.json").read_bytes() == before
    done = fexport("build", out, "--pipeline", "faces", "--force")
    assert done.returncode == 0, done.stderr


def test_made_up_weights_that_replace_real_ones_are_said(tmp_path):
    from fexport import build, plan, publish
    from fexport.cli.build import _warn_of_stand_ins

    build.build(plan.plan("faces"), tmp_path / "b")
    assert publish.check_target(tmp_path / "b") == ["retinaface-mobilenet025"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(open_bundle()), "stand_ins", property(lambda bundle: ["retinaface-mobilenet025"]))
        said = []
        patch.setattr("fexport.cli.build.click.secho", lambda text, **_: said.append(text))
        _warn_of_stand_ins(tmp_path / "b", ["retinaface-mobilenet025", "arcface"])
    assert said[-1] == "The bundle that was replaced had real weights in retinaface-mobilenet025."


def test_stand_in_all_excludes_what_asks_for_weights(tmp_path):
    refused(fexport("build", tmp_path / "b", "--stand-in-all", "--weights", tmp_path), "asks nobody")
    assert not (tmp_path / "b").exists()


def test_a_table_has_its_origin_beside_it_and_in_the_last_line(photo, tmp_path):
    done = fexport("run", photo, "--out", tmp_path / "x.csv", "--max-faces", "3")
    assert done.stdout.splitlines()[-1] == "contract pyfeat-2.1 (py-feat 2.1.5 face detection)"
    said = json.loads((tmp_path / "x.csv.meta.json").read_text(encoding="utf-8"))
    assert said["contract"] == CONTRACTS[0] == "pyfeat-2.1"
    assert said["stand_ins"] == []
    assert said["options"]["max_faces"] == 3
    assert said["weights"]["faces"][0]["source"] == "package"
    assert len(said["weights"]["faces"][0]["sha256"]) == len(said["bundle_sha256"]) == 64


def test_rows_for_a_pipe_are_json_and_nothing_else(photo, tmp_path):
    done = fexport("run", "--bundle", "facemesh", photo, "--columns", "pose", "--json")
    (row,) = map(json.loads, done.stdout.splitlines())
    assert set(row) == {"Pitch", "Roll", "Yaw", "input", "frame"}
    assert "contract mediapipe-0.10" in done.stderr
    refused(fexport("run", photo, "--json", "--out", tmp_path / "x.csv"), "leave --out")
    refused(fexport("run", photo, "--out", "-", "--resume"), "--out rows.csv")


@pytest.mark.parametrize("method", ["gallery", "connected"])
def test_rows_on_stdout_are_those_of_a_file(v1_bundle, pictures, tmp_path, method):
    options = (v1_bundle, pictures, "--identity-method", method, "--columns", "facebox,Identity")
    assert fexport("run", *options, "--out", tmp_path / "x.csv").returncode == 0
    done = fexport("run", *options, "--out", "-")
    assert done.returncode == 0
    assert done.stdout == (tmp_path / "x.csv").read_text(encoding="utf-8")
    assert fexport("run", *options, "--out", tmp_path / "x.jsonl").returncode == 0
    assert fexport("run", *options, "--json").stdout == (tmp_path / "x.jsonl").read_text(encoding="utf-8")


def test_the_verdict_is_read_in_a_narrow_terminal():
    for width in ("60", "80", "109", "140"):
        shown = fexport("inspect", "edge", COLUMNS=width).stdout
        (row,) = {line for line in shown.splitlines() if "loc (of its range)" in line and "faces" in line}
        assert row.split()[-1] == "ok", width
        assert row.split().count("1.0e-04") == 1, width
        assert "━" not in row


def test_colours_are_left_out_where_asked_for(v28_bundle, photo):
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        done = fexport("run", v28_bundle, photo, "--columns", "FaceScore", **{name: value})
        assert "STAND-IN" in done.stderr
        assert "\x1b" not in done.stderr + done.stdout


def test_a_drawing_replaces_an_earlier_drawing_and_no_other_picture(photo, frame, tmp_path):
    import cv2

    cv2.imwrite(str(tmp_path / "astronaut.png"), frame)
    before = (tmp_path / "astronaut.png").read_bytes()
    for _ in range(2):
        assert fexport("run", photo, "--overlay", tmp_path).returncode == 0
    assert (tmp_path / "astronaut.png").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["astronaut.png", "astronaut_2.png"]
    assert overlay.is_drawing(tmp_path / "astronaut_2.png")
    assert cv2.imread(str(tmp_path / "astronaut_2.png")).shape == frame.shape


def test_bench_writes_over_nothing_of_others(tmp_path):
    (tmp_path / "report.md").write_text("mine", encoding="utf-8")
    for against in ((), ("--against", "edge")):
        (tmp_path / "bundles.json").write_text("{}", encoding="utf-8")
        refused(fexport("bench", "edge", *against, "--out", tmp_path), "fexport did not write it")
    assert {p.name: p.read_text(encoding="utf-8") for p in tmp_path.iterdir()} == {
        "report.md": "mine",
        "bundles.json": "{}",
    }


def test_folders_in_folders_and_patterns_are_read_where_that_is_asked_for(photo, tmp_path):
    import shutil

    for name in ("a.jpg", "in/b.jpg", "in/deeper/c.jpg", ".hidden/d.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, tmp_path / name)
    (tmp_path / "in" / "around").symlink_to(tmp_path)

    def read(*words):
        done = fexport("run", *words, "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return [json.loads(line)["input"] for line in done.stdout.splitlines()], done.stderr

    assert read(".")[0] == ["a.jpg"]
    assert "not read: 1 subfolder" in read(".")[1]
    assert read(".", "--recursive")[0] == ["a.jpg", "in/b.jpg", "in/deeper/c.jpg"]
    assert "not read: 1 linked folder" in read(".", "--recursive")[1]
    (tmp_path / "albums").mkdir()
    (tmp_path / "in" / "deeper").rename(tmp_path / "albums" / "deeper")  # a first folder of folders alone
    assert read("albums", "a.jpg", "--recursive")[0] == ["albums/deeper/c.jpg", "a.jpg"]
    refused(fexport("run", "albums", "a.jpg", cwd=tmp_path), "'albums' is neither a bundle")
    refused(
        fexport("run", "albums", cwd=tmp_path),
        "no images in the folder 'albums' (subfolders are read with --recursive alone)",
    )
    assert read("*.jpg", "in/*.jpg")[0] == ["a.jpg", "in/b.jpg"]
    refused(fexport("run", "no*.jpg", "a.jpg", cwd=tmp_path), "no file matches 'no*.jpg'")


def test_a_folder_in_a_folder_that_cannot_be_read_is_an_error(photo, tmp_path, monkeypatch):
    import os
    import shutil

    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "in/b.jpg"):
        shutil.copy(photo, tmp_path / name)
    scan = os.scandir

    def forbidden(place):
        if Path(place) == tmp_path / "in":
            raise PermissionError(13, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(PermissionError, match="in'"):
        files_in(tmp_path, (".jpg",), recursive=True)

"""The command as a user calls it: its own process, exit status, what it says, what it leaves."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from fexruntime.bundle import edge_bundle_path

FEXPORT = [sys.executable, "-c", "from fexport.cli import main; main()"]


def fexport(*arguments, cwd=None, **environment):
    return subprocess.run(
        [*FEXPORT, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"COLUMNS": "200"} | environment,
        check=False,
    )


def refused(done, *says):
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    for text in says:
        assert text in done.stderr.replace("\n", " "), done.stderr
    assert len(done.stderr.strip().splitlines()) <= 4, done.stderr


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
    assert "pitch, roll, yaw" in done.stdout
    assert re.search(r"AU\d\d 0\.\d\d, AU\d\d 0\.\d\d", done.stdout), done.stdout
    assert "Person_0" in done.stdout
    assert "STAND-IN WEIGHTS in retinaface-r34, multitask-v28, arcface" in done.stderr


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_other_formats(photo, tmp_path, suffix):
    assert fexport("run", "edge", photo, "--out", tmp_path / f"x.{suffix}").returncode == 0
    assert (tmp_path / f"x.{suffix}").stat().st_size > 100


def test_bad_input_is_one_line_and_leaves_nothing(photo, tmp_path):
    out = tmp_path / "faces.csv"
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "cut.jpg").write_bytes(photo.read_bytes()[:20000])
    (tmp_path / "empty").mkdir()
    for name, says in (
        ("missing.jpg", "No such file"),
        ("text.jpg", "not an image"),
        ("cut.jpg", "cut off"),
        ("empty", "no images"),
    ):
        refused(fexport("run", tmp_path / name, "--out", out), says, name)
        refused(fexport("run", photo, tmp_path / name, "--out", out, "--overlay", tmp_path / "o"), says)
        assert not out.exists()
        assert not (tmp_path / "o").exists()


def test_bad_targets_are_found_before_the_work(photo, tmp_path):
    refused(fexport("run", photo, "--out", tmp_path / "faces.xlsx"), ".csv, .parquet, .jsonl")
    (tmp_path / "file").write_text("")
    refused(fexport("run", photo, "--out", tmp_path / "file" / "faces.csv"), "is not a folder")
    refused(fexport("run", photo, "--overlay", tmp_path / "file" / "o"), "is not a folder")
    refused(fexport("build", tmp_path / "file", "--pipeline", "faces"), "it is a file")
    refused(fexport("build", tmp_path / "file" / "b", "--pipeline", "faces"), "is not a folder")


def test_a_folder_that_is_not_writable(photo, tmp_path):
    folder = Path("/proc") if os.geteuid() == 0 else tmp_path  # root may write anywhere else
    tmp_path.chmod(0o500)
    refused(fexport("run", photo, "--out", folder / "faces.csv"), "cannot write into")
    refused(fexport("run", photo, "--overlay", folder / "o"), "cannot write into")
    refused(fexport("build", folder / "b", "--pipeline", "faces"), "cannot write into")


def test_bad_choices_name_the_good_ones(photo, tmp_path):
    refused(fexport("run", photo, "--device", "cuda"), "device 'cuda' is not available")
    refused(fexport("run", photo, "--backend", "tflite"), "onnxruntime")
    refused(fexport("run", "edge"), "nothing to run on")
    refused(fexport("run", photo, "--output-size", "3"), "32")
    refused(fexport("build", tmp_path / "b", "--pipeline", "detectorv9"), "detectorv2")
    refused(fexport("build", tmp_path / "b", "--weights", tmp_path / "none"), "is not a folder")
    refused(fexport("inspect", tmp_path), "is not a bundle")
    refused(fexport("dance"), "dance")


def test_build_without_weights_says_what_is_missing(tmp_path):
    (tmp_path / "w").mkdir()
    done = fexport("build", tmp_path / "b", "--weights", tmp_path / "w")
    assert done.returncode == 1
    assert "retinaface_r34.safetensors, which is not in" in done.stderr
    assert not (tmp_path / "b").exists()


def test_offline_mode_is_honoured_and_the_fix_named(tmp_path):
    done = fexport("build", tmp_path / "b", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hub"))
    assert done.returncode == 1
    assert "--weights DIR" in done.stderr
    assert "Traceback" not in done.stderr


def test_build_verify_inspect(tmp_path):
    done = fexport("build", "here/bundle", "--pipeline", "faces", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "MIT" in done.stderr
    assert [p.name for p in (tmp_path / "here").iterdir()] == ["bundle"]
    done = fexport("verify", tmp_path / "here" / "bundle")
    assert done.returncode == 0
    assert "byte for byte" in done.stdout
    assert "the recorded answers are reproduced" in done.stdout
    assert "artefact against torch" in done.stdout
    done = fexport("inspect", tmp_path / "here" / "bundle")
    assert "with fexport" in done.stdout
    assert json.loads(fexport("inspect", "--json").stdout)["pipeline"] == "faces"


def test_verify_finds_a_changed_byte(tmp_path):
    shutil.copytree(edge_bundle_path(), tmp_path / "b")
    data = bytearray((tmp_path / "b" / "faces.onnx").read_bytes())
    data[-1000] ^= 4
    (tmp_path / "b" / "faces.onnx").write_bytes(data)
    refused(fexport("verify", tmp_path / "b"), "is not the file that was verified")
    refused(fexport("run", tmp_path / "b", __file__), "is not the file that was verified")


def test_verify_finds_answers_that_are_not_reproduced(tmp_path):
    """The digests agree, the numbers do not: another runtime that computes something else."""
    import hashlib
    import io

    import numpy as np

    shutil.copytree(edge_bundle_path(), tmp_path / "b")
    path = tmp_path / "b" / "faces.canonical.npz"
    recorded = dict(np.load(path))
    recorded["output.conf"] = recorded["output.conf"] + np.float32(1e-3)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **recorded)
    path.write_bytes(buffer.getvalue())
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    manifest["networks"]["faces"]["variants"][0]["canonical"]["sha256"] = hashlib.sha256(buffer.getvalue()).hexdigest()
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(manifest))
    done = fexport("verify", tmp_path / "b")
    assert done.returncode == 1
    assert "not reproduced" in done.stderr


def test_models_lists_licences_and_sizes():
    done = fexport("models")
    assert done.returncode == 0
    for text in (
        "arcface",
        "non-commercial",
        "88.6 MB",
        "pyfeat-2.1",
        "pose_mlp_v2.json",
        "unresolved",
        "2e4495d934ed",
        "no pin",
    ):
        assert text in done.stdout
    rows = json.loads(fexport("models", "--json").stdout)
    assert rows["networks"]["multitask-v28"]["files"][0]["filename"] == "face_multitask_v28.safetensors"


def test_doctor_has_a_verdict():
    done = fexport("doctor")
    assert done.returncode == 0, done.stdout
    assert "`fexport run` works here." in done.stdout


def test_help_and_version():
    assert "build" in fexport("--help").stdout
    assert "0.1.0" in fexport("--version").stdout


def test_the_readmes_commands_are_in_the_makefile():
    root = Path(__file__).parents[2]
    readme, makefile = ((root / name).read_text() for name in ("README.md", "Makefile"))
    for target in ("demo", "test"):
        assert f"make {target}" in readme
        assert f"\n{target}:" in makefile
    assert "make test" in (root / ".ci" / "run").read_text()


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


def test_verify_without_the_export_extra_says_what_it_left_out(tmp_path):
    """torch may be there without onnx: an ordinary environment that runs bundles."""
    program = (
        "import sys; sys.modules['onnx'] = None\nfrom fexport.cli import main\nsys.argv = ['fexport', 'verify']\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "not compared with torch: comparing with torch needs onnx" in done.stdout
    refused(fexport("verify", "--weights", tmp_path / "none"), "is not a folder")


def test_bad_images_are_skipped_where_asked_for(photo, tmp_path):
    (tmp_path / "text.jpg").write_text("hello")
    done = fexport("run", tmp_path / "text.jpg", photo, "--skip-bad", "--out", tmp_path / "x.csv")
    assert done.returncode == 3
    assert "Skipped:" in done.stderr
    with (tmp_path / "x.csv").open() as file:
        assert [row["frame"] for row in csv.DictReader(file)] == ["1"]


def test_swapped_and_mistyped_bundles_are_told(photo, tmp_path):
    refused(fexport("run", photo, edge_bundle_path()), "is a bundle: give it first")
    refused(fexport("run", tmp_path / "bundel", photo), "neither a bundle nor an image")


def test_doctors_fixes_name_the_extras():
    program = "import sys; sys.modules['pandas'] = None\nfrom fexport.cli import doctor\ndoctor.find_spec = lambda name: None\ndoctor.command()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
        check=False,
    )
    assert "pip install 'fexport[tables]'" in done.stdout
    assert done.returncode == 1


def test_one_option_a_stage_is_made_from_the_table():
    from fexruntime.contracts import PIPELINES

    help_text = fexport("build", "--help").stdout
    for row in PIPELINES:
        for stage in row.stages:
            assert f"--{stage.role}" in help_text
            for name in stage.networks:
                assert name in help_text
    assert "--face-detector" in help_text


def test_build_leaves_out_what_is_not_wanted_and_takes_several_folders(tmp_path):
    (tmp_path / "a").mkdir()
    arguments = ("--pipeline", "detectorv1", "--face-detector", "retinaface-mobilenet025", "--landmarks", "none")
    weights = ("--weights", tmp_path / "a", "--weights", tmp_path)
    refused(fexport("build", tmp_path / "b", *arguments, *weights), "--pose none")
    done = fexport("build", tmp_path / "b", *arguments, "--pose", "none", "--identity", "none", *weights)
    assert done.returncode == 0, done.stderr
    assert "1 network, all within tolerance" in done.stdout


def test_columns_are_chosen_by_name_and_by_group(v1_edge_bundle, photo, tmp_path):
    done = fexport("run", v1_edge_bundle, photo, "--columns", "pose, FaceRectX", "--out", tmp_path / "x.csv")
    assert done.returncode == 0, done.stderr
    head = (tmp_path / "x.csv").read_text().splitlines()[0]
    assert head == "FaceRectX,Pitch,Roll,Yaw,X,Y,Z,input,frame"
    refused(fexport("run", v1_edge_bundle, photo, "--columns", "AU99"), "no column or group 'AU99'")
    refused(fexport("run", v1_edge_bundle, photo, "--columns", "au"), "built without what gives au")
    assert "pitch, roll, yaw" in fexport("run", v1_edge_bundle, photo, "--columns", "pose").stdout


def test_a_picture_that_cannot_be_written_does_not_cost_the_rows(photo, tmp_path):
    (tmp_path / "drawn" / "astronaut.png").mkdir(parents=True)
    done = fexport("run", photo, "--out", tmp_path / "x.csv", "--overlay", tmp_path / "drawn")
    refused(done, "cannot write", "astronaut.png")
    assert done.returncode == 1
    assert (tmp_path / "x.csv").read_text().count("\n") == 2


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
    assert json.loads((tmp_path / "x.jsonl").read_text())["input"].endswith("caf\\xe9.jpg")
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


def test_the_cache_is_listed_and_emptied(photo, tmp_path):
    environment = {"FEXPORT_CACHE": str(tmp_path / "cache")}
    assert fexport("cache", "--path", **environment).stdout.strip() == str(tmp_path / "cache")
    assert "0 items" in fexport("cache", **environment).stdout
    fexport("run", photo, **environment)
    listed = fexport("cache", **environment).stdout
    assert "optimised ONNX graph" in listed
    assert "1 items" in listed
    assert "dropped" in fexport("cache", "--clear", **environment).stdout
    assert list((tmp_path / "cache").iterdir()) == []
    (tmp_path / "cache").chmod(0o777)
    refused(fexport("cache", **environment), "there is no cache", "set FEXPORT_CACHE")


def test_a_bundle_of_format_1_names_the_command_and_the_command_works(tmp_path, photo):
    import json as j

    bundle = tmp_path / "bundle"
    shutil.copytree(edge_bundle_path(), bundle)
    manifest = j.loads((bundle / "manifest.json").read_text())
    entry = manifest["networks"]["faces"]
    old = {k: entry[k] for k in ("network", "title", "inputs", "outputs", "weights")}
    old |= {"model": {"file": "faces.onnx"}, "canonical": {"file": "faces.canonical.npz"}}
    (bundle / "manifest.json").write_text(j.dumps(manifest | {"format": 1, "networks": {"faces": old}}))
    done = fexport("run", bundle, photo)
    refused(done, "has format 1; this version reads 2", "make it again with `fexport build")
    (command,) = re.findall("`fexport (build[^`]*)`", done.stderr)
    done = fexport(*command.split())
    assert done.returncode == 0, done.stderr
    assert fexport("run", bundle, photo).returncode == 0


def test_doctor_tries_what_run_does():
    program = (
        "import sys, onnxruntime as ort\n"
        "del ort.set_global_thread_pool_sizes\n"
        "ort.__version__ = '1.20.0'\n"
        "from fexport.cli import main\nsys.argv = ['fexport', 'doctor']\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
        check=False,
    )
    assert done.returncode == 1
    assert "needs ONNX Runtime 1.23" in done.stdout
    program = (
        "import sys; sys.modules['cv2'] = None\nfrom fexport.cli import main\nsys.argv = ['fexport', 'doctor']\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    assert "cannot be imported" in done.stdout


def test_a_picture_without_a_face_is_none_whatever_columns_are_shown(tmp_path):
    import numpy as np

    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((96, 96, 3), np.uint8))
    for columns in ("FaceScore", "facebox", "FaceRectX"):
        shown = fexport("run", tmp_path / "black.png", "--columns", columns).stdout
        assert "none" in shown, columns

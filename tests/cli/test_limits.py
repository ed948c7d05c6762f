"""A process that may have only so much memory, or write only so much: one sentence that names what, and what was read is kept."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess

import cv2
import numpy as np
import pytest
from command import FEXPORT, fexport, refused


def limited(which, most, *words, cwd):
    """A command under a limit of the system's."""
    _, hard = resource.getrlimit(which)
    return subprocess.run(
        [*FEXPORT, *map(str, words)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=cwd,
        preexec_fn=lambda: resource.setrlimit(which, (most, hard)),
        check=False,
    )


@pytest.fixture
def folder(photo, tmp_path):
    """Two photographs, and between them a picture that 1.5 GB do not hold what a network makes of."""
    for name in ("a.jpg", "c.jpg"):
        shutil.copy(photo, tmp_path / name)
    cv2.imwrite(str(tmp_path / "b.png"), np.zeros((4000, 6000, 3), np.uint8))
    return tmp_path


ALL = ("run", "a.jpg", "b.png", "c.jpg", "--detector-size", "whole", "--threads", "2", "--out", "x.csv")
BYTES = 1_500_000_000


def test_too_little_memory_is_one_sentence_and_the_rows_before_it_are_kept(folder):
    done = limited(resource.RLIMIT_AS, BYTES, *ALL, cwd=folder)
    refused(
        done, "'b.png' (6000 x 4000) could not be read: there is not enough memory", "1 row is kept in 'x.csv.part'"
    )
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.returncode == 1
    done = limited(resource.RLIMIT_AS, BYTES, *ALL, "--resume", "--skip-bad", cwd=folder)
    assert done.returncode == 3, done.stderr
    assert "2 faces in 2 images: 2 rows in x.csv (1 image of them from before)" in done.stdout
    assert not list(folder.glob("x.csv.p*"))


def test_too_little_memory_for_a_picture_passes_over_it_where_that_is_asked_for(folder):
    done = limited(resource.RLIMIT_AS, BYTES, *ALL, "--skip-bad", cwd=folder)
    assert done.returncode == 3, done.stderr
    assert "Skipped: 'b.png' (6000 x 4000) could not be read: there is not enough memory" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert len((folder / "x.csv").read_text(encoding="utf-8").splitlines()) == 3


def test_too_little_memory_is_an_error_of_its_own_in_a_program(folder):
    program = (
        "from fexruntime import Detector, FexportError, InferenceError, OutOfMemoryError\n"
        "with Detector(threads=2) as detector:\n"
        "    try:\n        detector.detect('b.png')\n"
        "    except OutOfMemoryError as error:\n"
        "        assert isinstance(error, InferenceError) and isinstance(error, FexportError)\n"
        "        print(len(detector.detect('a.jpg')))\n"
    )
    done = subprocess.run(
        [FEXPORT[0], "-c", program],
        capture_output=True,
        encoding="utf-8",
        cwd=folder,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (BYTES, resource.RLIM_INFINITY)),
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("1", "")


@pytest.mark.parametrize(
    ("most", "words", "named"),
    [
        (4096, ("run", "a.jpg", "--overlay", "o"), "'o/a.png'"),
        (400_000, ("build", "b", "--pipeline", "faces"), "faces.onnx'"),
        (40_000, ("bundle", "export", "edge", "e.tar"), "'e.tar'"),
        (40_000, ("triton", "edge", "models"), "models"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_file_that_may_not_grow_is_named(folder, most, words, named):
    done = limited(resource.RLIMIT_FSIZE, most, *words, cwd=folder)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert "File too large" in last
    assert named in last
    assert "Traceback" not in done.stderr
    assert not list(folder.glob("e.tar"))
    assert not (folder / "b" / "manifest.json").exists()


def test_the_packaged_detector_looks_at_large_files_where_it_is_good_and_says_so(photo, tmp_path):
    large = tmp_path / "large.png"
    cv2.imwrite(str(large), cv2.resize(cv2.imread(str(photo)), (2560, 2560), interpolation=cv2.INTER_CUBIC))
    said = "Faces were looked for at 1000 px in 1 larger frame"
    for words in ((large,), ("edge", large)):
        done = fexport("run", *words, photo, "--json")
        assert len(done.stdout.splitlines()) == 2  # a face each, and none on cloth
        assert said in done.stderr
    assert said not in fexport("run", photo).stderr
    whole = fexport("run", large, "--json", "--detector-size", "whole")
    assert said not in whole.stderr
    assert len(whole.stdout.splitlines()) > 2
    assert fexport("run", large, "--out", tmp_path / "x.csv").returncode == 0
    assert json.loads((tmp_path / "x.csv.meta.json").read_text(encoding="utf-8"))["options"]["detector_size"] == 1000
    refused(fexport("run", photo, "--detector-size", "3"), "64 or more")
    refused(fexport("run", photo, "--detector-size", "half"), "neither a number of pixels nor 'whole'")


def test_a_bundle_that_was_built_and_a_program_see_frames_whole(v1_edge_bundle, photo, tmp_path):
    from fexruntime import Options

    assert fexport("run", v1_edge_bundle, photo, "--out", tmp_path / "x.csv").returncode == 0
    assert json.loads((tmp_path / "x.csv.meta.json").read_text(encoding="utf-8"))["options"]["detector_size"] is None
    assert Options().detector_size is None

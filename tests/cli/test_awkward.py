"""File names of any bytes on any terminal, folders with all that folders hold: one kind of report a test."""

from __future__ import annotations

import csv
import json
import os
import shutil

import cv2
import pytest
from command import fexport, refused

from fexruntime.sources.images import IMAGE_SUFFIXES

NAMES = (
    b"caf\xe9.jpg",
    "é写😀.jpg".encode(),
    b"me[red].jpg",
    b"[nosuch]b.jpg",
    b"two\nlines.jpg",
    b"\x1b[31mred.jpg",
    b"a\rb.jpg",
    b"-x.jpg",
)
ENCODINGS = (
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "utf-8:strict"},
    {"PYTHONIOENCODING": "utf-8"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
)


@pytest.fixture(scope="module")
def awkward(tmp_path_factory, photo):
    folder = tmp_path_factory.mktemp("awkward")
    for name in NAMES:
        shutil.copy(photo, os.fsencode(folder) + b"/" + name)
    return folder


@pytest.mark.parametrize("environment", ENCODINGS, ids=lambda e: next(iter(e.values())))
def test_names_of_any_bytes_are_shown_and_written_on_any_terminal(awkward, tmp_path, environment):
    done = fexport("run", awkward, "--out", tmp_path / "x.csv", **environment)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "x.csv").open(encoding="utf-8", newline="") as file:
        names = {row["input"].rpartition("/")[2] for row in csv.DictReader(file)}
    assert names == {n.decode("utf-8", "backslashreplace") for n in NAMES}
    done = fexport("run", awkward, COLUMNS="300", **environment)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    for said in (
        r"caf\xe9.jpg",
        "me[red].jpg",
        "[nosuch]b.jpg",
        r"two\nlines.jpg",
        r"\x1b[31mred.jpg",
        r"a\rb.jpg",
        "-x.jpg",
    ):
        assert said in done.stdout
    done = fexport("run", awkward, "--json", **environment)
    assert done.returncode == 0, done.stderr
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == len(NAMES)


@pytest.mark.parametrize("words", [("doctor",), ("models",), ("inspect",)], ids=" ".join)
def test_tables_can_be_read_where_there_is_ascii_alone(words):
    done = fexport(*words, COLUMNS="60", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()


@pytest.mark.parametrize("words", [("docs",), ("docs", "fidelity"), ("run", "--help")], ids=" ".join)
def test_pages_are_printed_where_there_is_ascii_alone(words):
    """Click writes UTF-8 there; what matters is that all of it comes."""
    assert fexport(*words, PYTHONIOENCODING="ascii").stdout == fexport(*words, PYTHONIOENCODING="utf-8").stdout != ""


def test_an_error_names_a_file_that_the_terminal_cannot_show(tmp_path):
    refused(fexport("run", tmp_path / "写.jpg", PYTHONIOENCODING="ascii"), "写.jpg", "No such file")
    refused(fexport("run", os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")), r"caf\udce9.jpg", "No such file")


def test_a_folder_is_read_whole_and_the_rest_is_counted(tmp_path, photo):
    """What OpenCV decodes is read by every ending it has; hidden files are nobody's pictures; what is passed over is said."""
    picture = cv2.imread(str(photo))
    for suffix in (".jfif", ".JPE", ".gif", ".avif", ".jp2", ".dib", ".pnm"):
        kind = {".jfif": ".jpg", ".JPE": ".jpg", ".dib": ".bmp", ".pnm": ".ppm"}.get(suffix, suffix)
        data = cv2.imencode(kind, picture)[1].tobytes()
        assert suffix.lower() in IMAGE_SUFFIXES
        (tmp_path / f"a{suffix}").write_bytes(data)
    (tmp_path / "._a.jpg").write_bytes(b"Mac OS X")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "thumbs.png").mkdir()
    (tmp_path / "notes").write_text("x", encoding="utf-8")
    for name in ("p.heic", "q.HEIC", "r.svg"):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic")
    done = fexport("run", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    assert sorted(json.loads(line)["input"].rpartition("/a")[2] for line in done.stdout.splitlines()) == [
        ".JPE", ".avif", ".dib", ".gif", ".jfif", ".jp2", ".pnm",
    ]  # fmt: skip
    assert "not read: 2 .heic, 1 .svg, 1 subfolder, 1 without an ending" in done.stderr
    refused(fexport("run", tmp_path / "p.heic"), "p.heic", "is HEIC", "convert it to JPEG")

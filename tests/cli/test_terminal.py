"""The terminal: tables that fit, plain pipes, help with words and examples, completion, paths, what -v says, what is never overwritten."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from importlib import import_module
from pathlib import Path

import click
import numpy as np
import pytest
from click.shell_completion import ShellComplete
from command import FEXPORT, fexport, refused

from fexport.cli import COMMANDS, EXAMPLES, group, paths
from fexport.cli.sheet import Column, Sheet
from fexruntime import Detector, record
from fexruntime.errors import EnvironmentMissingError, InputError, OutOfMemoryError, OutputError
from fexruntime.files import check_ours, user_path
from fexruntime.recording import nothing_read

ROOT = Path(__file__).parent.parent.parent
EDGE = ROOT / "runtime" / "fexruntime" / "bundles" / "edge"
SHOWN = {
    "build": ("b", "--pipeline", "faces"),
    "fetch": ("--pipeline", "faces", "--to", "weights"),
    "stand-ins": ("made-up", "--pipeline", "faces"),
    "run": ("photo.jpg",),
    "view": ("rows.csv", "--out", "page.html"),
    "verify": ("edge",),
    "inspect": ("edge",),
    "calibrate": ("ranges.json", "photo.jpg", "--chips", "4"),
    "bundle": ("export", "edge", "edge.tar"),
    "serve": ("nothing",),
    "triton": ("edge", "models"),
    "lint": (EDGE / "faces.onnx",),
    "tune": ("edge", "--rounds", "5"),
    "engines": ("nothing",),
    "cache": (),
    "bench": ("edge", "--rounds", "3", "--no-start-up", "--networks", "--against", "edge"),
    "compare": ("edge", "edge", "photo.jpg"),
    "evaluate": ("--dataset", "biwi", "BIWI_test.npz", "--predictions", "rotations.npz"),
    "models": (),
    "docs": (),
    "doctor": (),
}
"""By command: a call that shows what it shows (of those that serve or need a GPU: that it refuses)."""
REFUSED = ("serve", "engines")
ONCE = ("tune", "bench", "build", "calibrate", "bundle", "triton", "fetch", "stand-ins", "view")
"""Those that measure, or will not write a second time: of one width. What they show comes from the place of the others."""
LINES = re.compile("[\u2500-\u257f]|\x1b")
"""Box drawing and escape sequences."""


@pytest.fixture(scope="module")
def folder(photo, tmp_path_factory):
    """Where the commands are called: a picture, its rows, labelled frames and who reads them."""
    made = tmp_path_factory.mktemp("shown")
    shutil.copy(photo, made / "photo.jpg")
    assert fexport("run", "photo.jpg", "--out", "rows.csv", cwd=made).returncode == 0
    labels = np.array([[10.0, -5.0, 3.0], [-20.0, 4.0, 0.5], [2.0, 8.0, -1.0]])
    np.savez(made / "BIWI_test.npz", image=np.zeros((3, 64, 64, 3), np.uint8), pose=labels)
    np.savez(made / "rotations.npz", pred_R=np.broadcast_to(np.eye(3), (3, 3, 3)))
    return made


def _commands():
    for name in COMMANDS:
        command = import_module(f"fexport.cli.{name.replace('-', '_')}").command
        yield from (
            [(f"{name} {n}", c) for n, c in command.commands.items()]
            if isinstance(command, click.Group)
            else [(name, command)]
        )


def test_every_command_is_shown():
    assert set(SHOWN) == set(COMMANDS)


@pytest.mark.parametrize("name", SHOWN)
def test_tables_fit_80_columns_and_pipes_have_no_lines(name, folder):
    for width in ("80",) if name in ONCE else ("80", ""):
        done = fexport(name, *SHOWN[name], cwd=folder, COLUMNS=width)
        assert (done.returncode != 0) == (name in REFUSED), done.stderr
        assert done.stdout or name in REFUSED
        assert not LINES.search(done.stdout), done.stdout
        assert not LINES.search(done.stderr), done.stderr
        if width:
            assert max((len(line) for line in done.stdout.splitlines() if "  " in line), default=0) <= 80, done.stdout
        assert "…" not in re.sub("…,| … |…\n", "", done.stdout) or "sha256" in done.stdout


@pytest.mark.parametrize(
    "words",
    [("doctor",), ("cache",), ("models",), ("inspect", "edge"), ("tune", "edge", "--rounds", "5"), ("run", "photo.jpg"),
     ("bench", "edge", "--rounds", "3", "--no-start-up", "--out", "j1"),
     ("bench", "edge", "--rounds", "3", "--no-start-up", "--against", "edge", "--out", "j2")],
    ids=lambda words: " ".join(words[:1]),
)  # fmt: skip
def test_json_is_all_that_is_on_stdout(words, folder):
    done = fexport(*words, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()] if words[0] == "run" else json.loads(done.stdout)
    assert said


def test_json_of_the_cache_lists_and_does_nothing_else():
    refused(fexport("cache", "--json", "--clear"), "leave --clear")


def _on_a_terminal(*words, **environment):
    """What a command writes on a terminal of 80 columns."""
    import pty
    import subprocess

    outer, inner = pty.openpty()
    given = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR", "TERM")}
    given |= {"TERM": "xterm-256color", "COLUMNS": "80", **environment}
    with subprocess.Popen([*FEXPORT, *map(str, words)], stdout=inner, stderr=inner, stdin=inner, env=given) as process:
        os.close(inner)
        read = b""
        while True:
            try:
                piece = os.read(outer, 1 << 16)
            except OSError:  # the last writer has closed it
                break
            if not piece:
                break
            read += piece
    os.close(outer)
    assert process.returncode == 0, read
    return read.decode("utf-8")


COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9\d|10\d)(?:;\d+)*m")


@pytest.mark.parametrize("variable", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colour_where_none_is_wanted(variable, v1_bundle, photo):
    words = ("run", v1_bundle, photo)  # says in yellow that its weights are made up
    assert COLOUR.search(_on_a_terminal(*words))
    shown = _on_a_terminal(*words, **variable)
    assert "STAND-IN" in shown
    assert not COLOUR.search(shown)
    if "TERM" in variable:
        assert "\x1b[" not in shown


def test_a_terminals_tables_fit_it():
    shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", _on_a_terminal("inspect", "edge"))
    boxed = [line.rstrip("\r") for line in shown.splitlines() if LINES.search(line)]
    assert boxed
    assert max(map(len, boxed)) <= 80


def test_where_faces_are_stays_longest_on_a_terminal(v28_bundle, photo):
    shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", _on_a_terminal("run", v28_bundle, photo))
    head = next(line for line in shown.splitlines() if "image" in line)
    assert [cell.strip() for cell in head.strip("┃\r").split("┃")] == [
        "image", "face", "crop x y w h", "score", "pitch roll yaw °", "emotion",
    ]  # fmt: skip
    assert "no room here for: strongest AUs, gaze pitch yaw °, identity" in shown


def test_the_least_needed_column_goes_first_and_is_named(monkeypatch, capsys):
    def shown(width):
        monkeypatch.setenv("COLUMNS", str(width))
        sheet = Sheet(
            Column("network", 3, whole=True, groups=True),
            Column("output"),
            Column("mean", 2, right=True),
            Column("max", right=True),
        )
        sheet.add("a-net", "au", "1.2e-07", "3.4e-06")
        sheet.show()
        return capsys.readouterr().out

    wide, narrow = shown(80), shown(26)
    assert "no room" not in wide
    assert wide.splitlines()[1].split() == ["a-net", "au", "1.2e-07", "3.4e-06"]
    assert narrow.splitlines()[1].strip() == "a-net"  # above its lines
    assert narrow.splitlines()[2].split() == ["au", "1.2e-07", "3.4e-06"]
    least = shown(16)
    assert "3.4e-06" in least
    assert "no room here" in least
    assert "mean" in least.splitlines()[-1]


def test_every_option_has_a_word_and_every_command_an_example():
    for name, command in _commands():
        for param in command.params:
            if isinstance(param, click.Option) and param.name != "help":
                assert param.help or isinstance(param.type, (click.Choice, click.IntRange, paths._Given)), (
                    f"{name} {param.opts}"
                )
    assert set(EXAMPLES) == set(COMMANDS)


def _completed(*words):
    command = group.get_command(click.Context(group), words[0])
    found = ShellComplete(group, {}, "fexport", "_FEXPORT_COMPLETE").get_completions(list(words[:-1]), words[-1])
    assert command is not None
    return [(item.type, item.value) for item in found]


def test_shells_complete_files_bundles_and_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "edges").mkdir()
    (tmp_path / "echo.txt").write_text("", encoding="utf-8")
    assert _completed("inspect", "ed") == [("plain", "edge"), ("plain", "edges/")]
    assert _completed("run", "e") == [("plain", "edge"), ("plain", "echo.txt"), ("plain", "edges/")]
    assert _completed("run", "pho") == [("file", "pho")]
    assert _completed("verify", "bu") == [("dir", "bu")]
    assert ("plain", "faces=openvino") in _completed("run", "x", "--backend", "faces=o")
    assert _completed("run", "x", "--device", "vu") == [("plain", "vulkan")]
    for words in (("lint", ""), ("view", "r"), ("run", "x", "--out", "o")):
        assert _completed(*words)[0][0] == "file"


def test_a_path_is_what_a_person_means(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert user_path("~/x.csv") == str(tmp_path / "home" / "x.csv")
    (tmp_path / "~odd").write_text("", encoding="utf-8")
    (tmp_path / "a$HOME.jpg").write_text("", encoding="utf-8")
    assert user_path("~odd") == "~odd"
    assert user_path("a$HOME.jpg") == "a$HOME.jpg"
    assert user_path("costs$.csv") == "costs$.csv"
    for bad, says in (("", "an empty path"), ("$HOME/x.csv", r"variable \$HOME"), ("d/${OUT}.csv", r"\$\{OUT\}")):
        with pytest.raises(InputError, match=says):
            user_path(bad)


def test_a_relative_python_is_made_absolute_and_a_wrong_one_is_found_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(os.sys.executable)
    assert paths.PYTHON.convert("bin/python", None, None) == tmp_path / "bin" / "python"
    for wrong, says in (("bin/pithon", "is not there"), ("bin", "is a folder")):
        with pytest.raises(EnvironmentMissingError, match=says):
            paths.PYTHON.convert(wrong, None, None)


def test_short_memory_is_no_bad_input_even_where_nothing_could_be_read():
    damaged, short = InputError("a.jpg is cut off"), OutOfMemoryError("there is not enough memory to read b.jpg")
    for bad, kind, says in (
        ([damaged], InputError, "a.jpg is cut off"),
        ([damaged, damaged], InputError, "no input could be read, of 2: a.jpg is cut off"),
        ([damaged, short], OutOfMemoryError, "no input could be read, of 2: there is not enough memory to read b.jpg"),
    ):
        error = nothing_read(bad)
        assert (type(error), str(error)) == (kind, says)
    assert str(damaged) == "a.jpg is cut off"  # the caller's own, which it may have shown


def test_a_run_that_memory_was_short_for_says_so(tmp_path, photo, monkeypatch):
    read = Path.read_bytes

    def short(path):
        if path == photo:
            raise MemoryError
        return read(path)

    detector, bads = Detector("edge"), []
    monkeypatch.setattr(Path, "read_bytes", short)
    with pytest.raises(OutOfMemoryError, match="no input could be read, of 2: there is not enough memory to read"):
        record(detector, [photo, photo], tmp_path / "x.csv", on_bad=bads.append)
    assert [type(b) for b in bads] == [OutOfMemoryError] * 2
    assert not (tmp_path / "x.csv").exists()


def test_all_inputs_bad_is_an_error_of_one_sentence(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_text("no picture", encoding="utf-8")
    for more in ((), ("--out", tmp_path / "x.csv")):
        done = fexport("run", tmp_path, "--skip-bad", *more)
        refused(done, "no input could be read, of 2")
        assert done.returncode == 1
    assert not (tmp_path / "x.csv").exists()


@pytest.mark.parametrize("option", ["--out", "--overlay"])
def test_an_address_is_no_target(option, photo, tmp_path):
    refused(fexport("run", photo, option, "s3://bucket/x.csv", cwd=tmp_path), "'s3://bucket/x.csv' is an address")
    assert list(tmp_path.iterdir()) == []


def test_an_address_is_no_bundle_and_no_target_of_a_program(photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from fexruntime import Detector

    refused(fexport("inspect", "https://example.org/b"), "'https://example.org/b' is an address")
    refused(fexport("build", "gs://bucket/b", "--pipeline", "faces"), "is an address")
    refused(fexport("run", "s3://bucket/b", photo), "'s3://bucket/b' is an address")
    with Detector() as detector:
        fex = detector.detect(photo)
    for write, name in ((fex.to_csv, "s3://bucket/x.csv"), (fex.to_parquet, "abfs://x/y.parquet")):
        with pytest.raises(InputError, match="is an address"):
            write(name)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "s3:").mkdir()  # a folder of that name is one
    fex.to_csv("s3:/x.csv")
    assert (tmp_path / "s3:" / "x.csv").exists()


def test_a_table_that_was_changed_since_is_somebodys(photo, tmp_path):
    for name in ("x.csv", "x.jsonl"):
        assert fexport("run", photo, "--out", tmp_path / name).returncode == 0
        assert fexport("run", photo, "--out", tmp_path / name).returncode == 0
        with (tmp_path / name).open("a", encoding="utf-8") as file:
            file.write("a note of mine\n")
        before = (tmp_path / name).read_bytes()
        refused(fexport("run", photo, "--out", tmp_path / name), "was changed since fexport wrote it")
        assert (tmp_path / name).read_bytes() == before


def test_a_parquet_file_that_only_mentions_fexport_is_somebodys(photo, tmp_path):
    import pandas as pd

    target = tmp_path / "x.parquet"
    pd.DataFrame({"fexport": [1.0]}).to_parquet(target)
    refused(fexport("run", photo, "--out", target), "fexport did not write it")
    assert list(pd.read_parquet(target).columns) == ["fexport"]
    target.unlink()
    for _ in range(2):
        assert fexport("run", photo, "--out", target).returncode == 0


def test_somebodys_files_stay(photo, tmp_path):
    film = tmp_path / "film.mp4"
    film.write_bytes(b"somebody's")
    (tmp_path / "x.csv").write_text("mine", encoding="utf-8")
    (tmp_path / "y.csv.meta.json").write_text("{}", encoding="utf-8")
    for out in ("x.csv", "y.csv"):
        refused(fexport("run", photo, "--out", tmp_path / out), "is there already, and fexport did not write it")
    assert (tmp_path / "x.csv").read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "y.csv").exists()
    with pytest.raises(OutputError, match="did not write it"):
        check_ours(film, b"fexport overlay")
    for _ in range(2):  # its own it may write again
        assert fexport("run", photo, "--out", tmp_path / "z.csv").returncode == 0
    said = json.loads((tmp_path / "z.csv.meta.json").read_text(encoding="utf-8"))
    assert (said["frames"], said["rows"], said["stopped"]) == (1, 1, False)


@pytest.mark.parametrize("before", [True, False])
def test_v_says_what_runs_where_and_how_long(before, photo):
    words = ("-v", "run", photo) if before else ("run", photo, "-v")
    said = fexport(*words).stderr
    assert re.search(r"fexruntime\.detector: faces: onnxruntime [\d.]+ on cpu, fp32, \d+ threads", said)
    assert re.search(r"fexport\.run: faces network: [\d.]+ s, 1 items", said)
    assert "fexport.run" not in fexport("run", photo).stderr


def test_loggers_are_named_after_the_packages():
    names = set()
    for folder in ("runtime", "export", "calibration"):
        for path in (ROOT / folder).rglob("*.py"):
            names |= set(re.findall(r'getLogger\("([^"]+)"\)', path.read_text(encoding="utf-8")))
    ours = {n for n in names if n != "huggingface_hub"}
    assert ours
    assert all(n.split(".")[0] in ("fexruntime", "fexport", "fexcalibration") for n in ours)
    assert logging.getLogger("fexruntime").level == logging.NOTSET  # a program's own settings hold


def test_bundles_of_different_pipelines_are_not_compared(photo):
    refused(fexport("compare", "edge", "facemesh", photo), "different pipelines")


def test_an_empty_calibration_folder_is_found_before_the_networks(photo, tmp_path):
    from fexport import plan

    (tmp_path / "named").mkdir()
    named = shutil.copy(photo, tmp_path / "named" / "photograph")  # read by what it is, not by its ending
    plan.plan("faces", precision="int8", calibration=[Path(named)], stand_in_seed=1)
    with pytest.raises(InputError, match="no pictures or videos"):
        plan.plan("faces", precision="int8", calibration=[tmp_path])
    refused(fexport("calibrate", tmp_path / "r.json", tmp_path), "no picture or video")


def test_the_table_shows_what_was_asked_for(photo):
    shown = fexport("run", "--bundle", "facemesh", photo, "--columns", "Pitch,FaceScore").stdout
    assert shown.splitlines()[0].split() == ["image", "face", "FaceScore", "Pitch"]

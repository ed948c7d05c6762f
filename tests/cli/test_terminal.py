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
import pytest
from click.shell_completion import ShellComplete
from command import fexport, refused

from fexport.cli import COMMANDS, EXAMPLES, group, paths
from fexport.cli.sheet import Column, Sheet
from fexruntime import Detector, record
from fexruntime.errors import EnvironmentMissingError, InputError, OutOfMemoryError, OutputError
from fexruntime.files import check_ours, user_path
from fexruntime.recording import nothing_read

ROOT = Path(__file__).parent.parent.parent
TABLES = (("inspect", "edge"), ("models",), ("doctor",), ("cache",))


def _commands():
    for name in COMMANDS:
        command = import_module(f"fexport.cli.{name.replace('-', '_')}").command
        yield from (
            [(f"{name} {n}", c) for n, c in command.commands.items()]
            if isinstance(command, click.Group)
            else [(name, command)]
        )


@pytest.mark.parametrize("words", TABLES, ids=" ".join)
def test_tables_fit_80_columns_and_pipes_have_no_lines(words):
    narrow, piped = fexport(*words, COLUMNS="80").stdout, fexport(*words, COLUMNS="").stdout
    for text in (narrow, piped):
        assert text
        assert not re.search("[━│┃┏]|\x1b", text)
        assert "…" not in text.replace("…,", "").replace("…\n", "\n") or "sha256" in text
    tables = [line for line in narrow.splitlines() if "  " in line]
    assert max(map(len, tables)) <= 80


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
    (tmp_path / "echo.txt").write_text("")
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
    (tmp_path / "~odd").write_text("")
    (tmp_path / "a$HOME.jpg").write_text("")
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
        (tmp_path / name).write_text("no picture")
    for more in ((), ("--out", tmp_path / "x.csv")):
        done = fexport("run", tmp_path, "--skip-bad", *more)
        refused(done, "no input could be read, of 2")
        assert done.returncode == 1
    assert not (tmp_path / "x.csv").exists()


def test_somebodys_files_stay(photo, tmp_path):
    film = tmp_path / "film.mp4"
    film.write_bytes(b"somebody's")
    (tmp_path / "x.csv").write_text("mine")
    (tmp_path / "y.csv.meta.json").write_text("{}")
    for out in ("x.csv", "y.csv"):
        refused(fexport("run", photo, "--out", tmp_path / out), "is there already, and fexport did not write it")
    assert (tmp_path / "x.csv").read_text() == "mine"
    assert not (tmp_path / "y.csv").exists()
    with pytest.raises(OutputError, match="did not write it"):
        check_ours(film, b"fexport overlay")
    for _ in range(2):  # its own it may write again
        assert fexport("run", photo, "--out", tmp_path / "z.csv").returncode == 0
    said = json.loads((tmp_path / "z.csv.meta.json").read_text())
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

"""Nothing but the documented cache is written into a home."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from command import FEXPORT

PROGRAM = "import sys; from fexruntime import Detector; Detector(backend=sys.argv[2]).detect(sys.argv[1])"
CLI = "from fexport.cli import main; import sys; sys.argv = ['fexport', 'run', sys.argv[1]]; main()"


@pytest.mark.parametrize(("code", "backend"), [(PROGRAM, "onnxruntime"), (CLI, "onnxruntime")])
def test_an_empty_home_has_the_cache_alone_afterwards(code, backend, photo, tmp_path):
    left_out = ("FEXPORT_CACHE", "XDG_", "ORT_", "CI")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(left_out)} | {"HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code, photo, backend], env=environment, check=True, capture_output=True)
    folders = {p.relative_to(tmp_path).parts[:2] for p in tmp_path.rglob("*") if p.is_file()}
    assert folders == {(".cache", "fexport")}


@pytest.mark.parametrize(
    ("words", "more"),
    [
        (("build", "b", "--pipeline", "faces"), set()),
        (("bench", "edge", "--rounds", "3"), {(".cache", "matplotlib")}),  # its list of fonts; docs/terminal.md says so
        (("doctor",), set()),
        (("calibrate", "r.json", "photo.jpg", "--chips", "2"), set()),
        (("verify", "edge"), set()),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_no_command_writes_anything_else_into_a_home(words, more, photo, tmp_path):
    if words[0] in ("build", "bench", "calibrate"):
        pytest.importorskip("torch", reason="the build's side is not there")
    left_out = ("FEXPORT_CACHE", "XDG_", "ORT_", "CI", "MPLCONFIGDIR")
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    shutil.copy(photo, here / "photo.jpg")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(left_out)} | {"HOME": str(home)}
    subprocess.run([*FEXPORT, *words], env=environment, check=True, capture_output=True, cwd=here)
    folders = {p.relative_to(home).parts[:2] for p in home.rglob("*") if p.is_file()}
    assert folders <= {(".cache", "fexport")} | more


@pytest.mark.parametrize(("given", "kept"), [(None, "1"), ("0", "0")])
def test_whoever_imports_onnxruntime_after_this_package_has_it_off_unless_the_user_said_so(given, kept):
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment |= {} if given is None else {"ORT_DISABLE_TELEMETRY": given}
    for package in ("fexruntime", "fexport.cli"):
        program = f"import {package}, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, check=True, capture_output=True, encoding="utf-8"
        )
        assert done.stdout.strip() == kept


def test_telemetry_is_off_before_and_after_the_import(monkeypatch):
    from fexruntime.backends.onnxruntime import import_onnxruntime

    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    module = import_onnxruntime()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    called = []
    monkeypatch.setattr(module, "disable_telemetry_events", lambda: called.append(1))
    import_onnxruntime()
    assert called == [1]

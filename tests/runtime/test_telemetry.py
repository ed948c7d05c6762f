"""Nothing but the documented cache is written into a home."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = "import sys; from fexruntime import Detector; Detector(backend=sys.argv[2]).detect(sys.argv[1])"
CLI = "from fexport.cli import main; import sys; sys.argv = ['fexport', 'run', sys.argv[1]]; main()"


@pytest.mark.parametrize(("code", "backend"), [(PROGRAM, "onnxruntime"), (CLI, "onnxruntime")])
def test_an_empty_home_has_the_cache_alone_afterwards(code, backend, photo, tmp_path):
    left_out = ("FEXPORT_CACHE", "XDG_", "ORT_", "CI")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(left_out)} | {"HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code, photo, backend], env=environment, check=True, capture_output=True)
    folders = {p.relative_to(tmp_path).parts[:2] for p in tmp_path.rglob("*") if p.is_file()}
    assert folders == {(".cache", "fexport")}


def test_telemetry_is_off_before_and_after_the_import(monkeypatch):
    from fexruntime.backends.onnxruntime import import_onnxruntime

    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    module = import_onnxruntime()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    called = []
    monkeypatch.setattr(module, "disable_telemetry_events", lambda: called.append(1))
    import_onnxruntime()
    assert called == [1]

"""The command as a user calls it: its own process, exit status, what it says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

FEXPORT = [sys.executable, "-c", "from fexport.cli import main; main()"]


def fexport(*arguments, cwd=None, **environment):
    return subprocess.run(
        [*FEXPORT, *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        cwd=cwd,
        env=os.environ | {"COLUMNS": "200"} | environment,
        check=False,
    )


def watched_until_rows(address, out):
    """What `run --camera` says that is stopped (Ctrl-C) once rows are written."""
    run = subprocess.Popen(
        [*FEXPORT, "run", "--camera", address, "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip
    part, deadline = out.with_name(f"{out.name}.part"), time.monotonic() + 60
    while not part.exists() or part.stat().st_size < 500:
        assert time.monotonic() < deadline
        assert run.poll() is None, run.communicate()
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    said, wrong = run.communicate(timeout=60)
    assert run.returncode == 0, wrong
    return said


def refused(done, *says):
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    for text in says:
        assert text in done.stderr.replace("\n", " "), done.stderr
    assert len(done.stderr.strip().splitlines()) <= 4, done.stderr

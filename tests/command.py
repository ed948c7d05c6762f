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


def stopped_at_rows(arguments, out, size_bytes, how):
    """(exit status, what it said, standard error) of a command that gets the signal `how` once so many bytes of rows for `out` are written."""
    run = subprocess.Popen(
        [*FEXPORT, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )
    part, deadline = out.with_name(f"{out.name}.part"), time.monotonic() + 60
    while not part.exists() or part.stat().st_size < size_bytes:
        assert time.monotonic() < deadline
        assert run.poll() is None, run.communicate()
        time.sleep(0.01)
    run.send_signal(how)
    said, wrong = run.communicate(timeout=60)
    return run.returncode, said, wrong


def watched_until_rows(address, out):
    """What `run --camera` says that is stopped (Ctrl-C) once rows are written."""
    status, said, wrong = stopped_at_rows(["run", "--camera", address, "--out", out], out, 500, signal.SIGINT)
    assert status == 0, wrong
    return said


def refused(done, *says):
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    for text in says:
        assert text in done.stderr.replace("\n", " "), done.stderr
    assert len(done.stderr.strip().splitlines()) <= 4, done.stderr

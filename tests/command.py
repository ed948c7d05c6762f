"""The command as a user calls it: its own process, exit status, what it says."""

from __future__ import annotations

import os
import subprocess
import sys

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


def refused(done, *says):
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    for text in says:
        assert text in done.stderr.replace("\n", " "), done.stderr
    assert len(done.stderr.strip().splitlines()) <= 4, done.stderr

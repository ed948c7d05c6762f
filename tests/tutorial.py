"""The tutorial as a reader does it: its blocks in their order, in one folder that has photo.jpg, with a Python of their own."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)


def blocks(page):
    """(language, text) of every block of a page."""
    return [(m[1], m[2]) for m in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def follow(page: Path, python: Path, folder: Path) -> None:
    """Run every block of the tutorial; AssertionError where it does not give what it says."""
    environment = os.environ | {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    for language, text in blocks(page):
        if language == "sh":
            subprocess.run(["bash", "-ec", text], cwd=folder, env=environment, check=True, capture_output=True)
    program = "\n".join(text for language, text in blocks(page) if language == "python")
    done = subprocess.run(
        [python, "-c", program], cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    assert "200 (400," in done.stdout
    for name in ("faces.csv", "faces.csv.meta.json", "drawn/photo.png", "again.parquet", "plot.png"):
        assert (folder / name).stat().st_size > 100

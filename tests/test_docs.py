"""Blocks of the tutorial and of the other pages: those that can run here are run as they stand, the others are compiled."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)


def blocks(page):
    return [(m[1], m[2]) for m in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def test_the_tutorial_runs_as_it_stands(tmp_path, photo):
    shutil.copy(photo, tmp_path / "photo.jpg")
    found = blocks(ROOT / "docs" / "tutorial.md")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for language, text in found:
        if language == "sh":
            subprocess.run(["bash", "-ec", text], cwd=tmp_path, env=environment, check=True, capture_output=True)
    program = "\n".join(text for language, text in found if language == "python")
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "200 (400," in done.stdout
    for name in ("faces.csv", "faces.csv.meta.json", "drawn/photo.png", "again.parquet", "plot.png"):
        assert (tmp_path / name).stat().st_size > 100


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_programs_of_a_page_compile(page):
    for language, text in blocks(page):
        if language == "python":
            compile(text, str(page), "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_of_a_page_have_the_options_that_are_shown(page):
    from importlib import import_module

    from fexport.cli import COMMANDS

    for language, text in blocks(page):
        for line in text.replace("\\\n", " ").splitlines() if language in ("", "sh", "bash") else ():
            if not re.match(r"fexport [a-z]", line):
                continue
            words = shlex.split(line, comments=True)
            assert words[1] in COMMANDS, line
            command = import_module(f"fexport.cli.{words[1].replace('-', '_')}").command
            known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}
            before_pipe = words[: words.index("|")] if "|" in words else words
            shown = {w.partition("=")[0] for w in before_pipe[2:] if re.match(r"--?[a-z]", w)}
            assert shown <= known, line

"""Blocks of the tutorial and of the other pages: those that can run here are run as they stand, the others are compiled."""

from __future__ import annotations

import ast
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import clips
import pytest
from command import fexport, refused
from tutorial import blocks, follow

from fexruntime.bundle import packaged_path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_tutorial_runs_as_it_stands(tmp_path, photo):
    shutil.copy(photo, tmp_path / "photo.jpg")
    follow(ROOT / "docs" / "tutorial.md", Path(sys.executable), tmp_path)


def test_the_commands_of_the_readme_run_as_they_stand(tmp_path, v28_bundle):
    """In a folder that has what a checkout has; a bundle is there as if `fexport build` had just made it."""
    (tmp_path / "export").symlink_to(ROOT / "export")
    (tmp_path / "bundle").symlink_to(v28_bundle)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shown = [text for language, text in blocks(ROOT / "README.md") if language == "sh"]
    lines = [line for text in shown for line in text.splitlines()]
    lines += [
        line
        for _, text in blocks(ROOT / "README.md")
        for line in text.splitlines()
        if line.startswith("fexport run bundle")
    ]
    assert len(lines) == 5
    for line in lines:
        done = subprocess.run(
            ["bash", "-ec", line],
            cwd=tmp_path,
            env=os.environ | {"PATH": path},
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode == 0, (line, done.stderr)
    for name in ("faces.csv", "drawn/photo.png", "mesh.csv", "mesh/photo.png", "page.html", "fex.csv"):
        assert (tmp_path / name).stat().st_size > 100


@pytest.mark.filterwarnings("ignore:.*stand-in")
@pytest.mark.parametrize("page", ["README.md", "docs/api.md", "docs/terminal.md", "docs/video.md"])
def test_programs_of_these_pages_run(page, tmp_path, photo, v28_bundle, v1_bundle, monkeypatch):
    """Those of other pages need a GPU or a server, and a stream's an address."""
    films = page == "docs/video.md"
    (tmp_path / "bundle").symlink_to(packaged_path("facemesh") if films else v28_bundle)
    (tmp_path / "v1").symlink_to(v1_bundle)
    for folder in ("photos", "takes"):
        (tmp_path / folder).mkdir()
    for name in ("a.mp4", "takes/b.mov") if films else ():
        clips.write(tmp_path / name, clips.pictures(photo, 36))
    for name in ("photo.jpg", "a.jpg", "b.jpg", "photos/c.jpg"):
        shutil.copy(photo, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("fexruntime"), "level", logging.getLogger("fexruntime").level)
    programs = [text for language, text in blocks(ROOT / page) if language == "python" and "rtsp://" not in text]
    assert programs
    names = {}
    exec(compile("\n".join(programs), page, "exec"), names)
    if page == "docs/api.md":
        assert names["pose"].shape == (len(names["fex"]), 6) != (0, 6)
        assert (tmp_path / "fex.csv").exists()
    if films:
        assert len(names["fex"]) >= 36
        assert (tmp_path / "rows.parquet").exists()


def _headings(page):
    """What a link to a heading of a page ends in, as GitHub and the site make it."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", line) for line in re.findall(r"^#+ (.*)$", text, re.M))
    return {re.sub(r"[^\w\- ]", "", line.lower()).strip().replace(" ", "-") for line in plain}


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / "benchmarks").glob("*.md"))], ids=lambda p: p.name)
def test_headings_that_a_page_links_to_are_there(page):
    for link in re.findall(r"\]\(([^)\s]*#[^)\s]+)\)", page.read_text(encoding="utf-8")):
        name, _, heading = link.partition("#")
        target = page if not name else page.parent / name
        if "://" not in link and target.suffix == ".md":
            assert heading in _headings(target), link


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


def test_pages_are_listed_and_shown_by_the_command():
    listed = fexport("docs")
    assert listed.returncode == 0, listed.stderr
    assert [line.split()[0] for line in listed.stdout.splitlines()[: len(PAGES)]] == [page.stem for page in PAGES]
    assert fexport("docs", "tutorial").stdout == (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    assert Path(fexport("docs", "tutorial", "--path").stdout.strip()) == ROOT / "docs" / "tutorial.md"
    refused(fexport("docs", "../README"), "there is no page '../README'", "tutorial")


def test_documentation_that_an_installer_left_out_is_one_sentence(monkeypatch, tmp_path):
    from fexport.cli import docs
    from fexruntime.errors import EnvironmentMissingError

    monkeypatch.setattr(docs, "__file__", str(tmp_path / "a" / "b" / "c" / "docs.py"))
    monkeypatch.setattr("importlib.metadata.files", lambda name: None)
    with pytest.raises(EnvironmentMissingError, match="is not in this environment"):
        docs.folder()


def test_the_table_of_columns_is_the_contracts():
    from fexruntime.contracts import pipeline_row

    rows = [r for r in (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8").splitlines() if r.startswith("| ")]
    table = {
        cells[0].strip(): cells[1] for cells in (r.strip("| ").split("|") for r in rows) if cells[0].strip() != "group"
    }
    groups = {g.name: g.columns for name in ("detectorv2", "detectorv1") for g in pipeline_row(name).groups}
    columns = {c for name in ("detectorv2", "detectorv1") for c in pipeline_row(name).columns}
    assert {word.strip() for name in table for word in name.split(",")} == set(groups)
    for name, text in table.items():
        if name in groups and name not in ("valence_arousal",):
            shown = set(
                re.findall(r"[A-Za-z_]+\w*", re.sub(r"\((Detectorv\d|ARKit's names|\w+, \w+, \w+)\)", "", text))
            )
            assert shown <= columns, name


def test_every_command_shows_an_example_with_options_that_it_has():
    from click import Context

    from fexport.cli import COMMANDS, EXAMPLES, group

    assert set(EXAMPLES) == set(COMMANDS)
    for name, lines in EXAMPLES.items():
        command = group.get_command(Context(group), name)
        known = {o for p in command.params for o in p.opts}
        assert all(line in command.get_help(Context(command)) for line in lines)
        for line in lines:
            assert line.split()[:2] == ["fexport", name]
            assert {w for w in line.split() if w.startswith("--")} <= known, line


def sentences():
    """Every text of the source that is no docstring, with what is filled in as a NUL."""
    for folder in ("runtime", "export", "calibration"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
            passed = {id(n.value) for n in nodes if isinstance(n, ast.Expr)}
            passed |= {id(part) for n in nodes if isinstance(n, ast.JoinedStr) for part in n.values}
            for node in nodes:
                if isinstance(node, ast.JoinedStr):
                    yield "".join(v.value if isinstance(v, ast.Constant) else "\0" for v in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in passed:
                    yield node.value


def test_every_failure_of_the_table_is_a_message_of_the_source():
    lines = (ROOT / "docs" / "failures.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines if line.startswith("| `")]
    assert len(rows) >= 40
    source = "\n".join(sentences())
    for message, cause, fix in rows:
        parts = [part.strip() for part in message.strip("`").split("…")]
        assert cause, message
        assert fix, message
        assert max(len(part) for part in parts) >= 12, message
        # one value fills one place: what stands between two is the source's, in that order, within one text
        shown = "[^\n]*?\0[^\n]*?".join(re.escape(part) for part in parts)
        assert re.search(shown, source), message


def test_the_table_of_signs_is_the_contracts():
    from fexruntime.contracts import PIPELINES, pipeline_row

    page = (ROOT / "docs" / "coordinates.md").read_text(encoding="utf-8")
    table = page.partition("| pipeline | contract |")[2].partition("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    known = {
        (r.name, c) for r in PIPELINES for c in r.contracts if any("pose" in s.gives for s in (r.finder, *r.stages))
    }
    assert {(pipeline, contract) for pipeline, contract, *_ in rows} == {k for k in known if not k[1].endswith("-bugs")}
    assert {r.name for r in PIPELINES if r.pose_order == "xyz"} == {"tokenhpe"}  # as the page says
    for pipeline, contract, up, *said in rows:
        row = pipeline_row(pipeline, contract)
        assert up == ("up" if row.pitch_up > 0 else "down"), pipeline
        maps = {a.value: a for stage in row.stages for a in stage.axes}
        named = [
            f"{'+' if maps[value].sign[k] > 0 else '−'}{letter}[{maps[value].index[k]}]" if value in maps else ""
            for value, letter, k in (
                ("pose", "p", 0),
                ("pose", "p", 1),
                ("pose", "p", 2),
                ("gaze_rad", "g", 0),
                ("gaze_rad", "g", 1),
            )
        ]
        assert said == named, (pipeline, contract)


def test_the_page_of_coordinates_runs_and_has_its_pictures(tmp_path, photo, monkeypatch):
    page = (ROOT / "docs" / "coordinates.md").read_text(encoding="utf-8")
    pictures = [ROOT / "docs" / name for name in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page)]
    assert len(pictures) == 4
    for picture in pictures:
        assert picture.read_bytes().startswith(b"\x89PNG"), picture
        assert picture.stat().st_size < 150_000, picture
    shutil.copy(photo, tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    (program,) = (text for language, text in blocks(ROOT / "docs" / "coordinates.md") if language == "python")
    exec(compile(program, "coordinates.md", "exec"), {})


def test_every_option_that_a_fix_names_is_an_option():
    from importlib import import_module

    from fexport.cli import COMMANDS

    commands = [import_module(f"fexport.cli.{name.replace('-', '_')}").command for name in COMMANDS]
    known = {o for command in commands for p in command.params for o in (*p.opts, *p.secondary_opts)}
    known |= {o for c in commands for sub in getattr(c, "commands", {}).values() for p in sub.params for o in p.opts}
    for page in ("failures", "coordinates"):
        text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8").replace("docker run --gpus all", "")
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text)) <= known, page

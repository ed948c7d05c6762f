"""Files that a test cannot run: Dockerfiles, the compose file, the release workflow, the citation. What they name exists."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from conftest import ROOT

DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
if sys.version_info >= (3, 11):
    import tomllib

yaml = pytest.importorskip("yaml")


def lines(path):
    return [line.strip() for line in path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines() if line.strip()]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is of 3.11")
@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.stem)
def test_what_a_dockerfile_copies_and_installs_is_there(path):
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, wheel = whole["project"], whole["tool"]["hatch"]["build"]["targets"]["wheel"]
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    copied, extras = set(), []
    for line in lines(path):
        words = line.split()
        if words[0] == "COPY" and not words[1].startswith("--from"):
            copied.update(words[1:-1])
        extras += re.findall(r'"\.\[([\w,]+)\]"', line)
    assert extras
    for name in copied:
        assert (ROOT / name).exists()
        assert name.split("/")[0] not in ignored
    assert copied >= {"pyproject.toml", "LICENSE"} | {
        n.split("/")[0] for n in (*wheel["packages"], *wheel["shared-data"])
    }
    for extra in extras[0].split(","):
        assert extra in project["optional-dependencies"]
    assert not {"cpu", "gpu"} <= set(extras[0].split(","))
    assert any(line.startswith("USER 10001") for line in lines(path))
    # a new volume takes the owner of the folder it is mounted on: where there is none it is root's, and nothing could be kept
    (cache,) = re.findall(r"ENV FEXPORT_CACHE=(\S+)", path.read_text(encoding="utf-8"))
    assert any(f"install -d -o fexport -g fexport {cache}" in line for line in lines(path) if line.startswith("RUN"))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.stem)
def test_hadolint_finds_nothing(path):
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if linter is None:
        pytest.skip("needs hadolint")
    # versions of the system's packages are the image's (DL3008); what pip installs is the folder, whose metadata bounds the rest (DL3013)
    done = subprocess.run(
        [linter, "--ignore", "DL3008", "--ignore", "DL3013", str(path)],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_compose_file_serves_with_options_that_there_are():
    from fexport.cli.serve import ENDS_S, command

    (service,) = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))["services"].values()
    assert (ROOT / service["build"]["dockerfile"]).is_file()
    first, _, *options = service["command"]
    assert first == "serve"
    assert {o for o in options if o.startswith("--")} <= {o for p in command.params for o in p.opts}
    assert int(service["stop_grace_period"].rstrip("s")) > ENDS_S  # or what it still answers is killed
    (cache,) = re.findall(
        r"ENV FEXPORT_CACHE=(\S+)", (ROOT / service["build"]["dockerfile"]).read_text(encoding="utf-8")
    )
    assert [volume.partition(":")[2] for volume in service["volumes"]] == [cache]


def test_the_release_workflow_tests_every_python_that_is_declared():
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    tested = yaml.safe_load(text)["jobs"]["test"]["strategy"]["matrix"]["python"]
    declared = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert tested == declared
    paths = re.findall(r"tests/\S+", text)
    assert paths
    assert all((ROOT / path).exists() for path in paths)


def test_the_citation_is_of_this_version():
    said = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert f'version = "{said["version"]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert {"cff-version", "message", "title", "authors"} <= set(said)


@pytest.mark.slow
def test_the_sdist_has_what_builds_and_tests_it(tmp_path):
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    ).stdout.split("\n")
    rooms = ("runtime/", "export/", "calibration/", "tests/", "benchmarks/", "docs/", "examples/")
    assert {n for n in tracked if n.startswith(rooms)} <= names
    assert {"pyproject.toml", "README.md", "LICENSE", "CITATION.cff", "CHANGELOG.md", "Makefile"} <= names
    assert not [n for n in names if "__pycache__" in n or n.startswith((".venv", "demo"))]

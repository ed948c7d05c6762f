"""What a user installs: the wheel's content, its extras, and that it runs with nothing but them."""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path, PurePosixPath

import pytest
from tutorial import follow

ROOT = Path(__file__).parent.parent
SHARED = ".data/data/share/doc/fexport/"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_content(wheel):
    """What git tracks, and nothing that happens to lie in a folder."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout
    rooms = ("runtime/fexruntime/", "export/fexport/", "calibration/fexcalibration/")
    sources = {line.split("/", 1)[1] for line in listed.splitlines() if line.startswith(rooms)}
    shared = {n.partition(SHARED)[2] for n in names if SHARED in n}
    inside = {n for n in names if ".dist-info/" not in n and SHARED not in n}
    assert inside == sources
    folders = ("docs/", "examples/", "benchmarks/plots/", "benchmarks/results/")
    documents = {line for line in listed.splitlines() if line.startswith(folders)}
    assert shared - documents == {
        "README.md",
        "CHANGELOG.md",
        "benchmarks/README.md",
        "benchmarks/REPORT.md",
        "benchmarks/ROBUSTNESS.md",
    }
    assert documents <= shared
    for name in (
        "fexruntime/py.typed",
        "fexruntime/bundles/edge/manifest.json",
        "fexruntime/bundles/edge/faces.onnx",
        "fexruntime/bundles/facemesh/manifest.json",
        "fexruntime/bundles/facemesh/refine.onnx",
        "fexruntime/canonical_face/canonical_face.npz",
        "fexport/weights/face_landmark.tflite",
        "fexport/weights/retinaface_mnet025.safetensors",
        "fexport/weights/NOTICE.md",
        "fexport/photographs/astronaut.jpg",
    ):
        assert name in inside
    assert not [n for n in inside if "mobilefacenet" in n and not n.endswith(".py")]
    assert wheel.stat().st_size < 14_000_000


def test_links_of_the_pages_hold_in_the_wheel(wheel):
    """README, docs and reports are read from where the wheel puts them: what a page links to is there, or on the web."""
    with zipfile.ZipFile(wheel) as archive:
        shared = {n.partition(SHARED)[2]: n for n in archive.namelist() if SHARED in n}
        pages = {name: archive.read(n).decode() for name, n in shared.items() if name.endswith(".md")}
    folders = {str(parent) for name in shared for parent in PurePosixPath(name).parents}
    links = [(page, link) for page, text in pages.items() for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)]
    assert len(links) > 30
    for page, link in links:
        if not link.startswith(("http://", "https://")):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
            assert target in shared or target in folders, f"{page}: {link}"


def test_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
        assert any(n.endswith("licenses/LICENSE") for n in archive.namelist())
    needs = metadata.get_all("Requires-Dist")
    base = {n.split(">")[0].split(";")[0].strip() for n in needs if "extra ==" not in n}
    assert base == {"numpy", "click", "opencv-python-headless", "rich"}
    extras = {e: [n for n in needs if f"extra == '{e}'" in n] for e in metadata.get_all("Provides-Extra")}
    assert {"cpu", "gpu", "export", "tables", "video", "all", "dev"} <= set(extras)
    for extra, names in extras.items():
        both = {n.split(">")[0].strip() for n in names} & {"onnxruntime", "onnxruntime-gpu"}
        assert len(both) < 2, extra
    assert not any("gpu" in n for n in extras["all"])


@pytest.mark.slow
def test_an_empty_environment_with_the_cpu_extra_runs_the_packaged_bundle(wheel, tmp_path, photo):
    """No torch, no pandas: pip install of the wheel, then run, verify and inspect."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "-q", f"{wheel}[cpu]"]
    subprocess.run(pip, check=True, capture_output=True)
    fexport = tmp_path / "venv" / "bin" / "fexport"
    environment = os.environ | {"FEXPORT_CACHE": str(tmp_path / "cache")}
    for arguments in (
        ("run", photo, "--out", "faces.csv", "--overlay", "pictures"),
        ("run", "--bundle", "facemesh", photo, "--out", "mesh.csv", "--overlay", "meshes"),
        ("verify",),
        ("inspect",),
        ("doctor",),
        ("docs",),
        ("docs", "api"),
    ):
        done = subprocess.run(
            [fexport, *arguments], capture_output=True, encoding="utf-8", cwd=tmp_path, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout == (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    where = subprocess.run([fexport, "docs", "--path"], capture_output=True, encoding="utf-8", cwd=tmp_path, check=True)
    assert Path(where.stdout.strip()) == (tmp_path / "venv" / "share" / "doc" / "fexport").resolve()
    assert (tmp_path / "faces.csv").read_text(encoding="utf-8").count("\n") == 2
    assert (tmp_path / "pictures" / "astronaut.png").is_file()
    for module in ("torch", "pandas", "onnx"):
        assert subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode != 0
    done = subprocess.run([fexport, "build", "b"], capture_output=True, encoding="utf-8", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "pip install '" in done.stderr
    assert "'torch>=" in done.stderr
    done = subprocess.run(
        [fexport, "run", photo, "--out", "x.parquet"], capture_output=True, encoding="utf-8", cwd=tmp_path, check=False
    )
    assert done.returncode == 1
    assert "'pyarrow>=" in done.stderr
    # the tutorial, its service included, as the wheel brings it, with what it says is needed
    subprocess.run([*pip[:-1], f"{wheel}[tables,bench]"], check=True, capture_output=True)
    (tmp_path / "copied").mkdir()
    shutil.copy(photo, tmp_path / "copied" / "photo.jpg")
    follow(tmp_path / "venv" / "share" / "doc" / "fexport" / "docs" / "tutorial.md", python, tmp_path / "copied")

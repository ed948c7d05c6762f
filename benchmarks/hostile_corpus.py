"""Every case of the corpus of broken and hostile input (tests/runtime/hostile.py), and what the program said of it.

python benchmarks/hostile_corpus.py

Writes results/hostile_corpus.json: by kind, each case with its outcome. "kept": it was read (a picture whose damage a decoder cannot see, a manifest
whose changed word nothing depends on); "refused": one sentence. Anything else ("broken") is a finding, and the exit status is 1: another exception,
a message of more than a line, a picture that is cut off or a decompression bomb and was kept, a peak of memory, a file that was written.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import click
import numpy as np

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests" / "runtime"), str(ROOT / "tests")]

import hostile  # noqa: E402

from fexport.bench import measure  # noqa: E402
from fexruntime import Detector  # noqa: E402
from fexruntime.bundle import open_bundle, packaged_path  # noqa: E402
from fexruntime.errors import BundleError, FexportError, InputError  # noqa: E402
from fexruntime.sources.images import decode_image  # noqa: E402
from fexruntime.sources.video import Video  # noqa: E402
from fexruntime.versions import installed  # noqa: E402

MOST_KB = 1_000_000
"""A case may take so much more memory than was taken before."""


def image(data: bytes, work: Path) -> str:
    """Decode one encoded image."""
    read = decode_image(data, "the image")
    return f"{read.shape[1]} x {read.shape[0]} pixels"


def video(data: bytes, work: Path) -> str:
    """Read a video to its end."""
    path = work / "clip.mp4"
    path.write_bytes(data)
    film = Video(path)
    return f"{sum(1 for _ in film.frames(range(film.timeline.frames)))} of {film.timeline.frames} frames"


def manifest(data: bytes, work: Path) -> str:
    """Open a bundle with that manifest, and check its files."""
    folder = work / "bundle"
    shutil.copytree(packaged_path("edge"), folder, dirs_exist_ok=True)
    (folder / "manifest.json").write_bytes(data)
    return f"{open_bundle(folder).verify_files()} files hold"


@lru_cache(maxsize=1)
def _detector() -> Detector:
    return Detector("edge", threads=1)


def array(data: Any, work: Path) -> str:
    """Detect in an array."""
    return f"{len(_detector().detect(data))} rows"


def judged(
    read: Callable[[Any, Path], str], data: Any, kept_is_wrong: bool, wanted: type[FexportError]
) -> tuple[str, str]:
    """(outcome, what was said) of one case."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        work, stood = Path(folder), set(os.listdir())
        try:
            outcome, said = ("broken" if kept_is_wrong else "kept"), read(data, work)
        except wanted as error:
            said = str(error).replace(folder, "…").replace(repr(folder)[1:-1], "…")
            outcome = "refused" if said and "\n" not in said and len(said) < 1000 else "broken"
        except BaseException as error:
            outcome, said = "broken", f"{type(error).__name__}: {error}"
        if set(os.listdir()) != stood or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before > MOST_KB:
            outcome = "broken"
    return outcome, said


def main() -> None:
    """Run every case, write what was said, fail where one broke something."""
    with tempfile.TemporaryDirectory() as folder:
        videos = hostile.videos(Path(folder))
    wrong = {**dict(hostile.truncated()), **dict(hostile.bombs())}
    kinds: dict[str, tuple[dict[str, Any], Callable[[Any, Path], str], type[FexportError]]] = {
        "images cut off": (dict(hostile.truncated()), image, InputError),
        "images with bits flipped": (dict(hostile.flipped()), image, InputError),
        "decompression bombs": (dict(hostile.bombs()), image, InputError),
        "other bytes as images": (dict(hostile.oddities()), image, InputError),
        "videos": (videos, video, InputError),
        "arrays": (hostile.ARRAYS, array, InputError),
        "manifests of bundles": (hostile.manifests(packaged_path("edge")), manifest, BundleError),
    }
    cases, home = [], os.getcwd()
    with tempfile.TemporaryDirectory() as empty:
        os.chdir(empty)  # what a case would execute or write shows here
        for kind, (corpus, read, wanted) in kinds.items():
            for name, data in corpus.items():
                outcome, said = judged(read, data, name in wrong or kind == "arrays", wanted)
                cases.append({"kind": kind, "case": name, "outcome": outcome, "said": said})
        os.chdir(home)
    record = {
        "command": "python benchmarks/hostile_corpus.py",
        "machine": measure.machine(),
        "python": platform.python_version(),
        "versions": installed(("fexport", "numpy", "opencv-python-headless", "av", "onnxruntime")),
        "cases": cases,
    }
    (ROOT / "benchmarks" / "results" / "hostile_corpus.json").write_text(
        json.dumps(record, indent=1) + "\n", encoding="utf-8"
    )
    broken = [c for c in cases if c["outcome"] == "broken"]
    print(
        f"{len(cases)} cases: {len(broken)} broke something", *(f"{c['case']}: {c['said']}" for c in broken), sep="\n"
    )
    raise SystemExit(bool(broken))


if __name__ == "__main__":
    np.seterr(all="ignore")
    click.command()(main)()

"""Start-up and size: import, load and first frame in a fresh process; memory; bytes on disk."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, files
from typing import Any

from fexruntime.errors import FexportError

RUNTIME_PACKAGES = ("numpy", "opencv-python-headless", "onnxruntime", "click", "rich", "fexport")
"""What `pip install 'fexport[cpu]'` is made of, but for small pure-Python packages that those bring."""

_PROGRAM = """
import json, sys, time
start = time.perf_counter()
import numpy, psutil
from fexruntime import Detector
imported = time.perf_counter()
detector = Detector(sys.argv[1], threads=int(sys.argv[2]))
loaded = time.perf_counter()
frame = numpy.full((480, 640, 3), 127, numpy.uint8)
detector.detect(frame, boxes=numpy.array([[200, 100, 360, 300]], numpy.float32))
detector.detect(frame)
ran = time.perf_counter()
print(json.dumps({
    "import_s": imported - start, "load_s": loaded - imported, "first_frame_s": ran - loaded,
    "rss_mb": psutil.Process().memory_info().rss / 1e6,
}))
"""


def start(bundle: str, threads: int, times: int = 3) -> list[dict[str, float]]:
    """Seconds to import, to load and to run a first frame, and resident megabytes, in `times` fresh processes.

    The first of them may have to optimise the graphs; the later ones find them in the cache.
    """
    answers = []
    for _ in range(times):
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, bundle, str(threads)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise FexportError(f"the cold-start process failed: {done.stderr.strip().splitlines()[-1]}")
        answers.append(json.loads(done.stdout))
    return answers


def installed_mb() -> dict[str, float]:
    """Megabytes on disk of each package of the CPU runtime."""
    sizes: dict[str, float] = {}
    for name in RUNTIME_PACKAGES:
        try:
            listed = files(name) or []
        except PackageNotFoundError:
            continue
        paths = [p.locate() for p in listed]
        sizes[name] = sum(_size(p) for p in paths) / 1e6
    return sizes


def _size(path: Any) -> int:
    try:
        return int(path.stat().st_size)
    except OSError:
        return 0

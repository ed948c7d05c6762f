"""Start-up and size: import, load and first frame in a fresh process; memory; bytes on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import fexport
import fexruntime
from fexruntime.backends.base import Place
from fexruntime.errors import FexportError

RUNTIME_PACKAGES = ("numpy", "opencv-python-headless", "onnxruntime", "click", "rich")
"""What `pip install 'fexport[cpu]'` is made of, but for small pure-Python packages that those bring."""

_LONGEST_S = 600

_PROGRAM = """
import json, sys, time
start = time.perf_counter()
import numpy
from fexruntime import Detector
imported = time.perf_counter()
detector = Detector(sys.argv[1], **json.loads(sys.argv[2]))
loaded = time.perf_counter()
frame = numpy.full((int(sys.argv[3]), int(sys.argv[4]), 3), 127, numpy.uint8)
detector.detect(frame, boxes=numpy.array([[200, 100, 360, 300]], numpy.float32))
detector.detect(frame)
ran = time.perf_counter()
fields = dict(line.split(":", 1) for line in open("/proc/self/status", encoding="ascii"))
print(json.dumps({
    "import_s": imported - start, "load_s": loaded - imported, "first_frame_s": ran - loaded,
    "rss_mb": int(fields["VmRSS"].split()[0]) * 1024 / 1e6, "peak_mb": int(fields["VmHWM"].split()[0]) * 1024 / 1e6,
}))
"""


def start(bundle: str, place: Place, size_hw: tuple[int, int] = (480, 640), times: int = 3) -> list[dict[str, float]]:
    """Seconds to import, to load and to run a first frame, and resident megabytes (then, and at most), in `times` fresh processes.

    They have a cache of their own: the first optimises the graphs, the later ones find them. Engines are not made by a first run,
    so with TensorRT they have the user's.
    """
    given = {"backend": place.backend, "device": place.device, "pixels": place.pixels, "threads": place.threads}
    said = json.dumps({k: dict(v) if isinstance(v, Mapping) else v for k, v in given.items()})
    words = [bundle, said, *map(str, size_hw)]
    backends = [place.backend] if isinstance(place.backend, str) else place.backend.values()
    if "tensorrt" in backends:
        return [_once(words, {}) for _ in range(times)]
    with tempfile.TemporaryDirectory() as cache:
        return [_once(words, {"FEXPORT_CACHE": cache}) for _ in range(times)]


def _once(words: list[str], also: Mapping[str, str]) -> dict[str, float]:
    command = [sys.executable, "-c", _PROGRAM, *words]
    environment = os.environ | also
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", env=environment, check=False, timeout=_LONGEST_S
        )
    except subprocess.TimeoutExpired:
        raise FexportError(f"the cold-start process did not end within {_LONGEST_S} s") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        kind, _, ours = said[-1].partition(": ")
        # an error of fexport's own is what it would be here: nothing was wrong with the process
        raise FexportError(
            ours if kind.startswith("fexruntime.errors.") else f"the cold-start process failed: {said[-1]}"
        )
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


def installed_mb(backends: Iterable[str] = ()) -> dict[str, float]:
    """Megabytes on disk of each package of the CPU runtime, and of the backends in use."""
    sizes: dict[str, float] = {}
    for name in dict.fromkeys((*RUNTIME_PACKAGES, *backends)):
        try:
            listed = files(name) or []
        except PackageNotFoundError:
            continue
        sizes[name] = sum(_size(p.locate()) for p in listed) / 1e6
    # an editable install lists none of its own files
    own = [p for package in (fexruntime, fexport) for p in Path(package.__path__[0]).rglob("*") if p.is_file()]
    return sizes | {"fexport": sum(_size(p) for p in own) / 1e6}


def _size(path: Any) -> int:
    try:
        return int(path.stat().st_size)
    except OSError:
        return 0

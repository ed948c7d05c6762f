"""Start-up and size: import, load and first frame in a fresh process; memory; bytes on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import numpy as np

import fexport
import fexruntime
from fexport.bench.workload import write_picture
from fexruntime.arrays import U8
from fexruntime.backends.base import Place
from fexruntime.errors import FexportError

RUNTIME_PACKAGES = ("numpy", "opencv-python-headless", "onnxruntime", "click", "rich")
"""What `pip install 'fexport[cpu]'` is made of, but for small pure-Python packages that those bring."""

_LONGEST_S = 600

STEADY_FRAMES = 10
"""Frames behind the first after which memory is looked at once more: networks lay their weights out anew as they run."""

_PROGRAM = """
import json, sys, time
start = time.perf_counter()
import numpy
from fexruntime import Detector
imported = time.perf_counter()
bundle, place, picture, boxes, options, more = sys.argv[1:]
detector = Detector(bundle, **json.loads(place))
loaded = time.perf_counter()
boxes, options = json.loads(boxes), json.loads(options)
frame = numpy.load(picture) if picture.endswith(".npy") else picture
def once():
    if boxes is None:
        detector.detect(frame, **options)
    else:
        detector.detect(frame, columns=("facebox",), **options)
        detector.detect(frame, boxes=numpy.array(boxes, numpy.float32), **options)
def memory():
    with open("/proc/self/status", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    return [int(fields[key].split()[0]) * 1024 / 1e6 for key in ("VmRSS", "VmHWM")]
begun = time.perf_counter()
once()
ran = time.perf_counter()
rss, peak = memory()
for _ in range(int(more)):
    once()
print(json.dumps({
    "import_s": imported - start, "load_s": loaded - imported, "first_frame_s": ran - begun, "rss_mb": rss, "peak_mb": peak,
    "steady_mb": memory()[0],
}))
"""


def start(
    bundle: str,
    place: Place,
    frame: U8,
    boxes: Sequence[Sequence[float]] | None = None,
    options: Mapping[str, int] | None = None,
    times: int = 3,
) -> list[dict[str, float]]:
    """Of `times` fresh processes that hold a service's imports and no more: seconds to import, to load and to run a first frame,
    and resident megabytes: then, at most until then, and after `STEADY_FRAMES` more.

    The frame [H,W,3] uint8 RGB is read as a workload's is: finding, then the faces in `boxes` [N,4], or those found (None).
    They have a cache of their own: the first optimises the graphs, the later ones find them. Engines are not made by a first run,
    so with TensorRT they have the user's.
    """
    given = {"backend": place.backend, "device": place.device, "pixels": place.pixels, "threads": place.threads}
    said = {k: dict(v) if isinstance(v, Mapping) else v for k, v in given.items()}
    backends = [place.backend] if isinstance(place.backend, str) else place.backend.values()
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / ("frame.png" if options and "output_size" in options else "frame.npy")
        if picture.suffix == ".png":
            write_picture(frame, picture)
        else:
            np.save(picture, frame)
        words = [json.dumps(said), str(picture), json.dumps(boxes), json.dumps(options or {}), str(STEADY_FRAMES)]
        also = {} if "tensorrt" in backends else {"FEXPORT_CACHE": str(Path(folder) / "cache")}
        return [_once([bundle, *words], also) for _ in range(times)]


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

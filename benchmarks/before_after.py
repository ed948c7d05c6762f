"""Whole frames of two checkouts, or of two backends, in turns.

    python benchmarks/before_after.py OTHER_CHECKOUT OTHER_BUNDLE THIS_BUNDLE --name house

Each side is a process of its own that has loaded its bundle; they take turns, a pause and a frame to warm up before each
measured one. Both bundles are of the same pipeline and weights, each built by its own checkout. Keeps every sample in
results/before_after_NAME.json, with both commits.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from fexport.bench import measure, workload

ROOT = Path(__file__).parents[1]
PAUSE_S = 0.3
WORKER = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import numpy as np
from fexruntime import Detector
options = {"backend": sys.argv[5]} if sys.argv[5] else {}
detector = Detector(sys.argv[1], threads=int(sys.argv[2]), **options)
frame, boxes = np.load(sys.argv[3]), np.array(json.loads(sys.argv[4]), np.float32)
def once():
    detector.detect(frame)
    detector.detect(frame, boxes=boxes)
for _ in range(3): once()
print("ready", flush=True)
for line in sys.stdin:
    once()
    start, cpu = time.perf_counter(), time.process_time()
    once()
    print(json.dumps([(time.perf_counter() - start) * 1e3, (time.process_time() - cpu) * 1e3]), flush=True)
"""


@click.command()
@click.argument("other", type=click.Path(path_type=Path, exists=True))
@click.argument("other_bundle", type=click.Path(path_type=Path, exists=True))
@click.argument("this_bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--name", required=True)
@click.option("--other-backend", default="", help="What runs the networks of the other side, where it can choose.")
@click.option("--this-backend", default="", help="What runs the networks of this side: auto, after `fexport tune`.")
@click.option("--rounds", default=30, show_default=True)
@click.option("--faces", default=1, show_default=True)
@click.option("--threads", default=2, show_default=True)
def main(
    other: Path,
    other_bundle: Path,
    this_bundle: Path,
    name: str,
    other_backend: str,
    this_backend: str,
    rounds: int,
    faces: int,
    threads: int,
) -> None:
    """Measure, keep the samples, print the ratio."""
    frame = workload.frame_of(None, (640, 480))
    boxes = workload.boxes_for(faces, 480, 640)
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "frame.npy"
    np.save(path, frame)
    sides = {"before": (other, other_bundle, other_backend), "after": (ROOT, this_bundle, this_backend)}
    workers = {
        side: _start(checkout, bundle, threads, path, boxes, backend)
        for side, (checkout, bundle, backend) in sides.items()
    }
    samples: dict[str, list[list[float]]] = {side: [] for side in sides}
    for k in range(rounds):
        for side in sorted(sides, reverse=bool(k % 2)):
            time.sleep(PAUSE_S)
            samples[side].append(json.loads(_ask(workers[side])))
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    folder.cleanup()
    wall = {side: np.array(rows)[:, 0] for side, rows in samples.items()}
    result = {
        "machine": measure.machine(),
        "commits": {side: _commit(checkout) for side, (checkout, _, _) in sides.items()},
        "backends": {side: backend or "default" for side, (_, _, backend) in sides.items()},
        "faces": faces,
        "threads": threads,
        "work": "one whole detect that finds, and one that reads the given faces, 640 x 480",
        "wall_and_cpu_ms": samples,
        "p50_ms": {side: float(np.median(v)) for side, v in wall.items()},
        "after_over_before": float(np.median(wall["after"] / wall["before"])),
        "cpu_after_over_before": float(np.median(np.array(samples["after"])[:, 1] / np.array(samples["before"])[:, 1])),
    }
    target = ROOT / "benchmarks" / "results" / f"before_after_{name}.json"
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(
        json.dumps(
            {k: result[k] for k in ("commits", "p50_ms", "after_over_before", "cpu_after_over_before")}, indent=1
        )
    )


def _start(
    checkout: Path, bundle: Path, threads: int, frame: Path, boxes: workload.Boxes, backend: str
) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": f"{checkout / 'runtime'}:{checkout / 'export'}"}
    command = [sys.executable, "-c", WORKER, str(bundle), str(threads), str(frame), json.dumps(boxes), backend]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", env=environment)
    assert worker.stdout is not None
    if worker.stdout.readline() != "ready\n":
        sys.exit(f"the process of {checkout} did not start")
    return worker


def _ask(worker: subprocess.Popen[str]) -> str:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write("\n")
    worker.stdin.flush()
    return worker.stdout.readline()


def _commit(checkout: Path) -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=checkout, capture_output=True, encoding="utf-8", check=False
    )
    return done.stdout.strip()


if __name__ == "__main__":
    main()

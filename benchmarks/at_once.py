"""Whether a frame's networks are faster at once, a thread each, than one after another on all threads: results/at_once.json.

    python benchmarks/at_once.py BUNDLE

Each way in turns, behind a run of the detector, as in a frame. "items": multitask and identity networks of the frame's faces, each face a
task of two workers with one thread; "frames": the detectors of two frames. Answers are the same bits either way.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import numpy as np

from fexport.bench import measure
from fexruntime import Place, open_bundle
from fexruntime.backends import open_backend

RESULTS = Path(__file__).parent / "results"
BACKENDS = {"faces": "ncnn", "multitask": "onnxruntime", "identity": "onnxruntime"}
FACES = (1, 5)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--rounds", default=7, show_default=True)
def main(bundle: Path, rounds: int) -> None:
    """Measure, write the record, print medians."""
    networks, rng = open_bundle(bundle).networks, np.random.RandomState(0)
    given = {}
    for role, network in networks.items():
        (tensor,) = network.record.inputs
        sizes = {"height": 480, "width": 640}
        shape = [a if isinstance(a, int) else sizes[a] for a in tensor.shape[1:]]
        given[role] = {tensor.name: rng.rand(1 if role == "faces" else max(FACES), *shape).astype(np.float32)}
    both = {role: open_backend(n, Place(backend=BACKENDS, threads=2)) for role, n in networks.items()}
    alone = {role: open_backend(n, Place(backend=BACKENDS, threads=1)) for role, n in networks.items()}
    pool = ThreadPoolExecutor(2)
    behind = [role for role in networks if role != "faces"]

    def detector() -> None:
        both["faces"].infer(given["faces"])

    def in_turn(faces: int) -> None:
        for role in behind:
            both[role].infer({name: value[:faces] for name, value in given[role].items()})

    def at_once(faces: int) -> None:
        items = [
            (role, {n: np.ascontiguousarray(v[k : k + 1]) for n, v in given[role].items()})
            for role in behind
            for k in range(faces)
        ]
        for job in [pool.submit(alone[role].infer, item) for role, item in items]:
            job.result()

    def two_frames() -> None:
        for job in [pool.submit(alone["faces"].infer, given["faces"]) for _ in range(2)]:
            job.result()

    ways: dict[str, tuple[Callable[[], None], int]] = {
        "detector, two threads": (detector, 1),
        "detectors of two frames, a thread each": (two_frames, 2),
    }
    for faces in FACES:
        ways[f"{faces} faces, in turn on two threads"] = (lambda n=faces: in_turn(n), 1)
        ways[f"{faces} faces, items at once"] = (lambda n=faces: at_once(n), 1)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for k in range(rounds + 1):
        for name, (way, frames) in ways.items():
            if way not in (detector, two_frames):
                detector()
            start = time.perf_counter()
            way()
            if k:
                taken[name].append((time.perf_counter() - start) * 1e3 / frames)
    said = {"machine": measure.machine(), "backends": BACKENDS, "ms_a_frame": taken}
    (RESULTS / "at_once.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    for name, ms in taken.items():
        print(f"{name}: {np.median(ms):.1f} ms a frame")


if __name__ == "__main__":
    main()

"""What a face detector takes with and without its landmark head, which no row reads: results/unread_outputs.json.

python benchmarks/unread_outputs.py BUNDLE

One thread's CPU time at 640 x 480, all ways in turns, on the backends that can leave outputs out.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
import numpy as np

from fexport.bench import measure
from fexruntime import Place, detect, open_bundle
from fexruntime.backends import open_backend

RESULTS = Path(__file__).parent / "results"


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--rounds", default=15, show_default=True)
def main(bundle: Path, rounds: int) -> None:
    """Measure, write the record, print medians."""
    network = open_bundle(bundle).networks["faces"]
    image = {"frames": np.random.RandomState(0).rand(1, 3, 480, 640).astype(np.float32)}
    anchors = len(detect.anchors(480, 640))
    every = {t.name: np.empty((1, anchors, int(t.shape[-1])), np.float32) for t in network.record.outputs}
    read = {name: every[name] for name in ("loc", "conf")}
    runners = {name: open_backend(network, Place(name, threads=1)) for name in ("onnxruntime", "ncnn")}
    ways = [(name, what, out) for name in runners for what, out in (("every output", every), ("read ones", read))]
    taken: dict[str, list[float]] = {f"{name}, {what}": [] for name, what, _ in ways}
    for k in range(rounds + 2):
        for name, what, out in ways if k % 2 else ways[::-1]:
            start = time.process_time()
            runners[name].infer(image, out)
            if k >= 2:
                taken[f"{name}, {what}"].append((time.process_time() - start) * 1e3)
    record = {"machine": measure.machine(), "network": network.row.name, "threads": 1, "cpu_ms": taken}
    (RESULTS / "unread_outputs.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for way, ms in taken.items():
        print(f"{way}: {np.median(ms):.1f} ms")


if __name__ == "__main__":
    main()

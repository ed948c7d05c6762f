"""What Detectorv2's multitask network would take with only the heads that are asked for: results/unread_heads.json.

python benchmarks/unread_heads.py BUNDLE

One thread's CPU time of one face on ONNX Runtime: the whole graph with every output, with one fetched (`only_execute_path_to_fetches`), and a graph
cut down to what one output needs; every way in turns. That the numbers are the same is looked at too.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
import numpy as np
import onnx
import onnxruntime
from onnx.utils import Extractor

from fexport.bench import measure
from fexruntime import open_bundle

RESULTS = Path(__file__).parent / "results"
HEADS = ("au", "emotion", "pose", "mesh")


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A session of one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--rounds", default=21, show_default=True)
def main(bundle: Path, rounds: int) -> None:
    """Measure, write the record, print medians."""
    network = open_bundle(bundle).networks["multitask"]
    variant = network.variant(None, ("onnx",))
    model = onnx.load_from_string(network.read(variant.model))
    (given,) = network.record.inputs
    shape = [1, *(int(axis) for axis in given.shape[1:])]
    image = {given.name: np.random.RandomState(0).rand(*shape).astype(np.float32)}
    names = [t.name for t in network.record.outputs]
    fetched = onnxruntime.RunOptions()
    fetched.only_execute_path_to_fetches = True
    whole = session(model)
    every = dict(zip(names, whole.run(names, image), strict=True))
    ways = {"every output": (whole, names, None)}
    for head in HEADS:
        ways[f"{head}, fetched alone"] = (whole, [head], fetched)
        ways[f"{head}, graph cut"] = (session(Extractor(model).extract_model([given.name], [head])), [head], None)
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for k in range(rounds + 2):
        for way, (runner, wanted, options) in [*ways.items()][:: 1 if k % 2 else -1]:
            start = time.process_time()
            said = runner.run(wanted, image, options)
            if k >= 2:
                taken[way].append((time.process_time() - start) * 1e3)
            for name, value in zip(wanted, said, strict=True):
                assert np.array_equal(value, every[name]), name
    record = {
        "machine": measure.machine(),
        "network": network.row.name,
        "onnxruntime": onnxruntime.__version__,
        "threads": 1,
        "cpu_ms": taken,
    }
    (RESULTS / "unread_heads.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    middle = float(np.median(taken["every output"]))
    for way, ms in taken.items():
        print(f"{way}: {np.median(ms):.1f} ms, {100 * (1 - np.median(ms) / middle):.1f} % less")


if __name__ == "__main__":
    main()

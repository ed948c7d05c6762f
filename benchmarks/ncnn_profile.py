"""Where one network's time goes in ncnn, layer by layer: results/ncnn_profile_ROLE.json (_without: with options off).

    python benchmarks/ncnn_profile.py BUNDLE faces --without winograd63_convolution

One thread, CPU time; a layer's is what asking for its blob adds, so handing the blob out is in it and the sum is above a run's.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from fexport.bench import measure
from fexruntime import open_bundle
from fexruntime.backends.ncnn import ROUNDING, import_ncnn

ncnn = import_ncnn()
RESULTS = Path(__file__).parent / "results"


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.argument("role")
@click.option("--without", multiple=True, help="An option of ncnn's to turn off, without its 'use_'.")
@click.option("--rounds", default=7, show_default=True)
def main(bundle: Path, role: str, without: tuple[str, ...], rounds: int) -> None:
    """Profile, write the record, print it."""
    network = open_bundle(bundle).networks[role]
    variant = network.variant("fp32", ("ncnn",))
    text = network.read(variant.model).decode()
    net = ncnn.Net()
    for option in (*ROUNDING, *(f"use_{name}" for name in without)):
        setattr(net.opt, option, False)
    net.opt.num_threads, net.opt.lightmode = 1, False
    with variant.model.opened(network.folder) as param, variant.parts[0].opened(network.folder) as data:
        if net.load_param(param) or net.load_model(data):
            raise click.ClickException("ncnn cannot load it")
    sizes = {"height": 480, "width": 640}
    (tensor,) = network.record.inputs
    shape = [axis if isinstance(axis, int) else sizes[axis] for axis in tensor.shape[1:]]
    given = np.random.RandomState(0).rand(*shape).astype(np.float32)  # a Mat of it holds no reference
    value = ncnn.Mat(given).clone()
    runs = [_run(net, text, tensor.name, value) for _ in range(rounds + 1)][1:]
    medians = {kind: float(np.median([run[kind] for run in runs])) for kind in runs[0]}
    medians = dict(sorted(medians.items(), key=lambda item: -item[1]))
    said = {"machine": measure.machine(), "network": network.row.name, "without": without, "cpu_ms": medians}
    name = role + "_without" * bool(without)
    (RESULTS / f"ncnn_profile_{name}.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    for kind, ms in medians.items():
        print(f"{ms:8.2f} ms  {kind}")
    print(f"{sum(medians.values()):8.2f} ms")


def _run(net: Any, text: str, given: str, value: Any) -> dict[str, float]:
    taken: dict[str, float] = defaultdict(float)
    extractor = net.create_extractor()
    extractor.input(given, value)
    for line in text.splitlines()[2:]:
        kind, _, reads, makes, *words = line.split()
        if kind in ("Input", "MemoryData"):
            continue
        start = time.process_time()
        _, blob = extractor.extract(words[int(reads)], 1)
        ms = (time.process_time() - start) * 1e3
        known = dict(word.split("=", 1) for word in words[int(reads) + int(makes) :])
        called = f"{kind} {known['1']}x{known['11']}/{known.get('3', 1)}" if kind == "Convolution" else kind
        taken[f"{called} -> {blob.c * blob.elempack} x {blob.h} x {blob.w}"] += ms
    return taken


if __name__ == "__main__":
    main()

"""Networks in ncnn with its options off, in turns: what `contracts/ncnn.py` chooses from. results/ncnn_options_THREADS.json.

    python benchmarks/ncnn_options.py BUNDLE identity landmarks --threads 2

Each round runs every choice once, in an order that turns; the median of its ratios to the default of the same round is what counts.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from fexport.bench import measure
from fexruntime import open_bundle
from fexruntime.backends.ncnn import ROUNDING, import_ncnn
from fexruntime.bundle import BundleNetwork

ncnn = import_ncnn()
RESULTS = Path(__file__).parent / "results"
CHOICES: dict[str, tuple[str, ...]] = {
    "default": (),
    "F(4x4)": ("winograd63_convolution",),
    "F(2x2)": ("winograd63_convolution", "winograd43_convolution"),
    "direct": ("winograd_convolution",),
}
"""By the largest Winograd transform that is left: the options that are off, less their 'use_'."""


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.argument("roles", nargs=-1, required=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--seconds", default=12.0, show_default=True, help="For each network.")
def main(bundle: Path, roles: tuple[str, ...], threads: int, seconds: float) -> None:
    """Measure, add to the record, print."""
    into = RESULTS / f"ncnn_options_{threads}.json"
    said: dict[str, Any] = json.loads(into.read_text(encoding="utf-8"))["networks"] if into.exists() else {}
    opened = open_bundle(bundle).networks
    for role in roles:
        network = opened[role]
        said[network.row.name] = found = _in_turns(network, threads, seconds)
        print(f"{network.row.name}, {threads} threads, {found['rounds']} rounds")
        for name, one in found["choices"].items():
            print(f"  {name:8} {one['wall_ms']:8.2f} ms, {one['ratio']:.3f} of the default's")
    into.write_text(
        json.dumps({"machine": measure.machine(), "threads": threads, "networks": said}, indent=1) + "\n",
        encoding="utf-8",
    )


def _in_turns(network: BundleNetwork, threads: int, seconds: float) -> dict[str, Any]:
    (tensor,) = network.record.inputs
    sizes = {"height": 480, "width": 640}
    shape = [axis if isinstance(axis, int) else sizes[axis] for axis in tensor.shape[1:]]
    given = np.random.RandomState(0).rand(*shape).astype(np.float32)  # a Mat of it holds no reference
    value = ncnn.Mat(given).clone()
    nets = {name: _loaded(network, off, threads) for name, off in CHOICES.items()}
    order, times = list(nets), {name: [] for name in nets}  # type: dict[str, list[float]]
    for net in nets.values():
        _run(net, network, tensor.name, value)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name in order:
            times[name].append(_run(nets[name], network, tensor.name, value))
        order = order[1:] + order[:1]
    base = np.array(times["default"])
    choices = {
        name: {
            "off": CHOICES[name],
            "wall_ms": float(np.median(ms)),
            "ratio": float(np.median(np.array(ms) / base)),
            "ratio_quartiles": [float(v) for v in np.percentile(np.array(ms) / base, [25, 75])],
        }
        for name, ms in times.items()
    }
    return {"rounds": len(base), "choices": choices}


def _loaded(network: BundleNetwork, off: tuple[str, ...], threads: int) -> Any:
    variant = network.variant("fp32", ("ncnn",))
    net = ncnn.Net()
    for option in (*ROUNDING, *(f"use_{name}" for name in off)):
        setattr(net.opt, option, False)
    net.opt.num_threads = threads
    with variant.model.opened(network.folder) as param, variant.parts[0].opened(network.folder) as data:
        if net.load_param(param) or net.load_model(data):
            raise click.ClickException(f"ncnn cannot load {network.row.name}")
    return net


def _run(net: Any, network: BundleNetwork, given: str, value: Any) -> float:
    start = time.perf_counter()
    extractor = net.create_extractor()
    extractor.input(given, value)
    for output in network.record.outputs:
        extractor.extract(output.name)
    return (time.perf_counter() - start) * 1e3


if __name__ == "__main__":
    main()

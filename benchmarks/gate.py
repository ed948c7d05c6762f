"""Has a network become slower? One-thread CPU time over eager torch's, in turns, against the recorded ratios.

CPU time on one thread hardly notices other load, and a ratio in turns cancels the clock. Both torch and ONNX Runtime are
those of this environment; a baseline is only good for the versions it was recorded with.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import torch

from fexport import build, modules, onnx_passes, plan
from fexport.bench import measure
from fexport.steps import tools
from fexruntime import Place, open_bundle
from fexruntime.backends import open_backend

BASELINE = Path(__file__).parent / "results" / "gate.json"
PIPELINES = (("detectorv2", "pyfeat-2.1"), ("detectorv1", "pyfeat-2.1"))
LANDMARKS_AND_POSE = {"au": "none", "emotion": "none", "gaze": "none"}
"""The networks that the baseline has."""
NOISE = 0.10
"""Ratios of two runs on one machine agree to within 5 %; twice that is a regression. Another CPU has other ratios."""


@click.command()
@click.option("--record", is_flag=True, help="Write the measured ratios as the new baseline.")
@click.option("--rounds", default=12, show_default=True)
@click.option(
    "--without-rewrites", is_flag=True, help="Build without the graph rewrites: slower, so the gate must fail."
)
@click.option("--pipeline", "only", type=click.Choice([name for name, _ in PIPELINES]), help="This one alone.")
def main(record: bool, rounds: int, without_rewrites: bool, only: str | None) -> None:
    """Measure, print, and fail if a ratio fell below its baseline by more than noise."""
    if record and (without_rewrites or only):
        raise click.UsageError("a baseline is of everything, with its rewrites")
    if without_rewrites:
        onnx_passes.apply = lambda model, names=(): {}
    versions = {k: v for k, v in tools().items() if k in ("torch", "onnxruntime")}
    baseline = {} if record else _baseline(versions)
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    found: dict[str, float] = {}
    samples: dict[str, dict[str, list[float]]] = {}
    for pipeline, contract in (p for p in PIPELINES if only in (None, p[0])):
        with tempfile.TemporaryDirectory() as folder:
            choices = LANDMARKS_AND_POSE if pipeline == "detectorv1" else {}
            todo = plan.plan(pipeline, contract, choices, stand_in_seed=0)
            build.build(todo, Path(folder) / "bundle")
            bundle = open_bundle(Path(folder) / "bundle")
            for network in bundle.networks.values():
                name = f"{pipeline} {network.row.name}"
                module = modules.load(network.row, network.choice.crop, stand_in_seed=0).module
                samples[name] = _turns(module, open_backend(network, Place(threads=1)), rounds)
                found[name] = float(np.median(samples[name]["torch_ms"]) / np.median(samples[name]["fexport_ms"]))
                print(f"{name}: {found[name]:.2f} times torch", flush=True)
    if record:
        baseline = {"built_with": versions, "cpu": measure.machine()["cpu"], "ratio": found, "samples": samples}
        BASELINE.write_text(json.dumps(baseline, indent=1) + "\n", encoding="utf-8")
        return
    slower = [n for n, ratio in found.items() if n in baseline and ratio < baseline[n] * (1 - NOISE)]
    compared = {name for name in baseline if only in (None, name.partition(" ")[0])}
    missing = sorted(compared ^ found.keys())
    for name in slower:
        print(f"SLOWER: {name}: {found[name]:.2f} times torch, was {baseline[name]:.2f}")
    if slower or missing:
        sys.exit(f"{len(slower)} networks slower, {len(missing)} on one side only: {missing}")
    print("no network became slower")


def _baseline(versions: dict[str, str]) -> dict[str, float]:
    """The recorded ratios; exits if they were recorded with other versions, before minutes of measuring."""
    recorded = json.loads(BASELINE.read_text(encoding="utf-8"))
    if recorded["built_with"] != versions:
        sys.exit(
            f"the baseline was recorded with {recorded['built_with']}, this is {versions}: record one with --record"
        )
    here = measure.machine()["cpu"]
    if recorded["cpu"] != here:
        print(f"the baseline was recorded on {recorded['cpu']}, this is {here}: ratios differ by that alone")
    return recorded["ratio"]


def _turns(module: torch.nn.Module, backend, rounds: int) -> dict[str, list[float]]:
    (spec,) = backend.spec.inputs
    sizes = {"height": 480, "width": 640}
    shape = [axis if isinstance(axis, int) else sizes.get(axis, 1) for axis in spec.shape]
    value = np.random.RandomState(0).rand(*shape).astype(np.float32)
    tensor = torch.from_numpy(value)
    repeats = 50 if value.size < 1000 else 1  # a small network alone is below the clock's resolution
    taken: dict[str, list[float]] = {"torch_ms": [], "fexport_ms": []}
    for k in range(rounds + 2):
        for side, run in (
            ("torch_ms", lambda: module(tensor)),
            ("fexport_ms", lambda: backend.infer({spec.name: value})),
        ):
            start = time.process_time()
            for _ in range(repeats):
                run()
            if k >= 2:
                taken[side].append((time.process_time() - start) * 1e3 / repeats)
    return taken


if __name__ == "__main__":
    main()

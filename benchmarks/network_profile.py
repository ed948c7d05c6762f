"""Where one network's time goes in ONNX Runtime and OpenVINO, by kind of operation: results/profile_NETWORK.json.

    python benchmarks/network_profile.py BUNDLE multitask --threads 1

A bundle in a lower precision has it behind the name (profile_NETWORK_int8.json).

Each library's own profiler, on the graph that it takes of the bundle (fused and laid out by it), one item, one run after two to warm up, by
turns. The sum over operations is the time in kernels; what is between them is not in it.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import click
import numpy as np

from fexport.bench import measure
from fexruntime import open_bundle

RESULTS = Path(__file__).parent / "results"
Run = dict[str, float]


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.argument("role")
@click.option("--threads", default=1, show_default=True)
@click.option("--rounds", default=10, show_default=True)
def main(bundle: Path, role: str, threads: int, rounds: int) -> None:
    """Profile, write the record, print it."""
    network = open_bundle(bundle).networks[role]
    precision = network.record.precision
    models = {
        name: network.read(network.variant(precision, ("onnx",), name).model) for name in ("onnxruntime", "openvino")
    }
    sizes = {"height": 480, "width": 640}
    rng = np.random.RandomState(0)
    inputs = {
        t.name: rng.rand(1, *(a if isinstance(a, int) else sizes[a] for a in t.shape[1:])).astype(np.float32)
        for t in network.record.inputs
    }
    found = {
        "onnxruntime": _onnxruntime(models["onnxruntime"], inputs, threads, rounds),
        "openvino": _openvino(models["openvino"], inputs, threads, rounds),
    }
    result = {"machine": measure.machine(), "network": network.row.name, "threads": threads, "rounds": rounds}
    result |= {name: {"wall_ms": wall, "ms_by_operation": _medians(runs)} for name, (wall, runs) in found.items()}
    result["precision"] = precision
    name = network.row.name if precision == "fp32" else f"{network.row.name}_{precision}"
    (RESULTS / f"profile_{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name in found:
        said = result[name]
        total = sum(said["ms_by_operation"].values())
        print(f"{name}: {said['wall_ms']:.1f} ms a run without its profiler, {total:.1f} ms in operations")
        for kind, ms in said["ms_by_operation"].items():
            print(f"  {ms:7.2f} ms {100 * ms / total:5.1f} %  {kind}")


def _onnxruntime(model: bytes, inputs: dict[str, np.ndarray], threads: int, rounds: int) -> tuple[float, list[Run]]:
    from fexruntime.backends.onnxruntime import import_onnxruntime

    ort = import_onnxruntime()

    def session(profile: str | None):
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.enable_profiling = profile is not None
        if profile is not None:
            options.profile_file_prefix = profile
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    plain = session(None)
    wall = _wall(lambda: plain.run(None, inputs), rounds)
    with tempfile.TemporaryDirectory() as folder:
        profiled = session(f"{folder}/p")
        for _ in range(rounds + 2):
            profiled.run(None, inputs)
        events = json.loads(Path(profiled.end_profiling()).read_text(encoding="utf-8"))
    runs: list[Run] = [defaultdict(float)]
    for event in sorted(events, key=lambda e: e["ts"]):
        if event["name"] == "model_run":
            continue
        if event["name"].endswith("SequentialExecutor::Execute"):
            runs.append(defaultdict(float))
        elif event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            runs[-1][_kind(event)] += event["dur"] / 1e3
    return wall, [run for run in runs if run][2:]


def _kind(event: dict) -> str:
    """An operation's name; convolutions apart by what their kernel says of itself: depthwise ones read one channel a group."""
    name = event["args"]["op_name"]
    shapes = event["args"].get("input_type_shape", [])
    weights = [next(iter(s.values())) for s in shapes][1:2]
    if name == "Conv" and weights and len(weights[0]) == 4:
        _, channels, down, across = weights[0]
        name = f"Conv {down}x{across}{' depthwise' if channels == 1 else ''}"
    return name


def _openvino(model: bytes, inputs: dict[str, np.ndarray], threads: int, rounds: int) -> tuple[float, list[Run]]:
    from fexruntime.backends.openvino import import_openvino

    ov = import_openvino()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
    }
    core = ov.Core()
    plain = core.compile_model(core.read_model(model), "CPU", settings).create_infer_request()
    wall = _wall(lambda: plain.infer(inputs), rounds)
    request = core.compile_model(core.read_model(model), "CPU", settings | {"PERF_COUNT": True}).create_infer_request()
    runs = []
    for k in range(rounds + 2):
        request.infer(inputs)
        run: Run = defaultdict(float)
        for info in request.profiling_info:
            if info.real_time.total_seconds():
                run[f"{info.node_type} ({info.exec_type})"] += info.real_time.total_seconds() * 1e3
        if k >= 2:
            runs.append(run)
    return wall, runs


def _wall(run, rounds: int) -> float:
    taken = []
    for _ in range(rounds + 2):
        start = time.perf_counter()
        run()
        taken.append((time.perf_counter() - start) * 1e3)
    return float(np.median(taken[2:]))


def _medians(runs: list[Run]) -> dict[str, float]:
    kinds = {kind for run in runs for kind in run}
    medians = {kind: float(np.median([run.get(kind, 0.0) for run in runs])) for kind in kinds}
    return dict(sorted(medians.items(), key=lambda item: -item[1]))


if __name__ == "__main__":
    main()

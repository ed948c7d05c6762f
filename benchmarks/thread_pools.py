"""A frame's networks under each way to give ONNX Runtime threads: who spins while another works?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click

from fexport.bench import measure

MODES = (
    "own pools, spinning",
    "own pools, sleeping after a run",
    "own pools, never spinning",
    "one pool for the process",
)
PROGRAM = """
import sys, time
import numpy as np, onnxruntime as ort
mode, folder = sys.argv[1:]
def options():
    o = ort.SessionOptions(); o.log_severity_level = 3
    if mode == "one pool for the process":
        o.use_per_session_threads = False
        return o
    o.intra_op_num_threads = 2
    if "sleeping" in mode: o.add_session_config_entry("session.force_spinning_stop", "1")
    if "never" in mode: o.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return o
if mode == "one pool for the process": ort.set_global_thread_pool_sizes(2, 1)
shapes = {"faces": (1, 3, 480, 640), "multitask": (1, 3, 256, 256), "identity": (1, 3, 256, 256)}
rng = np.random.RandomState(0)
runs = []
for role, shape in shapes.items():
    s = ort.InferenceSession(f"{folder}/{role}.onnx", options(), providers=["CPUExecutionProvider"])
    runs.append((s, {s.get_inputs()[0].name: rng.rand(*shape).astype(np.float32)}))
taken = []
for _ in range(15):
    start = time.perf_counter()
    for s, value in runs: s.run(None, value)
    taken.append(time.perf_counter() - start)
print(float(np.median(taken[3:])) * 1e3)
"""


@click.command()
@click.argument("bundle")
def main(bundle: str) -> None:
    """Run each mode in several fresh processes, in turns, and keep the medians."""
    found: dict[str, list[float]] = {mode: [] for mode in MODES}
    for _ in range(4):
        for mode in MODES:
            done = subprocess.run(
                [sys.executable, "-c", PROGRAM, mode, bundle], capture_output=True, encoding="utf-8", check=True
            )
            found[mode].append(float(done.stdout))
            print(f"{mode}: {found[mode][-1]:.0f} ms", flush=True)
    path = Path(__file__).parent / "results" / "thread_pools.json"
    path.write_text(json.dumps({"machine": measure.machine(), "p50_ms": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

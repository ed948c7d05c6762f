"""Measure every workload of the report and keep the raw samples in results/.

    python benchmarks/record.py --weights DIR --pyfeat-python PYFEAT_ENV/bin/python

Goes on where it was stopped: a workload that has a record of this commit is not measured again (delete the record to do so).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from fexport import build, plan
from fexport.bench import measure

RESULTS = Path(__file__).parent / "results"
WORKLOADS: dict[str, tuple[str, list[str]]] = {
    # name: (pipeline, options of `fexport bench`)
    "vga_1_face": ("detectorv2", ["--faces", "1", "--networks"]),
    "vga_5_faces": ("detectorv2", ["--faces", "5"]),
    "hd_1_face": ("detectorv2", ["--faces", "1", "--size", "1920x1080"]),
    "hd_1_face_output_size_640": ("detectorv2", ["--faces", "1", "--size", "1920x1080", "--output-size", "640"]),
    "hd_1_face_detector_640": ("detectorv2", ["--faces", "1", "--size", "1920x1080", "--detector-size", "640"]),
    "detectorv1_vga_1_face": ("detectorv1", ["--faces", "1", "--networks"]),
    "detectorv1_default_vga_1_face": ("detectorv1 default", ["--faces", "1"]),
    "detectorv1_default_vga_5_faces": ("detectorv1 default", ["--faces", "5"]),
}
LANDMARKS_AND_POSE = {"au": "none", "emotion": "none", "gaze": "none"}
"""What "detectorv1" alone means here: its landmarks, pose and identity."""


@click.command()
@click.option("--weights", type=click.Path(path_type=Path), required=True, help="Weights that both sides load.")
@click.option("--pyfeat-python", type=click.Path(path_type=Path), required=True)
@click.option("--rounds", default=20, show_default=True)
@click.option("--only", type=click.Choice(list(WORKLOADS)), multiple=True)
def main(weights: Path, pyfeat_python: Path, rounds: int, only: tuple[str, ...]) -> None:
    """Build the bundles, run the workloads, write results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        bundles: dict[str, Path] = {}
        for name, (pipeline, chosen) in WORKLOADS.items():
            if (only and name not in only) or _is_recorded(name):
                continue
            if pipeline not in bundles:
                bundles[pipeline] = Path(folder) / pipeline
                choices = LANDMARKS_AND_POSE if pipeline == "detectorv1" else {}
                row = pipeline.partition(" ")[0]
                todo = plan.plan(row, "pyfeat-2.1", choices, weights=[weights], targets=plan.TARGETS)
                build.build(todo, bundles[pipeline])
                # the backends that are fastest here, as a user would choose them; the record says which they are
                for threads in ("1", "2"):
                    tune = [sys.executable, "-m", "fexport", "tune", str(bundles[pipeline]), "--threads", threads]
                    subprocess.run(tune, check=True)
            against_pyfeat(name, bundles[pipeline], Path(folder), rounds, chosen, pyfeat_python, weights)
    (RESULTS / "peak.json").write_text(json.dumps({"gflops": peak_gflops()}, indent=1) + "\n")


def _is_recorded(name: str) -> bool:
    path = RESULTS / f"{name}.json"
    here = measure.commit(Path(__file__).parents[1])
    if not path.exists() or here is None or here.endswith("+"):
        return False
    return bool(json.loads(path.read_text())["machine"].get("commit") == here)


def against_pyfeat(
    name: str, bundle: Path, folder: Path, rounds: int, chosen: list[str], pyfeat_python: Path, weights: Path
) -> None:
    """One workload beside py-feat: results/NAME.json."""
    options = ["--threads", "2", "--rounds", str(rounds), "--out", f"{folder}/out", "--force", *chosen]
    options += ["--against", "pyfeat", "--pyfeat-python", str(pyfeat_python), "--weights", str(weights)]
    print(name, flush=True)
    # a process of its own: torch, which built the bundle, is not in its memory
    subprocess.run([sys.executable, "-m", "fexport", "bench", str(bundle), *options], check=True)
    shutil.copy(folder / "out" / "samples.json", RESULTS / f"{name}.json")


def peak_gflops(size: int = 2048, runs: int = 30) -> list[float]:
    """GFLOP/s of one large fp32 matrix product on two threads, a sample a run: what these cores can do."""
    import onnxruntime as ort
    from onnx import TensorProto, helper

    shape = [size, size]
    tensors = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("a", "b", "c")]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "peak", tensors[:2], tensors[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    value = np.random.RandomState(0).rand(*shape).astype(np.float32)
    found = []
    for _ in range(runs):
        start = time.perf_counter()
        session.run(None, {"a": value, "b": value})
        found.append(2e-9 * size**3 / (time.perf_counter() - start))
    return found


if __name__ == "__main__":
    main()

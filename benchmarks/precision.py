"""Detectorv2 in lower precisions: its speed beside py-feat in turns, and what verification found in the task's units.

Calibrates on the packaged photograph's variants unless pictures are given. Weights of both sides are the same; made-up ones
cost what real ones cost, and say nothing of accuracy: their losses are allowed here and recorded.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from record import RESULTS, against_pyfeat

from fexport import build, plan
from fexport.samples import PHOTOGRAPH

WORKLOADS: dict[str, tuple[str, list[str]]] = {
    # name: (precision, options of `fexport bench`)
    "int8_vga_1_face": ("int8", ["--faces", "1"]),
    "int8_vga_5_faces": ("int8", ["--faces", "5"]),
    "int8_hd_1_face_detector_640": ("int8", ["--faces", "1", "--size", "1920x1080", "--detector-size", "640"]),
    "bf16_vga_1_face": ("bf16", ["--faces", "1"]),
    "fp16_vga_1_face": ("fp16", ["--faces", "1"]),
}


@click.command()
@click.option("--weights", type=click.Path(path_type=Path), required=True, help="Weights that both sides load.")
@click.option("--pyfeat-python", type=click.Path(path_type=Path), required=True)
@click.option("--pictures", type=click.Path(path_type=Path), multiple=True, help="To calibrate on.")
@click.option("--rounds", default=15, show_default=True)
@click.option("--only", type=click.Choice(list(WORKLOADS)), multiple=True)
def main(weights: Path, pyfeat_python: Path, pictures: tuple[Path, ...], rounds: int, only: tuple[str, ...]) -> None:
    """Build a bundle in each precision, run the workloads, write results/precision_NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        bundles: dict[str, Path] = {}
        for name, (precision, chosen) in WORKLOADS.items():
            if only and name not in only:
                continue
            if precision not in bundles:
                bundles[precision] = out = Path(folder) / precision
                todo = plan.plan(
                    "detectorv2",
                    "pyfeat-2.1",
                    weights=[weights],
                    targets=["onnxruntime", "openvino"],
                    precision=precision,
                    calibration=list(pictures) or [PHOTOGRAPH],
                    allow_loss=True,
                )
                start = time.perf_counter()
                build.build(todo, out)
                said = json.loads((out / build.REPORT).read_text())
                said["build_s"] = time.perf_counter() - start
                said["megabytes"] = sum(p.stat().st_size for p in out.iterdir()) / 1e6
                (RESULTS / f"precision_{precision}_verification.json").write_text(json.dumps(said, indent=1) + "\n")
                subprocess.run([sys.executable, "-m", "fexport", "tune", str(out), "--threads", "2"], check=True)
            into = f"precision_{name}"
            against_pyfeat(into, bundles[precision], Path(folder), rounds, chosen, pyfeat_python, weights)


if __name__ == "__main__":
    main()

"""Measure every workload of the report and keep the raw samples in results/."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import click

from fexport import build
from fexport.bench import runner

RESULTS = Path(__file__).parent / "results"
WORKLOADS = {
    "vga_1_face": {"faces": 1, "networks": True},
    "vga_5_faces": {"faces": 5},
    "hd_1_face_detector_640": {"faces": 1, "size_wh": (1920, 1080), "detector_size": 640},
    "detectorv1_vga_1_face": {"faces": 1, "networks": True, "pipeline": "detectorv1"},
}


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
        for name, given in WORKLOADS.items():
            if only and name not in only:
                continue
            chosen = dict(given)
            pipeline = str(chosen.pop("pipeline", "detectorv2"))
            if pipeline not in bundles:
                bundles[pipeline] = Path(folder) / pipeline
                build.build(build.plan(pipeline, "pyfeat-2.1", weights=weights), bundles[pipeline])
            options = runner.Options(
                bundle=str(bundles[pipeline]),
                threads=2,
                rounds=rounds,
                against=pyfeat_python,
                weights=weights,
                **chosen,
            )
            result = runner.run(options, lambda text, name=name: print(f"{name}: {text}", flush=True))
            (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
            print(f"{name}: {result['ratio']['paired_p50']:.2f} times py-feat", flush=True)


if __name__ == "__main__":
    main()

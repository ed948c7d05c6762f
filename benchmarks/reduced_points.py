"""What fp16 and int8 cost landmarks and mesh of real weights, on faces of pictures that were not calibrated on.

    python benchmarks/reduced_points.py --calibrate FILM --held-out PICTURE --mobilefacenet DIR

Each network is given the same crops in fp32 and lowered (ONNX Runtime; OpenVINO with its own int8 graph), so that what differs is the network alone. Every difference is a
distance of points in the crop; landmarks' NME is its mean over a face by the distance of its outer eye corners. The record,
results/reduced_points.json, has each face; what is beyond its budget is published in the bundle here so that it can be measured, and
the record says so. The packaged photograph is calibrated on too.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

from fexcalibration import chips
from fexport import build, plan
from fexport.bench import measure
from fexport.samples import PHOTOGRAPH
from fexruntime import open_bundle
from fexruntime.arrays import F32
from fexruntime.backends import chosen, open_backend
from fexruntime.backends.base import Place
from fexruntime.contracts.facemesh import EYE_LINE
from fexruntime.contracts.labels import OUTER_EYE_CORNERS
from fexruntime.files import file_sha256

RESULTS = Path(__file__).parent / "results"
FULL = "fp32"
FORMS = {
    FULL: (FULL, "onnxruntime"),
    "fp16": ("fp16", "onnxruntime"),
    "int8": ("int8", "onnxruntime"),
    "int8 in OpenVINO": ("int8", "openvino"),
}
"""(precision, backend) of each."""
ALONE = {"pose": "none", "au": "none", "emotion": "none", "gaze": "none", "identity": "none"}
NETWORKS: dict[str, tuple[str, dict[str, str | None], str, str, tuple[int, int]]] = {
    # network: (pipeline, choices, role, output, the points of the outer eye corners)
    "mobilefacenet": (
        "detectorv1",
        {"faces": "retinaface-mobilenet025", **ALONE},
        "landmarks",
        "landmarks",
        OUTER_EYE_CORNERS,
    ),
    "facemesh": ("facemesh", {}, "mesh", "mesh", EYE_LINE),
}


@click.command()
@click.option("--calibrate", type=click.Path(path_type=Path, exists=True), multiple=True, required=True)
@click.option("--held-out", type=click.Path(path_type=Path, exists=True), multiple=True, required=True)
@click.option("--mobilefacenet", type=click.Path(path_type=Path, exists=True), required=True, help="A folder with it.")
@click.option("--only", type=click.Choice(list(NETWORKS)), multiple=True)
def main(calibrate: tuple[Path, ...], held_out: tuple[Path, ...], mobilefacenet: Path, only: tuple[str, ...]) -> None:
    """Build, measure, write the record, print it."""
    into = RESULTS / "reduced_points.json"
    networks: dict[str, Any] = json.loads(into.read_text(encoding="utf-8"))["networks"] if into.exists() else {}
    for name, (pipeline, choices, role, output, corners) in NETWORKS.items():
        if only and name not in only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            answers: dict[str, list[F32]] = {}
            given: list[chips.Inputs] = []
            names: list[str] = []
            budgets: dict[str, Any] = {}
            for form, (precision, backend_name) in FORMS.items():
                out = Path(folder) / precision
                lowered: dict[str, Any] = {
                    "precision": {role: precision},
                    "calibration": [PHOTOGRAPH, *calibrate],
                    "allow_loss": True,
                }
                weights = [mobilefacenet] if name == "mobilefacenet" else []
                if not out.exists():
                    more = {} if precision == FULL else lowered | {"targets": ["onnxruntime", "openvino"]}
                    build.build(plan.plan(pipeline, choices=choices, weights=weights, **more), out)
                bundle = open_bundle(out)
                network = bundle.networks[role]
                if precision == FULL:
                    seen = chips.sample(bundle, held_out)
                    given = seen.calibration[role] + seen.held_out.get(role, [])
                    names = seen.names[role] + ["held out by the sampler"] * len(seen.held_out.get(role, []))
                    side = network.choice.crop_size
                    sources = [{"file": w.filename, "sha256": w.sha256} for w in network.record.weights]
                place = Place(backend=backend_name, cache=False)
                budgets[form] = {"loss": dict(chosen(network, place)[1].loss)}
                backend = open_backend(network, place)
                (tensor,) = backend.spec.inputs
                answers[form] = [
                    _points(backend.infer({tensor.name: case[0]})[output][0], output, side) for case in given
                ]
                backend.close()
        truth = answers.pop(FULL)
        found = {form: _measured(truth, answer, names, corners) | budgets[form] for form, answer in answers.items()}
        networks[name] = {"crop_px": side, "weights": sources, "faces": len(truth), "precisions": found}
        for p, one in found.items():
            print(
                f"{name} {p}, {len(truth)} faces: points {one['mean_px']:.3f} px of {side} in the mean, {one['largest_px']:.3f} at most; "
                f"largest x, y or z {one['largest_value_px']:.3f}; NME {one['nme_percent']:.3f} %, worst face {one['worst_nme_percent']:.3f} %"
            )
    pictures = {
        kind: [{"name": p.name, "sha256": file_sha256(p)} for p in paths]
        for kind, paths in (("calibrated_on", (PHOTOGRAPH, *calibrate)), ("held_out", held_out))
    }
    said = {"machine": measure.machine(), "pictures": pictures, "networks": networks}
    into.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def _points(value: F32, output: str, side: int) -> F32:
    """Landmarks are fractions of the crop, in pairs; the mesh is in its pixels already."""
    return value.reshape(-1, 2) * np.float32(side) if output == "landmarks" else value


def _measured(truth: list[F32], found: list[F32], names: list[str], corners: tuple[int, int]) -> dict[str, Any]:
    faces, values = [], []
    for name, a, b in zip(names, truth, found, strict=True):
        gap = np.linalg.norm((a - b)[:, :2].astype(np.float64), axis=1)
        eyes = float(np.linalg.norm((a[corners[0]] - a[corners[1]])[:2]))
        values.append(float(np.abs(a - b).max()))
        nme = 100 * float(gap.mean()) / eyes
        faces.append(
            {"face": Path(name).name, "mean_px": float(gap.mean()), "largest_px": float(gap.max()), "nme_percent": nme}
        )
    return {
        "mean_px": float(np.mean([f["mean_px"] for f in faces])),
        "largest_px": max(f["largest_px"] for f in faces),
        "largest_value_px": max(values),
        "nme_percent": float(np.mean([f["nme_percent"] for f in faces])),
        "worst_nme_percent": max(f["nme_percent"] for f in faces),
        "by_face": faces,
    }


if __name__ == "__main__":
    main()

"""TokenHPE: a bundle beside torch on the same face crops, in turns, on one machine; every sample is kept.

    python benchmarks/tokenhpe.py BUNDLE --weights DIR --threads 2 --rounds 20 --out benchmarks/results/tokenhpe.json

Torch runs the same weights in eager mode (`fexport.networks.tokenhpe`, held to the original's answers to 3e-6), its input prepared as
the original does: Pillow's resize, centre crop, normalisation. fexport's side is the crop and the network, with nothing left out.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fexport import modules
from fexport.samples import FACE_XYXY_PX, photograph
from fexruntime import Detector, crop
from fexruntime.contracts import TOKENHPE_CROP, network_row
from fexruntime.versions import installed


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    module = modules.load(network_row("tokenhpe"), TOKENHPE_CROP, [given.weights]).module
    image, box = photograph(), np.array([FACE_XYXY_PX], np.float32)
    left, top, right, bottom = (int(v) for v in crop.locate(box, TOKENHPE_CROP).sample_xyxy_px[0])
    face = Image.fromarray(image).crop((max(left, 0), max(top, 0), min(right, 512), min(bottom, 512)))
    short, long = sorted(face.size)
    new = tuple(250 if side == short else int(250 * long / short) for side in face.size)

    def by_torch() -> np.ndarray:
        resized = face.resize(new, Image.BILINEAR)
        x, y = (round((side - 224) / 2.0) for side in new)
        pixels = np.asarray(resized.crop((x, y, x + 224, y + 224)), np.float32) / np.float32(255)
        with torch.inference_mode():
            return module(torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None])[0].numpy()

    samples: dict[str, list[float]] = {"torch": [], "fexport": []}
    with Detector(given.bundle, threads=given.threads) as detector:

        def by_fexport() -> np.ndarray:
            (result,) = detector.stream(image, boxes=box, columns=["rotation"])
            return result.values["rotation"]

        apart = float(np.abs(by_torch() - by_fexport()).max())
        for _ in range(given.rounds):
            for name, run in (("torch", by_torch), ("fexport", by_fexport)):
                start = time.perf_counter()
                run()
                samples[name].append(1000 * (time.perf_counter() - start))
    medians = {name: float(np.median(values)) for name, values in samples.items()}
    found = {
        "what": "TokenHPE, one face: crop and network, ms of wall time, in turns",
        "cpu": next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if "model name" in line), platform.machine()),
        "threads": given.threads,
        "versions": installed(["torch", "onnxruntime", "numpy", "opencv-python-headless"]),
        "largest_difference_of_R": apart,
        "median_ms": medians,
        "times_faster": medians["torch"] / medians["fexport"],
        "samples_ms": {name: [round(v, 2) for v in values] for name, values in samples.items()},
    }  # fmt: skip
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(
        f"torch {medians['torch']:.1f} ms, fexport {medians['fexport']:.1f} ms: {found['times_faster']:.2f} times; R {apart:.1e} apart"
    )


if __name__ == "__main__":
    main()

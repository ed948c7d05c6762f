"""Videos of every kind, read by py-feat and by this, row by row: results/video_fidelity.json.

python benchmarks/video_fidelity.py --weights DIR --pyfeat-python PYFEAT_ENV/bin/python CLIP

CLIP's first frames are written anew in each container, codec and timing of `FILES` (held out: nothing here was made for them), then both
sides read all of them with the same Detectorv2 weights. Rows are paired in order within a frame, best score first. A cell holds within half a
pixel (coordinates), 1e-2 of itself or of 1 (all others; embeddings: of the row's largest), or being equal (texts).
"""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import av
import click
import cv2
import numpy as np

from fexport import build, plan
from fexport.bench import measure
from fexport.bench.pyfeat import PyFeat
from fexruntime import Detector, record
from fexruntime.versions import installed

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from clips import write

RESULTS = Path(__file__).parent / "results"
PIXELS = re.compile(r"^(FaceRect(X|Y|Width|Height)|[xy]_\d+|mesh_[xy]_\d+)$")
EMBEDDING = re.compile(r"^Identity_\d+$")
TEXTS = ("input", "Identity", "approx_time")
PX, SHARE = 0.5, 1e-2


def files(folder: Path, images: list[Any]) -> dict[str, Path]:
    """The videos, by what each is."""
    odd = [image[:357, :635].copy() for image in images]
    uneven = [20 * n + 7 * (n % 3) + (90 if n > 5 else 0) for n in range(len(images))]
    whole = write(folder / "whole.mov", images, options={"bf": "2", "g": "100"})
    # a copy from between two key frames has an edit list that hides what decoding needs before it
    cut = ["ffmpeg", "-v", "error", "-y", "-ss", "0.12", "-i", str(whole), "-c", "copy", str(folder / "edited.mov")]
    subprocess.run(cut, check=True)
    return {
        "H.264 with B-frames, .mov": write(folder / "b_frames.mov", images, options={"bf": "3", "g": "8"}),
        "MJPEG, full range, .mov": write(folder / "mjpeg.mov", images, codec="mjpeg", pix_fmt="yuvj420p"),
        "H.264, variable frame rate, .mov": write(folder / "variable.mov", images, uneven),
        "H.264, rotation flag, .mov": write(folder / "turned.mov", images, display_rotation=90),
        "H.264, edit list, .mov": folder / "edited.mov",
        "H.264 4:4:4, odd size, .mov": write(folder / "odd.mov", odd, pix_fmt="yuv444p"),
        "ProRes 422, 10 bits, .mov": write(folder / "prores.mov", images, codec="prores_ks", pix_fmt="yuv422p10le"),
        "VP9, .webm": write(folder / "vp9.webm", images, codec="libvpx-vp9", options={"deadline": "realtime"}),
    }


@click.command()
@click.argument("clip", type=click.Path(path_type=Path, exists=True))
@click.option("--weights", type=click.Path(path_type=Path, exists=True), required=True, help="Weights both sides load.")
@click.option("--pyfeat-python", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--bundle", type=click.Path(path_type=Path), help="Detectorv2 of these weights. Default: it is built.")
@click.option("--frames", default=12, show_default=True, help="Of CLIP, every sixth.")
@click.option("--skip-frames", default=3, show_default=True)
@click.option("--threads", default=2, show_default=True)
def main(
    clip: Path, weights: Path, pyfeat_python: Path, bundle: Path | None, frames: int, skip_frames: int, threads: int
) -> None:
    """Make the videos, read them with both, compare, write."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if bundle is None:
            bundle = folder / "bundle"
            build.build(plan.plan("detectorv2", "pyfeat-2.1", weights=[weights]), bundle)
        with av.open(str(clip)) as container:
            images = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)][::6][:frames]
        made = files(folder, images)
        nothing = np.zeros((64, 64, 3), np.uint8)
        with (
            PyFeat(pyfeat_python, "detectorv2", "arcface", weights, threads, None, nothing) as pyfeat,
            Detector(bundle, threads=threads) as detector,
        ):
            cv2.setNumThreads(threads)
            versions = pyfeat.ready["versions"]
            for name, path in made.items():
                theirs, ours = path.with_suffix(".pyfeat.csv"), path.with_suffix(".csv")
                pyfeat.video(path, skip_frames, theirs)
                record(detector, path, ours, skip_frames=skip_frames)
                found[name] = compared(theirs, ours) | {"levels": levels(path, pyfeat_python, skip_frames, folder)}
                print(name, json.dumps(found[name]), flush=True)
    said = {
        "clip": clip.name,
        "skip_frames": skip_frames,
        "machine": measure.machine(),
        "versions": installed(("fexport", "onnxruntime", "numpy", "av", "opencv-python-headless")),
        "pyfeat": versions,
        "bounds": {"coordinates_px": PX, "others_share": SHARE},
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "video_fidelity.json").write_text(json.dumps(said | {"files": found}, indent=1) + "\n", encoding="utf-8")


def levels(path: Path, python: Path, skip_frames: int, folder: Path) -> dict[str, float]:
    """How far this decoder's pixels are from torchcodec's, in levels of 255."""
    from fexruntime.sources.video import Video

    program = (
        "import sys, numpy; from torchcodec.decoders import VideoDecoder; d = VideoDecoder(sys.argv[1]); "
        "numpy.save(sys.argv[3], numpy.stack([d[i].numpy().transpose(1, 2, 0) for i in range(0, len(d), int(sys.argv[2]))]))"
    )
    out = folder / "decoded.npy"
    subprocess.run([str(python), "-c", program, str(path), str(skip_frames), str(out)], check=True)
    theirs = np.load(out).astype(np.int16)
    video = Video(path)
    ours = np.stack([p.rgb_u8 for p in video.frames(range(0, video.timeline.frames, skip_frames))]).astype(np.int16)
    apart = np.abs(ours - theirs)
    return {"mean": float(apart.mean()), "most": int(apart.max()), "share_over_1": float((apart > 1).mean())}


def compared(golden: Path, candidate: Path) -> dict[str, Any]:
    """Rows one to one, and what share of cells holds."""
    (head, *theirs), (own, *ours) = (
        list(csv.reader(p.open(newline="", encoding="utf-8"))) for p in (golden, candidate)
    )
    frame = head.index("frame")
    counts = [Counter(row[frame] for row in rows) for rows in (theirs, ours)]
    said: dict[str, Any] = {
        "rows_pyfeat": len(theirs),
        "rows": len(ours),
        "frames": len(counts[0]),
        "columns_equal": head == own,
        "rows_one_to_one": counts[0] == counts[1],
    }
    if head != own or counts[0] != counts[1]:
        return said
    cells = {"coordinates": [0, 0], "others": [0, 0], "texts": [0, 0]}
    worst_px = worst = 0.0
    embedding = [k for k, name in enumerate(head) if EMBEDDING.match(name)]
    for a, b in zip(theirs, ours, strict=True):
        largest = max([1.0, *(abs(float(a[k])) for k in embedding if a[k])])
        for k, name in enumerate(head):
            if name in TEXTS:
                kind, holds = "texts", Path(a[k]).name == Path(b[k]).name
            elif not a[k] or not b[k]:
                kind, holds = ("coordinates" if PIXELS.match(name) else "others"), a[k] == b[k]
            else:
                apart = abs(float(a[k]) - float(b[k]))
                if PIXELS.match(name):
                    kind, holds, worst_px = "coordinates", apart <= PX, max(worst_px, apart)
                else:
                    apart /= largest if EMBEDDING.match(name) else max(1.0, abs(float(a[k])))
                    kind, holds, worst = "others", apart <= SHARE, max(worst, apart)
            cells[kind][0] += holds
            cells[kind][1] += 1
    said["share_within"] = {kind: good / total for kind, (good, total) in cells.items() if total}
    return said | {"worst_px": worst_px, "worst_share": worst}


if __name__ == "__main__":
    main()

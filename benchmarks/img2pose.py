"""img2pose and MobileFaceNet beside py-feat's, one frame at a time, in turns.

    python benchmarks/img2pose.py BUNDLE PYFEAT_PYTHON --weights DIR [--weights DIR …] --frame PICTURE --name vga

BUNDLE: `fexport build --pipeline detectorv1 --face-detector img2pose --identity none` of the same weights. Each side is a
process of its own that has loaded its models; a frame to warm up goes before each measured one. py-feat projects the box of
every proposal that scores above 0.05, in a Python loop: the number is kept beside the samples, since stand-in weights decide it.
Keeps every sample in results/img2pose_NAME.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from fexport.bench import measure

ROOT = Path(__file__).parents[1]
PAUSE_S = 0.3
OURS = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import numpy as np
from fexruntime import Detector
bundle, frame, threads, _ = sys.argv[1:5]
detector = Detector(bundle, threads=int(threads))
frame = np.load(frame)
def once():
    return len(detector.detect(frame))
"""
THEIRS = """
import json, os, pathlib, sys, time, warnings
warnings.simplefilter("ignore")
channel = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # what py-feat prints must not mix with the answers
import xgboost  # before torch, as py-feat wants it
import huggingface_hub, numpy, torch
folders, frame, threads, _ = sys.argv[1:5]
torch.set_num_threads(int(threads))
def local(repo_id=None, filename="", **_):
    for folder in map(pathlib.Path, json.loads(folders)):
        for path in (folder / repo_id.rsplit("/", 1)[-1] / filename, folder / filename):
            if path.exists():
                return str(path)
    raise FileNotFoundError(filename)
huggingface_hub.hf_hub_download = local
import feat.detector, feat.utils
feat.utils.hf_hub_download_with_fallback = feat.detector.hf_hub_download_with_fallback = feat.detector.hf_hub_download = local
from feat.facepose_detectors.img2pose.deps import models
projected = []
original = models.transform_pose_global_project_bbox
def counted(boxes, *a, **k):
    projected.append(len(boxes))
    return original(boxes, *a, **k)
models.transform_pose_global_project_bbox = counted
detector = feat.detector.Detectorv1(
    device="cpu", face_model="img2pose", au_model=None, emotion_model=None, gaze_model=None, identity_model=None)
frame = torch.from_numpy(numpy.load(frame).transpose(2, 0, 1)[None].copy())
def once():
    fex = detector.detect(frame, data_type="tensor", batch_size=1, progress_bar=False)
    return [int(fex.FaceRectX.notna().sum()), projected[-1]]
sys.stdout = channel
"""
LOOP = """
for _ in range(2): said = once()
print(json.dumps(said), flush=True)
for line in sys.stdin:
    once()
    start, cpu = time.perf_counter(), time.process_time()
    once()
    wall = (time.perf_counter() - start) * 1e3, (time.process_time() - cpu) * 1e3
    with open("/proc/self/statm") as file:
        print(json.dumps([*wall, int(file.read().split()[1]) * 4096 / 1e6]), flush=True)
"""


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.argument("pyfeat", type=click.Path(path_type=Path, exists=True))
@click.option("--weights", type=click.Path(path_type=Path, exists=True), multiple=True, required=True)
@click.option("--frame", "picture", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--name", required=True)
@click.option("--rounds", default=15, show_default=True)
@click.option("--threads", default=2, show_default=True)
def main(
    bundle: Path, pyfeat: Path, weights: tuple[Path, ...], picture: Path, name: str, rounds: int, threads: int
) -> None:
    """Measure, keep the samples, print the ratio."""
    from fexruntime.sources.images import read_image

    frame = read_image(picture)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.npy"
        np.save(path, frame)
        folders = json.dumps([str(w.resolve()) for w in weights])
        workers = {
            "fexport": _start([sys.executable, "-c", OURS + LOOP, str(bundle), str(path), str(threads), ""]),
            "py-feat": _start([str(pyfeat), "-c", THEIRS + LOOP, folders, str(path), str(threads), ""]),
        }
        faces, (also, projected) = (_answer(worker) for worker in workers.values())
        samples: dict[str, list[list[float]]] = {side: [] for side in workers}
        for k in range(rounds):
            for side in sorted(workers, reverse=bool(k % 2)):
                time.sleep(PAUSE_S)
                samples[side].append(_ask(workers[side]))
        for worker in workers.values():
            assert worker.stdin is not None
            worker.stdin.close()
            worker.wait()
    wall = {side: np.array(rows)[:, 0] for side, rows in samples.items()}
    result = {
        "machine": measure.machine(),
        "threads": threads,
        "work": f"one detect of {frame.shape[1]} x {frame.shape[0]}: img2pose, MobileFaceNet",
        "faces": {"fexport": faces, "py-feat": also},
        "proposals_that_pyfeat_projects": projected,
        "wall_ms_cpu_ms_rss_mb": samples,
        "p50_ms": {side: float(np.median(v)) for side, v in wall.items()},
        "rss_mb": {side: rows[-1][2] for side, rows in samples.items()},
        "pyfeat_over_fexport": float(np.median(wall["py-feat"] / wall["fexport"])),
    }
    target = ROOT / "benchmarks" / "results" / f"img2pose_{name}.json"
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    shown = ("faces", "proposals_that_pyfeat_projects", "p50_ms", "rss_mb", "pyfeat_over_fexport")
    print(json.dumps({k: result[k] for k in shown}, indent=1))


def _start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8"
    )


def _answer(worker: subprocess.Popen[str]) -> list[float]:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        sys.exit(f"{worker.args[0]} stopped")  # type: ignore[index]
    answer: list[float] = json.loads(line)
    return answer


def _ask(worker: subprocess.Popen[str]) -> list[float]:
    assert worker.stdin is not None
    worker.stdin.write("\n")
    worker.stdin.flush()
    return _answer(worker)


if __name__ == "__main__":
    main()

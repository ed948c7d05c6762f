"""FaceMesh beside mediapipe's own, equal work on both sides and in turns: time of a frame, import and load, memory, pixels.

    python benchmarks/facemesh.py PICTURE VIDEO --mediapipe PYTHON [--plain BUNDLE] [--rounds N]

PYTHON is an interpreter of an environment that has mediapipe 0.10.21 (numpy < 2). Each side runs in a process of its own, one after
another in every round, on the same pixels: the picture at 640 x 480 for static images, the video's first frames for use_prev_landmarks
(static_image_mode=False). At most one face, the mesh alone (no head pose, which mediapipe does not fit there either), one thread a
network on both sides (mediapipe's graph has threads of its own beside). Import and load: the median of fresh processes. Memory: what
is resident, less the frames, which are held here whole. Writes results/facemesh.json and the table in docs/facemesh.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fexport import build, plan
from fexruntime.sources.images import read_image

ROOT = Path(__file__).parents[1]
RESULTS, DOC = ROOT / "benchmarks" / "results" / "facemesh.json", ROOT / "docs" / "facemesh.md"
MARKS = "<!-- benchmarks/facemesh.py -->\n", "<!-- end -->\n"
SIDES = {
    # name: (what it is held to, bundle or None for mediapipe, refined, video, mediapipe_presence)
    "fexport, static, plain": ("mediapipe, static, plain", "plain", False, False, False),
    "fexport, static, refined (mediapipe_presence)": ("mediapipe, static, refined", "facemesh", True, False, True),
    "fexport, static, refined (default: both networks, more work)": (
        "mediapipe, static, refined", "facemesh", True, False, False,
    ),
    "fexport, video, plain": ("mediapipe, video, plain", "plain", False, True, False),
    "fexport, video, refined (mediapipe_presence)": ("mediapipe, video, refined", "facemesh", True, True, True),
    "mediapipe, static, plain": (None, None, False, False, False),
    "mediapipe, static, refined": (None, None, True, False, False),
    "mediapipe, video, plain": (None, None, False, True, False),
    "mediapipe, video, refined": (None, None, True, True, False),
}  # fmt: skip
OURS = """
import json, sys, time
given = json.loads(sys.argv[1])
start = time.perf_counter()
from fexruntime import Detector
detector = Detector(given["bundle"], threads=1)
loaded = time.perf_counter() - start
import itertools, numpy as np
frames = np.load(given["frames"])
def results(images):
    return detector.stream(
        images, max_faces=1, use_prev_landmarks=given["video"], mediapipe_presence=given["presence"], columns=["mesh"])
def meshes():
    points = 478 if given["refined"] else 468
    return [r.mesh_xyz_px[:, :points] for r in results(iter(frames))]
endless = results(itertools.cycle(frames))
def step():
    return len(next(endless))
"""
THEIRS = """
import json, sys, time
given = json.loads(sys.argv[1])
start = time.perf_counter()
import mediapipe as mp
def opened():
    return mp.solutions.face_mesh.FaceMesh(
        static_image_mode=not given["video"], max_num_faces=1, refine_landmarks=given["refined"])
mesh = opened()
loaded = time.perf_counter() - start
import itertools, numpy as np
frames = np.load(given["frames"])
def meshes():
    mesh, found = opened(), []
    for frame in frames:
        height, width = frame.shape[:2]
        faces = mesh.process(frame).multi_face_landmarks or []
        found.append(np.array([[(p.x * width, p.y * height, p.z * width) for p in f.landmark] for f in faces], np.float32))
    return found
endless = itertools.cycle(frames)
def step():
    return len(mesh.process(next(endless)).multi_face_landmarks or [])
"""
LOOP = """
for _ in range(20): found = step()
for line in sys.stdin:
    if line.strip() == "meshes":
        np.savez(given["meshes"], *meshes())
        print("{}", flush=True)
        continue
    times = []
    for _ in range(60):
        t = time.perf_counter(); found = step(); times.append((time.perf_counter() - t) * 1e3)
    rss = (int(open("/proc/self/statm").read().split()[1]) * 4096 - frames.nbytes) / 1e6
    print(json.dumps({"ms": [round(x, 3) for x in times], "found": found, "loaded_s": loaded, "rss_mb": rss}), flush=True)
"""


def main() -> None:
    """Measure, write the samples and the table, print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("video", type=Path)
    parser.add_argument("--mediapipe", required=True, metavar="PYTHON")
    parser.add_argument("--plain", type=Path, help="a bundle without refinement; without this one is built")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loads", type=int, default=3, help="fresh processes a side, for import and load")
    parser.add_argument("--frames", type=int, default=60, help="of the video")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        record = measured(given, Path(folder))
    RESULTS.write_text(json.dumps(record) + "\n", encoding="utf-8")
    words = table(record)
    before, _, rest = DOC.read_text(encoding="utf-8").partition(MARKS[0])
    DOC.write_text(before + MARKS[0] + words + MARKS[1] + rest.partition(MARKS[1])[2], encoding="utf-8")
    print(words)


def measured(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The record of a run: where and when, samples by side and round, differences in pixels by video side and frame."""
    if given.plain is None:
        build.build(plan.plan("facemesh"), folder / "plain")
    np.save(folder / "static.npy", cv2.resize(read_image(given.picture), (640, 480))[None])
    np.save(folder / "video.npy", frames_of(given.video, given.frames))
    running, launch = {}, {}
    for number, (name, (_, bundle, refined, video, presence)) in enumerate(SIDES.items()):
        said = {
            "bundle": str(given.plain or folder / "plain") if bundle == "plain" else bundle, "refined": refined, "video": video,
            "presence": presence, "frames": str(folder / ("video.npy" if video else "static.npy")),
            "meshes": str(folder / f"{number}.npz"),
        }  # fmt: skip
        python, program = (given.mediapipe, THEIRS) if bundle is None else (sys.executable, OURS)
        launch[name] = python, program, said
        running[name] = subprocess.Popen(
            [python, "-c", program + LOOP, json.dumps(said)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8",
        )  # fmt: skip
        asked(running[name], "warm")  # loaded one at a time
    samples: dict[str, list[Any]] = {name: [] for name in SIDES}
    for _ in range(given.rounds):
        for name, process in running.items():
            samples[name].append(asked(process, "go"))
    differences = {}
    for number, (name, (held_to, _, _, video, _)) in enumerate(SIDES.items()):
        if held_to is not None and video:
            other = list(SIDES).index(held_to)
            for of, at in ((name, number), (held_to, other)):
                if not (folder / f"{at}.npz").exists():
                    asked(running[of], "meshes")
            ours, theirs = (np.load(folder / f"{at}.npz") for at in (number, other))
            differences[name] = [
                float(np.abs(ours[k] - theirs[k]).max()) if ours[k].shape == theirs[k].shape and len(ours[k]) else None
                for k in ours.files
            ]
    for process in running.values():
        process.communicate()
    loads = {name: [once(*launch[name]) for _ in range(given.loads)] for name in SIDES}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, encoding="utf-8")
    return {
        "cpu": cpu(), "cores": os.cpu_count(), "date": datetime.date.today().isoformat(), "commit": commit.stdout.strip(),
        "samples": samples, "loads_s": loads, "video_px": differences,
    }  # fmt: skip


def once(python: str, program: str, said: dict[str, Any]) -> float:
    """Seconds of import and load in a fresh process."""
    alone = program + "print(loaded)"
    done = subprocess.run(
        [python, "-c", alone, json.dumps(said)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        check=True,
    )
    return float(done.stdout.split()[-1])


def asked(process: subprocess.Popen[str], word: str) -> Any:
    """What a side answers to a line."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(word + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def frames_of(video: Path, most: int) -> Any:
    """The first frames [N,H,W,3], RGB, of a video."""
    capture, frames = cv2.VideoCapture(str(video)), []
    while len(frames) < most:
        there, frame = capture.read()
        if not there:
            break
        frames.append(np.ascontiguousarray(frame[:, :, ::-1]))
    return np.stack(frames)


def cpu() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def table(record: dict[str, Any]) -> str:
    """The record as Markdown: medians, and how many times as fast as mediapipe at the same work."""
    median = {n: statistics.median(ms for r in rounds for ms in r["ms"]) for n, rounds in record["samples"].items()}
    lines = [
        f"{record['cpu']}, {record['cores']} cores, {record['date']}, commit {record['commit']}, by `benchmarks/facemesh.py`; medians of "
        f"{sum(len(r['ms']) for r in next(iter(record['samples'].values())))} frames, sides in turns, one face at most, the mesh alone, one thread a network.\n",
        "| | ms a frame | frames/s | × mediapipe | import and load, s | resident less the frames, MB |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, rounds in record["samples"].items():
        held_to, last = SIDES[name][0], rounds[-1]
        ratio = "" if held_to is None else f"{median[held_to] / median[name]:.2f}"
        lines.append(
            f"| {name} | {median[name]:.2f} | {1000 / median[name]:.0f} | {ratio} | {statistics.median(record['loads_s'][name]):.2f} | {last['rss_mb']:.0f} |"
        )
    lines.append("")
    for name, gaps in record["video_px"].items():
        known = [g for g in gaps if g is not None]
        of = f"{max(known):.3f} largest, {statistics.median(known):.3f} median" if known else "none to compare"
        lines.append(
            f"{name}: largest difference of a frame's x, y, z·W from mediapipe in {len(known)} of {len(gaps)} frames: {of} (px)."
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

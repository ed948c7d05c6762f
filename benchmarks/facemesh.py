"""FaceMesh beside mediapipe's own, in turns: frames a second of one face at VGA, import and load, memory.

    python benchmarks/facemesh.py PICTURE --mediapipe PYTHON [--json OUT] [--rounds N]

PYTHON is an interpreter of an environment that has mediapipe 0.10.21 (numpy < 2). Each side runs in a process of its own and both
take turns; frames are the picture at 640 x 480. Static images on both sides: every frame is searched for faces.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

OURS = """
import sys, time
start = time.perf_counter()
from fexruntime import Detector
from fexruntime.sources.frame import Frame
from fexruntime.options import Options
detector = Detector("facemesh", threads=2, shared_pool=True)
loaded = time.perf_counter() - start
import cv2
cv2.setNumThreads(2)
image = cv2.resize(cv2.imread(sys.argv[1])[:, :, ::-1].copy(), (640, 480))
columns = tuple(sys.argv[2].split(",")) if len(sys.argv) > 2 and sys.argv[2] else None
def step():
    return len(detector.run([Frame(image, 0, "frame")], Options(columns=columns, max_faces=1))[0])
"""
PLAIN = OURS.replace('Detector("facemesh"', "Detector(sys.argv[3]")
THEIRS = """
import sys, time
start = time.perf_counter()
import mediapipe as mp
mesh = mp.solutions.face_mesh.FaceMesh(static_image_mode=True, max_num_faces=1, refine_landmarks=REFINE)
loaded = time.perf_counter() - start
import cv2
image = cv2.resize(cv2.imread(sys.argv[1])[:, :, ::-1].copy(), (640, 480))
def step():
    return len(mesh.process(image).multi_face_landmarks or [])
"""
LOOP = """
import json, resource
for _ in range(20): found = step()
for line in sys.stdin:
    times = []
    for _ in range(100):
        t = time.perf_counter(); found = step(); times.append(time.perf_counter() - t)
    rss = int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6
    print(json.dumps({"ms": [x * 1e3 for x in times], "found": found, "loaded_s": loaded, "rss_mb": rss}), flush=True)
"""


def main() -> None:
    """Measure, print, and write the samples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--mediapipe", required=True)
    parser.add_argument("--plain", help="a bundle without refinement, to be held to mediapipe's plain mesh")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    sides = {
        "fexport refined": [sys.executable, "-c", OURS + LOOP, str(given.picture)],
        "mediapipe refined": [given.mediapipe, "-c", THEIRS.replace("REFINE", "True") + LOOP, str(given.picture)],
        "mediapipe plain": [given.mediapipe, "-c", THEIRS.replace("REFINE", "False") + LOOP, str(given.picture)],
    }
    if given.plain:
        sides["fexport plain"] = [sys.executable, "-c", PLAIN + LOOP, str(given.picture), "", given.plain]
    running = {
        name: subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for name, command in sides.items()
    }
    samples: dict[str, list[dict[str, object]]] = {name: [] for name in sides}
    for _ in range(given.rounds):
        for name, process in running.items():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            samples[name].append(json.loads(process.stdout.readline()))
    for process in running.values():
        process.communicate()
    for name, rounds in samples.items():
        each = [ms for r in rounds for ms in r["ms"]]  # type: ignore[attr-defined]
        median, last = statistics.median(each), rounds[-1]
        print(
            f"{name:18} {median:6.2f} ms, {1000 / median:5.1f} frames/s, faces {last['found']}, "
            f"import and load {last['loaded_s']:.2f} s, resident {last['rss_mb']:.0f} MB"
        )
    if given.json is not None:
        given.json.write_text(json.dumps(samples) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

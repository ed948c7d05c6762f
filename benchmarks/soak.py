"""Soak: a detector on many mixed frames; does memory, thread count, latency or an answer drift?

    python benchmarks/soak.py --bundle BUNDLE --frames 10000 --out benchmarks/results/soak

Frames are made up from the packaged photograph, the same on every run: sizes from 160 x 120 to 1280 x 720, 0 to 20 faces (tiles), and one
in 25 is an input that cannot be read. A probe of fixed frames is answered at the start and at the end of each piece: its digest must
stay the same. Latency is CPU time of the process (all its threads): other work beside it, or a pause, does not count. `--piece N` stops after N frames and continues where the last piece ended, in a new process, so a long soak may be run in
pieces; memory is judged within each piece.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import psutil

from fexport.bench import measure
from fexruntime import Detector
from fexruntime.errors import InputError
from fexruntime.sources.images import read_image

PHOTO = Path(__file__).parent.parent / "export" / "fexport" / "photographs" / "astronaut.jpg"
SIZES_WH = ((160, 120), (320, 240), (640, 480), (480, 640), (1280, 720))
BAD_EVERY = 25
SETTLING = 0.2
"""This share of a piece is left out of the slopes: arenas and buffers find their size."""


def frame(number: int, photo: np.ndarray) -> np.ndarray | bytes:
    """Frame of a running number: uint8 RGB [H,W,3], or what cannot be read."""
    rng = np.random.RandomState(number)
    if number % BAD_EVERY == BAD_EVERY - 1:
        return (b"", b"\xff\xd8\xff", b"noise" * 100, PHOTO.read_bytes()[:5000])[rng.randint(4)]
    width, height = SIZES_WH[rng.randint(len(SIZES_WH))]
    faces = int(rng.randint(0, 21))
    image = np.full((height, width, 3), rng.randint(0, 256, 3), np.uint8)
    columns = int(np.ceil(np.sqrt(faces * width / height))) if faces else 0
    side = width // columns if columns else 0
    for k in range(faces):
        y, x = side * (k // columns), side * (k % columns)
        tile = cv2.resize(photo, (side, side), interpolation=cv2.INTER_AREA)[: max(0, height - y), : width - x]
        image[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return image


def digest(detector: Detector, photo: np.ndarray) -> str:
    """Of the rows of frames that are always the same."""
    found = hashlib.sha256()
    for number in (0, 1, 2, 3):
        found.update(detector.detect(frame(number, photo)).values.tobytes())
    return found.hexdigest()


def slope(at: list[float], values: list[float]) -> float:
    """Least squares, per 1000 frames."""
    return float(np.polyfit(np.array(at) / 1000, values, 1)[0]) if len(at) > 2 else 0.0


def piece(bundle: str | None, first: int, count: int, threads: int) -> dict[str, object]:
    """Run frames `first` … `first + count - 1` on a new detector."""
    process, photo = psutil.Process(), read_image(PHOTO)
    with Detector(bundle, threads=threads) as detector:
        before = digest(detector, photo)
        # the largest first, so that what is measured is drift and not the first large frame
        detector.detect(np.tile(photo, (2, 3, 1))[:720, :1280])
        at, rss, alive, per_pixel, faces, errors = [], [], [], [], 0, 0
        for number in range(first, first + count):
            image = frame(number, photo)
            start = time.process_time()
            try:
                fex = detector.detect(image)
            except InputError:
                errors += 1
                continue
            seconds = time.process_time() - start
            faces += int((fex["FaceScore"] > 0).sum())
            at.append(float(number - first))
            rss.append(process.memory_info().rss / 1e6)
            alive.append(process.num_threads())
            per_pixel.append(1e9 * seconds / (image.shape[0] * image.shape[1]))
        after = digest(detector, photo)
        versions = {role: said["version"] for role, said in detector.describe().items()}
    kept = int(SETTLING * len(at))
    half = (kept + len(at)) // 2
    return {
        "first": first,
        "frames": count,
        "errors": errors,
        "faces": faces,
        "rss_mb": [round(rss[kept], 1), round(rss[-1], 1), round(max(rss), 1)],
        "rss_slope_mb_per_1000": round(slope(at[kept:], rss[kept:]), 2),
        "threads": [min(alive), max(alive)],
        "thread_slope_per_1000": round(slope(at[kept:], [float(n) for n in alive[kept:]]), 3),
        "cpu_ns_per_pixel_median_first_and_second_half": [
            round(float(np.median(per_pixel[kept:half])), 1), round(float(np.median(per_pixel[half:])), 1)
        ],
        "digest_start": before,
        "digest_end": after,
        "same": before == after,
        "threads_of_python_left": threading.active_count(),
        "versions": versions,
    }  # fmt: skip


def main() -> None:
    """Run the next piece, and write what there is so far."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--bundle", help="default: the packaged face detector")
    words.add_argument("--frames", type=int, default=10_000)
    words.add_argument("--piece", type=int, help="stop after so many; the next call goes on")
    words.add_argument("--threads", type=int, default=1)
    words.add_argument("--out", type=Path, default=Path("soak"))
    chosen = words.parse_args()
    path = chosen.out / f"{Path(chosen.bundle or 'edge').name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    pieces = json.loads(path.read_text(encoding="utf-8"))["pieces"] if path.exists() else []
    done = sum(p["frames"] for p in pieces)
    count = min(chosen.piece or chosen.frames, chosen.frames - done)
    if count > 0:
        pieces.append(piece(chosen.bundle, done, count, chosen.threads))
    said = {
        "command": f"python benchmarks/soak.py --bundle {Path(chosen.bundle or 'edge').name} --frames {chosen.frames}",
        "machine": measure.machine(),
        "python": platform.python_version(),
        "frames": sum(p["frames"] for p in pieces),
        "errors": sum(p["errors"] for p in pieces),
        "same_digest_throughout": len({p[k] for p in pieces for k in ("digest_start", "digest_end")}) == 1,
        "pieces": pieces,
    }
    path.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({k: v for k, v in said.items() if k != "pieces"} | {"last": pieces[-1]}, indent=1))


if __name__ == "__main__":
    main()

"""Ways to follow a face between detections, beside detecting it in every frame: results/video_following.json.

    python benchmarks/video_following.py BUNDLE CLIP...

BUNDLE is a Detectorv1 bundle with landmarks of real weights. Beside the CLIPs a film is made of the packaged photograph: it pans, zooms and rolls.
Each way is told where the face was found in every Nth frame, and says where it is in those between:

- still: it stays where it was found
- velocity: it moves and grows on as between the last two detections
- flow: corners in the box followed there and back (Lucas-Kanade), the median of shift and scale: what `fexruntime.track` does
- template: the best of three sizes of what the box held at the detection (normalised correlation), around where it was last
- landmarks: the box moves as the face's landmarks did that were read in the frame before (as FaceMesh's tracking does it)

Recorded are all distances of corners in pixels, by way, N and clip; and each way's CPU time a frame, on one thread.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np

from fexport.bench import measure
from fexport.samples import photograph
from fexruntime import Detector, track
from fexruntime.sources.frame import Frame
from fexruntime.sources.inputs import Frames

RESULTS = Path(__file__).parent / "results"
EVERY = (2, 5, 10)
Box = Any
"""[4] float32: x1, y1, x2, y2."""


class Still:
    """Where it was found."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.box: Box = None

    def found(self, frame: Frame, box: Box) -> None:
        """It was found here."""
        self.box = box

    def next(self, frame: Frame) -> Box | None:
        """Where it is in the next frame; None where it is lost."""
        return self.box


class Velocity(Still):
    """On as before."""

    def __init__(self, detector: Detector) -> None:
        super().__init__(detector)
        self.before: Box = None
        self.apart = self.since = 0

    def found(self, frame: Frame, box: Box) -> None:
        """It was found here."""
        self.before, self.apart, self.since, self.box = self.box, self.since, 0, box

    def next(self, frame: Frame) -> Box | None:
        """Where it is in the next frame."""
        self.since += 1
        if self.before is None:
            return self.box
        return self.box + (self.box - self.before) * (self.since / max(self.apart, 1))


class Flow(Still):
    """fexruntime's own."""

    def found(self, frame: Frame, box: Box) -> None:
        """It was found here."""
        self.box, self.view = box, track._view(frame.rgb_u8)

    def next(self, frame: Frame) -> Box | None:
        """Where it is in the next frame."""
        view = track._view(frame.rgb_u8)
        moved = track._moved({"boxes_xyxy_px": self.box[None]}, self.view, view)
        self.view = view
        if moved is None:
            return None
        self.box = moved["boxes_xyxy_px"][0]
        return self.box


class Template(Still):
    """What the box held."""

    def found(self, frame: Frame, box: Box) -> None:
        """It was found here."""
        view = track._view(frame.rgb_u8)
        x1, y1, x2, y2 = (box / view.factor).round().astype(int)
        self.held = view.grey[max(y1, 0) : y2, max(x1, 0) : x2]
        self.box, self.scale, self.from_box = box, 1.0, box

    def next(self, frame: Frame) -> Box | None:
        """Where it is in the next frame."""
        view = track._view(frame.rgb_u8)
        centre = (self.box[:2] + self.box[2:]) / 2 / view.factor
        best: tuple[float, Any, float] = (-1.0, centre, self.scale)
        for scale in (self.scale * 0.97, self.scale, self.scale * 1.03):
            held = cv2.resize(self.held, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            half = np.array([held.shape[1], held.shape[0]]) / 2
            first = np.maximum((centre - half * 1.4).astype(int), 0)
            area = view.grey[first[1] : int(centre[1] + half[1] * 1.4), first[0] : int(centre[0] + half[0] * 1.4)]
            if area.shape[0] < held.shape[0] or area.shape[1] < held.shape[1]:
                continue
            _, likeness, _, at = cv2.minMaxLoc(cv2.matchTemplate(area, held, cv2.TM_CCOEFF_NORMED))
            if likeness > best[0]:
                best = (likeness, first + np.array(at) + half, scale)
        if best[0] < 0.5:
            return None
        size = (self.from_box[2:] - self.from_box[:2]) * best[2] / 2
        self.scale = best[2]
        self.box = np.concatenate([best[1] * view.factor - size, best[1] * view.factor + size]).astype(np.float32)
        return self.box


class Landmarks(Still):
    """As its landmarks moved, read with the box of the frame before."""

    def found(self, frame: Frame, box: Box) -> None:
        """It was found here."""
        self.box, self.from_box = box, box
        self.points = self._read(frame)

    def next(self, frame: Frame) -> Box | None:
        """Where it is in the next frame."""
        box = self.box
        moved, _ = cv2.estimateAffinePartial2D(self.points, self._read(frame))
        scale = float(np.hypot(moved[0, 0], moved[1, 0]))
        centre = moved @ np.array([*(self.from_box[:2] + self.from_box[2:]) / 2, 1.0])
        size = (self.from_box[2:] - self.from_box[:2]) * scale / 2
        self.box = np.concatenate([centre - size, centre + size]).astype(np.float32)
        return box

    def _read(self, frame: Frame) -> Any:
        (result,) = self.detector.run([frame], boxes=[self.box[None]])
        return result.landmarks_xy_px[0].astype(np.float32)


WAYS: dict[str, Callable[[Detector], Still]] = {
    "still": Still, "velocity": Velocity, "flow": Flow, "template": Template, "landmarks": Landmarks,
}  # fmt: skip


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.argument("clips", nargs=-1, type=click.Path(path_type=Path, exists=True))
def main(bundle: Path, clips: tuple[Path, ...]) -> None:
    """Measure, write the record, print it."""
    cv2.setNumThreads(1)
    cv2.setRNGSeed(0)
    films = {clip.name: list(Frames(str(clip), ahead=False)) for clip in clips}
    films["a photograph that pans, zooms and rolls"] = moved_photograph()
    record: dict[str, Any] = {"machine": measure.machine(), "clips": {}}
    with Detector(bundle, threads=1) as detector:
        for name, frames in films.items():
            found = [r.boxes_xyxy_px[0] if len(r) else None for f in frames for r in detector.run([f])]
            widths = [float(b[2] - b[0]) for b in found if b is not None]
            ways: dict[str, Any] = {}
            for every in EVERY:
                for way, make in WAYS.items():
                    ways.setdefault(way, {})[every] = followed(make(detector), frames, found, every)
            record["clips"][name] = {
                "frames": len(frames), "size_hw": frames[0].rgb_u8.shape[:2], "face_width_px": float(np.median(widths)), "ways": ways,
            }  # fmt: skip
    (RESULTS / "video_following.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    for name, said in record["clips"].items():
        print(f"{name}: {said['frames']} frames, face {said['face_width_px']:.0f} px")
        for way, runs in said["ways"].items():
            print(f"  {way:10}", *(summary(every, run) for every, run in runs.items()), sep="  ")


def followed(way: Still, frames: list[Frame], found: list[Box], every: int) -> dict[str, Any]:
    """What a way says in frames without a detection: corner distances of each, and CPU seconds a frame."""
    corners: list[list[float]] = []
    lost, taken, since = 0, 0.0, every
    for frame, box in zip(frames, found, strict=True):
        start = time.process_time()
        said = way.next(frame) if since < every and way.box is not None else None
        taken += time.process_time() - start
        if box is None:
            since, way.box = every, None
            continue
        if said is not None:
            corners.append([round(float(v), 2) for v in np.abs(said - box)])
            since += 1
            continue
        lost += since < every
        way.found(frame, box)
        since = 1
    return {"corner_px": corners, "lost": lost, "cpu_s_a_frame": taken / max(len(corners), 1)}


def summary(every: int, run: dict[str, Any]) -> str:
    """One cell of the table."""
    px = np.array(run["corner_px"])
    return (
        f"every {every}: {px.mean():5.2f} px (95 % {np.percentile(px, 95):5.2f}, most {px.max():5.1f}), lost {run['lost']}, "
        f"{1e3 * run['cpu_s_a_frame']:4.1f} ms"
    )


def moved_photograph(frames: int = 120, size: tuple[int, int] = (640, 360)) -> list[Frame]:
    """The packaged photograph's face, panned 90 px to and fro, zoomed by a third and rolled by 8 degrees."""
    picture = photograph()
    height, width = picture.shape[:2]
    made = []
    for n in range(frames):
        phase = 2 * np.pi * n / frames
        matrix = cv2.getRotationMatrix2D(
            (width * 0.44, height * 0.25), 8 * np.sin(3 * phase), 0.9 + 0.3 * np.sin(2 * phase)
        )
        matrix[:, 2] += np.array(size) / 2 - np.array([width * 0.44, height * 0.25])
        matrix[:, 2] += np.array([90 * np.sin(3 * phase), 40 * np.cos(4 * phase)])
        view = cv2.warpAffine(picture, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        made.append(Frame(np.ascontiguousarray(view), n, "photograph"))
    return made


if __name__ == "__main__":
    main()

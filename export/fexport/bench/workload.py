"""What is run: a frame of a given size, with a given number of faces on it.

The photograph is repeated to fill the frame. Where the number of faces is given, the detector runs as always, and what it found is
replaced by that many boxes: the work is that of N faces on every machine and with any weights. py-feat is given
the same boxes in the same way.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fexport.samples import photograph
from fexruntime import Detector
from fexruntime import detect as detection
from fexruntime.errors import InputError
from fexruntime.frames import Frame, read_image
from fexruntime.results import FrameResult

Boxes = list[list[float]]


def frame_of(path: Path | None, size_wh: tuple[int, int] | None) -> NDArray[np.uint8]:
    """The frame to run on, [H,W,3] uint8 RGB: a picture, or the packaged photograph repeated to `size_wh`."""
    image = photograph() if path is None else read_image(path)
    if size_wh is None:
        return image
    width, height = size_wh
    rows, columns = -(-height // image.shape[0]), -(-width // image.shape[1])
    return np.ascontiguousarray(np.tile(image, (rows, columns, 1))[:height, :width])


def boxes_for(faces: int, height: int, width: int) -> Boxes:
    """`faces` boxes in a grid over the frame, each as a face of a group photograph would be."""
    if not 1 <= faces <= 64:
        raise InputError(f"--faces must lie in 1..64, not {faces}")
    columns = int(np.ceil(np.sqrt(faces * width / height)))
    rows = int(np.ceil(faces / columns))
    across, down = width / columns, height / rows
    side = 0.55 * min(across, down)
    places = [((i % columns + 0.5) * across, (i // columns + 0.5) * down) for i in range(faces)]
    return [[x - 0.4 * side, y - 0.5 * side, x + 0.4 * side, y + 0.5 * side] for x, y in places]


class TimedDetector(Detector):
    """A detector that can be told its faces, and that notes what each stage takes (seconds, by name)."""

    def __init__(self, *arguments: Any, boxes: Boxes | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.boxes = boxes
        self.stages: dict[str, float] = {}
        for role, network in self._networks.items():
            self._time_network(role, network)

    def _note(self, stage: str, seconds: float) -> None:
        self.stages[stage] = self.stages.get(stage, 0.0) + seconds

    def _time_network(self, role: str, network: Any) -> None:
        infer = network.infer

        def timed(*arguments: Any) -> Any:
            start = time.perf_counter()
            answer = infer(*arguments)
            self._note(f"{role} network", time.perf_counter() - start)
            return answer

        network.infer = timed

    def _find(self, frames: Sequence[Frame], threshold: float, detector_size: int | None) -> list[detection.Detections]:
        start, before = time.perf_counter(), self.stages.get("faces network", 0.0)
        found = super()._find(frames, threshold, detector_size)
        if self.boxes is not None:
            found = [detection.given(np.array(self.boxes, np.float32)) for _ in frames]
        self._note("finding", time.perf_counter() - start - (self.stages["faces network"] - before))
        return found

    def _read_faces(self, frames: Sequence[Frame], found: Sequence[detection.Detections]) -> list[FrameResult]:
        start, before = time.perf_counter(), self._networks_so_far()
        results = super()._read_faces(frames, found)
        self._note("crops and values", time.perf_counter() - start - (self._networks_so_far() - before))
        return results

    def _networks_so_far(self) -> float:
        return sum(v for k, v in self.stages.items() if k.endswith(" network"))

    def run(self, frame: NDArray[np.uint8], **options: Any) -> tuple[float, dict[str, float]]:
        """One whole `detect`: its seconds, and those of each stage; what is left is "frame and rows"."""
        self.stages = {}
        start = time.perf_counter()
        self.detect(frame, **options)
        total = time.perf_counter() - start
        self._note("frame and rows", total - sum(self.stages.values()))
        return total, dict(self.stages)

"""What is run: a frame of a given size, with a given number of faces on it.

The photograph is repeated to fill the frame. Where the number of faces is given, the finder runs as always, and what it found is
replaced by that many boxes: the work is that of N faces on every machine and with any weights. py-feat is given
the same boxes in the same way.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np

from fexport.samples import photograph
from fexruntime import Detector, Frame, Options
from fexruntime.arrays import U8
from fexruntime.bundle import Bundle
from fexruntime.errors import InputError
from fexruntime.fex import Fex
from fexruntime.sources.frame import frame_of as as_frame
from fexruntime.sources.images import read_image

Boxes = list[list[float]]
REST = "frame and rows"
"""The stage of everything that no other stage is."""


def frame_of(path: Path | None, size_wh: tuple[int, int] | None) -> U8:
    """The frame to run on, [H,W,3] uint8 RGB: a picture, or the packaged photograph repeated to `size_wh`."""
    image = photograph() if path is None else read_image(path)
    if size_wh is None:
        return image
    width, height = size_wh
    rows, columns = -(-height // image.shape[0]), -(-width // image.shape[1])
    return np.ascontiguousarray(np.tile(image, (rows, columns, 1))[:height, :width])


def write_picture(image_rgb_u8: U8, path: Path) -> None:
    """A frame as a picture file: py-feat scales frames that it reads from files alone, so then both sides read one."""
    import cv2

    cv2.imwrite(str(path), image_rgb_u8[:, :, ::-1])


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


def faces_of(fex: Fex) -> int:
    """Faces that were read: a frame without one has a row of NaN."""
    return int(np.isfinite(fex["FaceRectX"]).sum())


class Workload:
    """A detector, and the faces to read on each frame (None: those found). Notes what each stage takes.

    With `output_size` a frame is a picture file, read within the time that is taken, as on py-feat's side.
    """

    def __init__(
        self,
        bundle: Bundle,
        boxes: Boxes | None = None,
        detector_size: int | None = None,
        output_size: int | None = None,
        **place: Any,
    ) -> None:
        self._stages: dict[str, float] = {}
        self.detector = Detector(bundle, observe=self._note, **place)
        self._boxes = None if boxes is None else [np.array(boxes, np.float32)]
        self._all = Options(detector_size=detector_size, output_size=output_size)
        self._finding = dataclasses.replace(self._all, columns=("facebox",))

    def __enter__(self) -> Workload:
        return self

    def __exit__(self, *_: object) -> None:
        self.detector.close()

    def _note(self, stage: str, seconds: float, items: int) -> None:
        self._stages[stage] = self._stages.get(stage, 0.0) + seconds

    def run(self, image: U8 | Path) -> tuple[Fex, dict[str, float]]:
        """One whole frame, from pixels (RGB) or a picture file to rows: the rows, and the seconds of each stage."""
        self._stages = {}
        start = time.perf_counter()
        pixels = read_image(image) if isinstance(image, Path) else image
        frame: Frame = as_frame(pixels, 0, "frame", self._all.output_size)
        if self._boxes is None:
            results = self.detector.run([frame], self._all)
        else:
            self.detector.run([frame], self._finding)
            results = self.detector.run([frame], self._all, self._boxes)
        fex = self.detector.to_fex(results)
        total = time.perf_counter() - start
        return fex, {**self._stages, REST: total - sum(self._stages.values())}

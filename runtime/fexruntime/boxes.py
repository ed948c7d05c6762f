"""The caller's own boxes: one array a frame, checked, handed out frame by frame."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fexruntime.errors import InputError

F32 = NDArray[np.float32]
FARTHEST_PX = 1e6
"""Beyond this float32 has no pixels left to tell apart."""


class GivenBoxes:
    """Boxes for a run over frames: `boxes` is [N,4] (x1, y1, x2, y2) for one frame, or one such array a frame.

    Raises InputError for another shape, for numbers that are not finite, and if frames and boxes differ in number.
    """

    def __init__(self, boxes: Any) -> None:
        if isinstance(boxes, np.ndarray) and boxes.ndim <= 2:
            boxes = [boxes]
        try:
            self._frames = [self._checked(b) for b in boxes]
        except TypeError:
            raise InputError(f"boxes must be an array [N,4], or one for each frame, not {boxes!r}") from None
        self._used = 0

    @staticmethod
    def _checked(boxes: Any) -> F32:
        try:
            array = np.asarray(boxes, np.float32)
        except (TypeError, ValueError):
            raise InputError(f"boxes must be numbers x1, y1, x2, y2, not {boxes!r}") from None
        if array.size == 0:
            return np.empty((0, 4), np.float32)
        if array.ndim == 1:
            array = array[None]
        if array.ndim != 2 or array.shape[1] != 4:
            raise InputError(f"boxes of a frame must be [N,4] (x1, y1, x2, y2), not of shape {array.shape}")
        if not (np.abs(array) <= FARTHEST_PX).all():
            raise InputError(
                f"boxes must be finite numbers within {FARTHEST_PX:.0e} px; leave out faces that are not there"
            )
        if (array[:, 2:] < array[:, :2]).any():
            raise InputError(f"boxes are corners x1, y1, x2, y2 with x2 >= x1 and y2 >= y1, not {array.tolist()}")
        return array

    def __next__(self) -> F32:
        """Boxes of the next frame, [N,4]."""
        if self._used == len(self._frames):
            raise InputError(f"boxes were given for {len(self._frames)} frames, but there are more frames")
        self._used += 1
        return self._frames[self._used - 1]

    def finish(self) -> None:
        """Check that no boxes are left when the frames are."""
        if self._used < len(self._frames):
            raise InputError(f"boxes were given for {len(self._frames)} frames, but there are {self._used}")

"""A smaller view of a frame for the face detector, where the caller trades exactness for speed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fexruntime.arrays import U8
from fexruntime.detect import Detections


@dataclass(frozen=True, slots=True)
class View:
    """What the detector sees, and the factors (x, y) from its pixels to the frame's."""

    rgb_u8: U8
    factor_xy: tuple[float, float] = (1.0, 1.0)

    def to_frame(self, faces: Detections) -> Detections:
        """Detections in the view's pixels -> in the frame's."""
        if self.factor_xy == (1.0, 1.0):
            return faces
        factor = np.array(self.factor_xy, np.float32)
        return replace(
            faces,
            boxes_xyxy_px=faces.boxes_xyxy_px * np.tile(factor, 2),
            points_xy_px=None if faces.points_xy_px is None else faces.points_xy_px * factor,
        )


def shrink_for_detector(frame_rgb_u8: U8, longest: int | None) -> View:
    """The frame itself, or its area-averaged reduction whose longer side is `longest` pixels."""
    height, width = frame_rgb_u8.shape[:2]
    if longest is None or max(height, width) <= longest:
        return View(frame_rgb_u8)
    import cv2

    scale = longest / max(height, width)
    new_h, new_w = max(2, round(height * scale)), max(2, round(width * scale))
    small = cv2.resize(frame_rgb_u8, (new_w, new_h), interpolation=cv2.INTER_AREA)
    return View(small.astype(np.uint8, copy=False), (width / new_w, height / new_h))

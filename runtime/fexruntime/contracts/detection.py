"""Constants of RetinaFace's anchors and of py-feat's thresholds, the same for both detectors."""

from __future__ import annotations

MIN_SIZES = ((16, 32), (64, 128), (256, 512))
"""Two anchor sizes in pixels for each level."""
STEPS = (8, 16, 32)
"""Stride of each level in pixels."""
VARIANCES = (0.1, 0.2)
"""Scale of centre and of size deltas."""
NMS_IOU = 0.4
"""A box is suppressed if its IoU with a better one is greater."""
FINAL_SCORE = 0.5
"""py-feat's detector drops lower scores itself, so a smaller `face_detection_threshold` has no effect."""
TOP_K = 5000
"""Candidates kept before NMS, per image of the batch but counted over the whole batch."""
KEEP_TOP_K = 750
"""Faces kept per image."""

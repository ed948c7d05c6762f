"""Constants of img2pose that py-feat's code fixes (what its configuration file says comes with the weights)."""

from __future__ import annotations

ANCHOR_SIDES = (16, 32, 64, 128, 256)
"""Side of the anchors of each level of the pyramid, P2 to P6, in pixels of the resized frame (py-feat lists a sixth, which
no level has)."""
ASPECT_RATIOS = (0.5, 1.0, 2.0)
"""Height over width of the three anchors of a cell."""
LARGEST_GROWTH = 1000.0 / 16
"""A proposal is at most this many times as wide or high as its anchor."""
PROPOSAL_IOU = 0.4
"""Proposals of one level are suppressed if their IoU with a better one is greater."""
LEAST_SIDES = (1e-3, 1e-2)
"""Narrower or lower proposals are dropped: of the first stage, and before poses are projected."""
FEW_PROPOSALS = 1000
"""Up to so many, levels are told apart by shifting their boxes (torchvision's `batched_nms`), which rounds them."""
FRAME_MULTIPLE = 32
"""The resized frame is padded to a multiple of this."""
ROI_LEVELS = (2, 3, 4, 5)
"""Levels of the pyramid that regions are read from; a cell of level k is 2**k pixels."""
ROI_REFERENCE = (4, 224.0, 1e-6)
"""A region of this level (first) is as large as a square of that side (second); the third is added before rounding."""
ROI_SIDE = 7
ROI_SAMPLES = 2
"""Bins a side of a region, and samples a side of a bin."""
LEAST_SCORE = 0.05
"""Lower scores are dropped, whatever the caller's threshold."""
BOX_IOU, FACE_IOU = 0.5, 0.3
"""A face is suppressed if its IoU with a better one is greater: in the resized frame, then in the frame itself."""
MOST_BOXES = 1000
"""Boxes kept by the first of these."""
ROLLS = (1.0, 2.5)
"""Third number of the rotation vector (rad) beyond which the forehead lies at a side, and below."""

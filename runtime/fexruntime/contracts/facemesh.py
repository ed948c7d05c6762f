"""Constants of MediaPipe's FaceMesh (0.10.21), as the graph in its wheel has them: anchors, NMS, regions, index lists."""

from __future__ import annotations

ANCHOR_GRIDS = ((16, 2), (8, 6))
"""(cells a side, anchors a cell) of the short-range detector; an anchor is its cell's centre, its size 1."""
DETECTOR_SIDE = 128
"""Side in pixels of the detector's input, in which its regressors are."""
SCORE_CLIP = 100.0
DETECTOR_KEYPOINTS = 6
"""Right eye, left eye, tip of the nose, mouth, right ear, left ear (the subject's right and left)."""
NMS_IOU = 0.3
"""Boxes that overlap the best one by more are merged with it."""
REGION_SCALE = 1.5
"""The square that the mesh is read from, in sides of the face's box."""
SAME_REGION_IOU = 0.5
"""A region that overlaps earlier ones by more takes their place."""
MESH_SIDE = 192
"""Side in pixels of the mesh networks' input, in which their points are."""
PRESENCE = 0.5
"""A face is one if its presence is greater."""
MESH_POINTS = 468
"""Points of the mesh without irises, which follow: five of the left eye (that of point 33), five of the right."""

_LIPS = (
    61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409, 78, 95, 88, 178, 87, 14, 317,
    402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415, 76, 77, 90, 180, 85, 16, 315, 404, 320, 307, 306, 184, 74,
    73, 72, 11, 302, 303, 304, 408, 62, 96, 89, 179, 86, 15, 316, 403, 319, 325, 292, 183, 42, 41, 38, 12, 268, 271, 272, 407,
)  # fmt: skip
_LEFT_EYE = (
    33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173, 130, 25, 110, 24, 23, 22, 26, 112, 243, 247,
    30, 29, 27, 28, 56, 190, 226, 31, 228, 229, 230, 231, 232, 233, 244, 113, 225, 224, 223, 222, 221, 189, 35, 124, 46, 53,
    52, 65, 143, 111, 117, 118, 119, 120, 121, 128, 245, 156, 70, 63, 105, 66, 107, 55, 193,
)  # fmt: skip
_RIGHT_EYE = (
    263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398, 359, 255, 339, 254, 253, 252, 256, 341,
    463, 467, 260, 259, 257, 258, 286, 414, 446, 261, 448, 449, 450, 451, 452, 453, 464, 342, 445, 444, 443, 442, 441, 413,
    265, 353, 276, 283, 282, 295, 372, 340, 346, 347, 348, 349, 350, 357, 465, 383, 300, 293, 334, 296, 336, 285, 417,
)  # fmt: skip
REFINED: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("lips", _LIPS),
    ("left_eye", _LEFT_EYE),
    ("right_eye", _RIGHT_EYE),
    ("left_iris", tuple(range(468, 473))),
    ("right_iris", tuple(range(473, 478))),
)
"""Outputs of the attention network, in the order they are put in, and the points of the mesh that they are (x and y)."""
IRIS_DEPTHS: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("left_iris", _LEFT_EYE[:16]),
    ("right_iris", _RIGHT_EYE[:16]),
)
"""The points of the mesh, an eye's contour, whose mean z is that of an iris."""
NOSE_TIP = 1
EYE_LINE = (33, 263)
"""Outer corners of the eyes: a tracked region is turned so that this line is level."""

VERTICAL_FOV_DEGREES = 63.0
"""Vertical field of view of the camera that MediaPipe's face geometry assumes."""

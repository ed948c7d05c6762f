"""Names and index maps of py-feat's outputs (py-feat 2.0.3 and 2.1.5 agree on all of them)."""

from __future__ import annotations

AUS = (
    "AU01", "AU02", "AU04", "AU05", "AU06", "AU07", "AU09", "AU10", "AU11", "AU12",
    "AU14", "AU15", "AU17", "AU20", "AU23", "AU24", "AU25", "AU26", "AU28", "AU43",
)  # fmt: skip
"""The 20 action units, in the multitask head's and in Detectorv1's order."""

EMOTIONS_V2 = ("Neutral", "Happy", "Sad", "Surprise", "Fear", "Disgust", "Anger")
EMOTIONS_V1 = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
VALENCE_AROUSAL = ("valence", "arousal")
POSE = ("Pitch", "Roll", "Yaw", "X", "Y", "Z")
ROTATION = tuple(f"R{row}{column}" for row in range(3) for column in range(3))
GAZE = ("gaze_pitch", "gaze_yaw", "gaze_angle")

BLENDSHAPES = (
    "_neutral", "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff",
    "cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight",
    "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight",
    "eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft", "jawOpen", "jawRight",
    "mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel",
    "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthSmileLeft",
    "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight",
    "noseSneerLeft", "noseSneerRight",
)  # fmt: skip
"""MediaPipe's 52 coefficients; the first, `_neutral`, is a column like the others."""

MESH_POINTS = 478
EMBEDDING_SIZE = 512
ORIENTATIONS = 9
"""Orientation tokens of TokenHPE: nine basic regions of head orientation."""
LANDMARKS = 68
HOG_SIZE = 13 * 13 * 2 * 2 * 8
"""Blocks of 2 x 2 cells of 8 x 8 px in a face of 112 px, 8 orientations."""

DLIB68_FROM_MESH = (
    127, 234, 93, 132, 58, 172, 136, 150, 176, 148, 152, 377, 400, 379, 365, 397, 356,  # jaw
    70, 63, 105, 66, 107,  # left eyebrow
    336, 296, 334, 293, 300,  # right eyebrow
    168, 6, 195, 4,  # bridge of the nose
    240, 75, 1, 305, 460,  # tip of the nose
    33, 160, 158, 133, 153, 144,  # left eye
    362, 385, 387, 263, 373, 380,  # right eye
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,  # outer lip
    78, 82, 13, 312, 308, 317, 14, 87,  # inner lip
)  # fmt: skip
"""Which mesh vertex stands for each of dlib's 68 landmarks (py-feat's `DLIB68_FROM_MP478`)."""


def _numbered(prefix: str, count: int, first: int = 0) -> tuple[str, ...]:
    return tuple(f"{prefix}{i}" for i in range(first, first + count))


FACEBOX = ("FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight", "FaceScore")
LANDMARK_XY = _numbered("x_", LANDMARKS) + _numbered("y_", LANDMARKS)
MESH_XYZ = _numbered("mesh_x_", MESH_POINTS) + _numbered("mesh_y_", MESH_POINTS) + _numbered("mesh_z_", MESH_POINTS)
EMBEDDING = _numbered("Identity_", EMBEDDING_SIZE, first=1)
FRAME_SIZE = ("FrameHeight", "FrameWidth")
SOURCE = ("input", "frame")
IDENTITY = "Identity"
OUTER_EYE_CORNERS = (36, 45)
"""dlib's landmarks at the outer corners of the eyes; their distance is Pose-MLP's unit of length."""
EYE_CORNERS_OF_MESH = ((33, 133), (362, 263))
"""Corners of each socket in MediaPipe's mesh, left and right: they do not move with the gaze."""

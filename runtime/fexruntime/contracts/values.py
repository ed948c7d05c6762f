"""What pipelines say of a face: one row a value."""

from __future__ import annotations

from fexruntime.contracts.labels import (
    AUS,
    BLENDSHAPES,
    EMBEDDING_SIZE,
    EMOTIONS_V2,
    HOG_SIZE,
    LANDMARKS,
    MESH_POINTS,
    ORIENTATIONS,
)
from fexruntime.contracts.schema import Stage, Value

VALUES: dict[str, Value] = {
    value.name: value
    for value in (
        Value("boxes_xyxy_px", (4,), "the finder's boxes: corners x1, y1, x2, y2", points=True),
        Value("scores", (), "score of each box in [0,1]; 1 for the caller's own boxes"),
        Value(
            "points_xy_px",
            (5, 2),
            "the finder's eyes, nose and mouth corners (subject's right eye first); NaN for the caller's boxes",
            points=True,
        ),
        Value("keypoints_xy_px", (6, 2), "BlazeFace's eyes, nose, mouth and ears (subject's right first)", points=True),
        Value(
            "region_xy_px",
            (4, 2),
            "corners of the rotated square that a mesh is read from (bottom left, top left, top right, bottom right); NaN "
            "for the caller's own boxes, which are taken upright",
            points=True,
        ),
        Value("presence", (), "probability that there is a face, by the network that reads it"),
        Value("track", (), "number of the track of frames that the face is of; whole numbers from 0"),
        Value("keep", (), "0 for a face that a stage found not to be one"),
        Value("landmarks_xy_px", (LANDMARKS, 2), "dlib's landmarks", points=True),
        Value("landmarks_crop_xy", (LANDMARKS, 2), "dlib's landmarks as fractions of their crop", inner=True),
        Value("hog", (HOG_SIZE,), "histograms of oriented gradients of the aligned, masked face", inner=True),
        Value("hog_points", (LANDMARKS, 2), "landmarks in whole pixels of the aligned face", inner=True),
        Value(
            "pose",
            (6,),
            "Pitch, Roll, Yaw in radians, then X, Y, Z (NaN where a network gives none), with the contract's signs",
        ),
        Value("rotation", (3, 3), "the head's rotation as the data sets of head pose have it (see `rotations`)"),
        Value(
            "token_rotations", (ORIENTATIONS, 3, 3), "the rotation that each orientation token of TokenHPE stands for"
        ),
        Value("au", (len(AUS),), "probability of each action unit"),
        Value("emotion", (len(EMOTIONS_V2),), "probability of each emotion, in the order of the pipeline's columns"),
        Value("valence_arousal", (2,), "valence and arousal in [-1,1]"),
        Value("gaze_rad", (3,), "pitch, yaw, angle from straight ahead"),
        Value("mesh_xyz", (MESH_POINTS, 3), "x and y in pixels, z in the network's own relative unit", points=True),
        Value(
            "mesh_xyz_px",
            (MESH_POINTS, 3),
            "MediaPipe's mesh in pixels, z too (smaller is nearer); NaN for the irises without refinement",
            points=True,
            depth=True,
        ),
        Value("mesh_features", (1404,), "NLML_HPE's: mesh about the tip of the nose, in distances of the eyes"),
        *(Value(f"latent_{axis}", (3,), f"what NLML_HPE's {axis} head reads") for axis in ("yaw", "pitch", "roll")),
        *(
            Value(f"raw_{axis}", (1,), f"{axis} in radians as NLML_HPE's head says it")
            for axis in ("yaw", "pitch", "roll")
        ),
        Value("blendshapes", (len(BLENDSHAPES),), "MediaPipe's coefficients in [0,1]"),
        Value("embedding", (EMBEDDING_SIZE,), "identity embedding, as the network gives it"),
    )
}


def is_inner(stage: Stage) -> bool:
    """Whether a stage is there for later stages alone: nobody chooses it, a bundle has it where one of them reads it."""
    return bool(stage.gives) and all(VALUES[name].inner for name in stage.gives)

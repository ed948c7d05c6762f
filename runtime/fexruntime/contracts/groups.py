"""Groups of columns, and the finder, that rows of several pipelines share."""

from __future__ import annotations

from fexruntime.contracts import labels as L
from fexruntime.contracts.schema import Choice, Group, Network, Stage

FACEBOX = Group("facebox", "facebox", L.FACEBOX, feat="facebox_columns")
LANDMARKS = Group("landmarks", "landmarks_xy_px", L.LANDMARK_XY, planar=True, feat="landmark_columns")
POSE = Group("pose", "pose", L.POSE, feat="facepose_columns")
AUS = Group("au", "au", L.AUS, feat="au_columns")
GAZE = Group("gaze", "gaze_rad", L.GAZE, feat="gaze_columns")
EMBEDDING = Group("embedding", "embedding", L.EMBEDDING, feat="identity_columns")
FRAME_SIZE = Group("frame_size", "frame_size", L.FRAME_SIZE, dtype="float64")
INPUT = Group("input", "input", L.SOURCE[:1], dtype="text")
FRAME = Group("frame", "frame", L.SOURCE[1:], dtype="int64")
IDENTITY = Group("identity", "embedding", (L.IDENTITY,), dtype="text")
TAIL = (FRAME_SIZE, INPUT, FRAME, IDENTITY)


def finder(*networks: Network | Choice) -> Stage:
    """A stage that finds faces by one of these networks: of RetinaFace's kind where not a whole choice is given."""
    choices = tuple(Choice(n.name) if isinstance(n, Network) else n for n in networks)
    return Stage("faces", choices, "retinaface", ("boxes_xyxy_px", "scores", "points_xy_px"), title="finds the faces")

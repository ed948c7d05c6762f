"""FaceMesh's raw outputs -> mesh, presence, pose. Mirrors mediapipe 0.10.21's face_landmark_front graph.

The plain network decides which faces there are. With refinement, the attention network's lips, eyes and irises are put
into the plain mesh; that network's own presence head drops many true faces, and its own mesh and presence are taken only
where a caller asks for MediaPipe's refined answer as it is (`Options.mediapipe_presence`).
"""

from __future__ import annotations

import numpy as np

from fexruntime.arrays import F32, Values
from fexruntime.contracts import Crop, Stage
from fexruntime.contracts import facemesh as C
from fexruntime.contracts.labels import DLIB68_FROM_MESH, MESH_POINTS
from fexruntime.decoding import Decoder, Faces
from fexruntime.face_geometry import pose_of
from fexruntime.options import Options

_DLIB68 = np.array(DLIB68_FROM_MESH)
_LAST = {point: place for place, point in enumerate(p for _, points in C.REFINED for p in points)}
_FINER, _FINER_FROM = np.array([*_LAST]), np.array([*_LAST.values()])
"""Points of the mesh that refinement moves, and which of its outputs' points, one behind another, each is: a later one's word counts."""
_IRISES = np.array([points for name, points in C.REFINED if name in dict(C.IRIS_DEPTHS)])
_CONTOURS = np.array([contour for _, contour in C.IRIS_DEPTHS])
"""[2,5] points of each iris, and [2,16] those whose mean depth is its depth."""


def _mesh(raw: Values, faces: Faces, stage: Stage, crop: Crop | None) -> dict[str, F32]:
    """The plain network: 468 points, irises NaN."""
    assert crop is not None
    mesh = np.full((len(raw["mesh"]), MESH_POINTS, 3), np.nan, np.float32)
    mesh[:, : C.MESH_POINTS] = _in_frame(raw["mesh"], faces, crop)
    return _said(mesh, _probability(raw["presence"]))


def _refined(raw: Values, faces: Faces, stage: Stage, crop: Crop | None) -> dict[str, F32]:
    """The attention network: its lips, eyes and irises in the plain mesh, or all of its answer."""
    assert crop is not None
    if is_all(faces.options):
        mesh = np.full((len(raw["mesh"]), MESH_POINTS, 3), np.nan, np.float32)
        mesh[:, : C.MESH_POINTS] = _in_frame(raw["mesh"], faces, crop)
        presence = _probability(raw["presence"])
    else:
        mesh = np.array(faces.values["mesh_xyz_px"])
        presence = faces.values["presence"]
    finer = _in_frame(np.concatenate([raw[name] for name, _ in C.REFINED], axis=1), faces, crop)
    mesh[:, _FINER, :2] = finer[:, _FINER_FROM]
    depths = mesh[:, :, 2]
    depths[:, _IRISES] = depths[:, _CONTOURS].mean(axis=2)[:, :, None]
    return _said(mesh, presence)


def is_all(options: Options) -> bool:
    """Whether the attention network's answer is taken as it is, and nothing of the plain one's."""
    return options.mediapipe_presence


def _presence(raw: Values, faces: Faces, stage: Stage, crop: Crop | None) -> dict[str, F32]:
    """Which faces stay."""
    return {"keep": (raw["presence"] > np.float32(C.PRESENCE)).astype(np.float32)}


def _pose(raw: Values, faces: Faces, stage: Stage, crop: Crop | None) -> dict[str, F32]:
    """The rigid fit of the canonical face, seen by a camera that looks at the middle of the picture."""
    picture = faces.pictures_xywh_px()
    mesh = raw["mesh_xyz_px"][:, : C.MESH_POINTS].astype(np.float64)
    mesh[:, :, :2] -= picture[:, None, :2]
    return {"pose": pose_of(mesh, picture[:, 2:])}


def _features(raw: Values, faces: Faces, stage: Stage, crop: Crop | None) -> dict[str, F32]:
    """NLML_HPE's features: (point - tip of the nose) / distance of the outer eye corners, in shares of the picture.

    x and z are in shares of its width, y of its height, as MediaPipe gives them: they depend on the picture's shape. In
    float64, as helpers/FeatureExtractor.py has it.
    """
    picture = faces.pictures_xywh_px()
    mesh = raw["mesh_xyz_px"][:, : C.MESH_POINTS].copy()
    mesh[:, :, :2] -= picture[:, None, :2]
    share = (mesh / picture[:, None, [2, 3, 2]]).astype(np.float64)
    first, last = (share[:, k] for k in C.EYE_LINE)
    distance = np.linalg.norm(first - last, axis=1)
    distance = np.where(distance == 0, 1e-6, distance)
    features = (share - share[:, C.NOSE_TIP, None]) / distance[:, None, None]
    return {stage.gives[0]: features.reshape(len(features), -1).astype(np.float32)}


def _said(mesh: F32, presence: F32) -> dict[str, F32]:
    return {"mesh_xyz_px": mesh, "landmarks_xy_px": mesh[:, _DLIB68, :2], "presence": presence}


def _probability(logits: F32) -> F32:
    one = np.float32(1)
    with np.errstate(over="ignore"):  # e^100 is no float32: the probability is 0
        found: F32 = one / (one + np.exp(-logits[:, 0]))
    return found


def _in_frame(points: F32, faces: Faces, crop: Crop) -> F32:
    """Points [N,K,2 or 3] in pixels of the crop -> pixels of the frame; a depth is in the crop's pixels, too."""
    corners = faces.regions(crop).sample_xyxy_px.reshape(-1, 4, 2).astype(np.float64)
    bottom_left, top_left, top_right, bottom_right = (corners[:, None, k] for k in range(4))
    across, down = top_right - top_left, bottom_left - top_left
    share = points.astype(np.float64) / C.MESH_SIDE
    found = np.empty(points.shape, np.float32)
    found[:, :, :2] = (share[:, :, :2] - 0.5) @ np.concatenate([across, down], 1) + (top_left + bottom_right) / 2
    if points.shape[2] > 2:
        found[:, :, 2:] = share[:, :, 2:] * np.linalg.norm(across, axis=2, keepdims=True)
    return found


DECODERS: dict[str, Decoder] = {
    "facemesh": _mesh,
    "facemesh-refined": _refined,
    "presence": _presence,
    "face-geometry": _pose,
    "mesh-features": _features,
}
"""By the name that a stage's row has."""

REPLACES = {"facemesh-refined": is_all}
"""By decoder: under which options it takes nothing of the values of the same names that came before it."""

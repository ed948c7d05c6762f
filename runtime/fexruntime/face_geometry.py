"""Head pose as the rigid fit of MediaPipe's canonical face to a mesh, as its face-geometry module makes it.

Mirrors mediapipe's modules/face_geometry/libs (geometry_pipeline.cc, procrustes_solver.cc): a camera with a vertical
field of view of 63 degrees looks at the middle of the picture; two fits of scale bring the mesh into centimetres before
the camera, and a weighted orthogonal Procrustes fit of the canonical face to that is the pose.

Axes here are the camera's: x to the picture's right, y up, z towards the camera.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fexruntime.arrays import F32, F64
from fexruntime.contracts import facemesh as C

_FILE = Path(__file__).parent / "canonical_face" / "canonical_face.npz"


@dataclass(frozen=True, slots=True, eq=False)
class CanonicalFace:
    """MediaPipe's canonical face: vertices [468,3] in cm, triangles [898,3], and the landmarks and weights of the fit."""

    vertices_cm: F64
    triangles: NDArray[np.int64]
    landmarks: NDArray[np.int64]
    weights: F64


@lru_cache(maxsize=1)
def canonical_face() -> CanonicalFace:
    """The face, read once."""
    with np.load(_FILE) as stored:
        return CanonicalFace(
            stored["vertices_cm"].astype(np.float64),
            stored["triangles"].astype(np.int64),
            stored["landmarks"].astype(np.int64),
            stored["weights"].astype(np.float64),
        )


def pose_of(mesh_xyz_px: Any, size_wh: Any, vertical_fov_degrees: float | None = C.VERTICAL_FOV_DEGREES) -> F32:
    """Pose [N,6] of meshes [N,468,3] (pixels of pictures of size [N,2], z too, smaller is nearer).

    Pitch, Roll, Yaw in radians, + up and to the subject's right, put together as img2pose's and so Detectorv1's:
    R = Rz(roll) · Ry(-yaw) · Rx(-pitch); then the place of the head's origin before the camera, X, Y, Z in cm. Without a field
    of view (None) there is no camera: the similarity that fits the mesh as it is, and no place (NaN). NaN for a mesh that is
    not finite, or that no face fits.
    """
    meshes, sizes = np.asarray(mesh_xyz_px, np.float64), np.asarray(size_wh, np.float64)
    pose = np.full((len(meshes), 6), np.nan, np.float32)
    for n, (mesh, size) in enumerate(zip(meshes, sizes, strict=True)):
        if np.isfinite(mesh).all():
            if vertical_fov_degrees is None:
                fitted = _fit_flat(mesh)
            else:
                fitted = fit(mesh, (float(size[0]), float(size[1])), vertical_fov_degrees)
            if fitted is not None:
                rotation, place = fitted
                pose[n] = [*angles_of(rotation), *place]
    return pose


def _fit_flat(mesh_xyz_px: F64) -> tuple[F64, F64] | None:
    found = _procrustes(mesh_xyz_px[canonical_face().landmarks] * [1.0, -1.0, -1.0])
    return None if found is None else (found[0], np.full(3, np.nan))


def fit(mesh_xyz_px: F64, size_wh: tuple[float, float], vertical_fov_degrees: float) -> tuple[F64, F64] | None:
    """(rotation [3,3], translation [3] in cm) that bring the canonical face to a mesh [468,3]; None if none does."""
    width, height = size_wh
    unit = 2 * math.tan(math.radians(vertical_fov_degrees) / 2) / height  # a pixel, on a plane at distance 1
    screen = (mesh_xyz_px - [width / 2, height / 2, 0.0]) * [unit, -unit, unit]
    middle = float(screen[:, 2].mean())

    screen = screen[canonical_face().landmarks]

    def metric(scale: float) -> F64:
        depth = (screen[:, 2] - middle + 1.0) / scale
        return np.stack([screen[:, 0] * depth, screen[:, 1] * depth, -depth], axis=1)

    # the first scale without perspective, since only then is the relative depth one of a distance
    first = _procrustes(screen * [1.0, 1.0, -1.0])
    if first is None or first[1] <= 0:
        return None
    second = _procrustes(metric(first[1]))
    if second is None or second[1] <= 0:
        return None
    found = _procrustes(metric(first[1] * second[1]))
    return None if found is None else (found[0], found[2])


@lru_cache(maxsize=1)
def _source() -> tuple[F64, F64, F64, F64, float]:
    """What is the same in every fit, of the face's K landmarks: their places [K,3], those less the middle, weights [K,1], shares of
    their sum, and the spread."""
    face = canonical_face()
    source, weights = face.vertices_cm[face.landmarks], face.weights[:, None]
    share = weights / face.weights.sum()
    centred = source - (share * source).sum(axis=0)
    return source, centred, weights, share, float((weights * centred * source).sum())


def _procrustes(target: F64) -> tuple[F64, float, F64] | None:
    """(rotation, scale, translation) of the weighted least-squares similarity from the canonical face's landmarks to target [K,3]."""
    source, centred, weights, share, spread = _source()
    weighted = weights * target
    try:
        u, _, vt = np.linalg.svd(weighted.T @ centred)
    except np.linalg.LinAlgError:
        return None
    rotation = u @ vt
    if np.linalg.det(rotation) < 0:
        u[:, 2] *= -1
        rotation = u @ vt
    scale = float((centred @ rotation.T * weighted).sum()) / spread
    translation = (share * (target - scale * source @ rotation.T)).sum(axis=0)
    return rotation, scale, translation


def angles_of(rotation: F64) -> tuple[float, float, float]:
    """(Pitch, Roll, Yaw) in radians of a rotation of the head before the camera; roll 0 where yaw is ±90°."""
    r = rotation
    flat = math.hypot(r[0, 0], r[1, 0])
    if flat < 1e-6:
        return -math.atan2(-r[1, 2], r[1, 1]), 0.0, -math.atan2(-r[2, 0], flat)
    return -math.atan2(r[2, 1], r[2, 2]), math.atan2(r[1, 0], r[0, 0]), -math.atan2(-r[2, 0], flat)


def rotation_of(pitch: float, roll: float, yaw: float) -> F64:
    """The rotation [3,3] of angles as `angles_of` gives them."""
    (cx, sx), (cy, sy), (cz, sz) = ((math.cos(a), math.sin(a)) for a in (-pitch, -yaw, roll))
    x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return np.asarray(z @ y @ x, np.float64)

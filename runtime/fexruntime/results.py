"""What the detector answers for those who want arrays rather than a table: frozen, with shapes and units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FrameResult:
    """Everything about the N faces of one frame, best score first. Coordinates are pixels of the original frame.

    A head that the bundle does not have is None. With no face, N is 0.
    """

    index: int
    """Running number of the frame over the inputs."""
    name: str
    """Path, or "tensor" for an array."""
    size_hw: tuple[float, float]
    """Height and width of the original as py-feat reports them (not exact with `output_size`)."""
    boxes_xyxy_px: F32
    """[N,4] the detector's boxes."""
    scores: F32
    """[N] in [0,1]; 1 for the caller's own boxes."""
    points_xy_px: F32
    """[N,5,2] the detector's eyes, nose and mouth corners (subject's right eye first); NaN for the caller's boxes."""
    facerects_xywh_px: F32
    """[N,4] left, top, width, height as in Fex: the crop, or the detector's box in a bundle without crops."""
    landmarks_xy_px: F32 | None = None
    """[N,68,2] dlib's landmarks."""
    pose: F32 | None = None
    """[N,6] Pitch, Roll, Yaw in radians, then X, Y, Z; +pitch up, +yaw and +roll to the subject's right (contract's signs)."""
    au: F32 | None = None
    """[N,20] probability of each action unit."""
    emotion: F32 | None = None
    """[N,7] probability of each emotion."""
    valence_arousal: F32 | None = None
    """[N,2] in [-1,1]."""
    gaze_rad: F32 | None = None
    """[N,3] pitch, yaw, angle from straight ahead."""
    mesh_xyz: F32 | None = None
    """[N,478,3] x and y in pixels, z in the network's own relative unit."""
    blendshapes: F32 | None = None
    """[N,52] in [0,1]."""
    embedding: F32 | None = None
    """[N,512] identity embedding, as the network gives it (ArcFace's is not normalised)."""

    def __len__(self) -> int:
        return len(self.scores)

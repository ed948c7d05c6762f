"""What the detector answers for those who want arrays rather than a table: frozen, with shapes and units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fexruntime.arrays import F32, Indices
from fexruntime.sources.frame import Moment


@dataclass(frozen=True, slots=True, eq=False)
class FrameResult:
    """Everything about the N faces of one frame, best score first. Coordinates are pixels of the original frame.

    `values` has every value that was computed, by name (`contracts.VALUES` says what each means), [N, …] float32 with
    N = 0 where there is no face. The properties name the usual ones; a value that the bundle has no network for, or that
    the caller did not ask for, is None.
    """

    index: int
    """Running number of the frame over the inputs."""
    name: str
    """Path, or a word for an input without one ("tensor" for an array)."""
    size_hw: tuple[float, float]
    """Height and width of the original as py-feat reports them (not exact with `output_size`)."""
    facerects_xywh_px: F32
    """[N,4] left, top, width, height as in Fex: the crop, or the finder's box in a pipeline without crops."""
    values: Mapping[str, F32] = field(repr=False)
    moment: Moment | None = None
    """Of a frame of a video, when it is shown: pts, time base, seconds, py-feat's approx_time."""

    @property
    def time_s(self) -> float | None:
        """Of a frame of a video, seconds on a player's clock (pts × time base, less the file's start)."""
        return None if self.moment is None else self.moment.time_s

    @property
    def tracks(self) -> Indices | None:
        """[N] number of each face's track, where faces are tracked."""
        tracks = self.values.get("track")
        return None if tracks is None else tracks.astype(np.int64)

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def boxes_xyxy_px(self) -> F32:
        """[N,4] the finder's boxes."""
        return self.values["boxes_xyxy_px"]

    @property
    def scores(self) -> F32:
        """[N] in [0,1]; 1 for the caller's own boxes."""
        return self.values["scores"]

    @property
    def points_xy_px(self) -> F32 | None:
        """[N,5,2] the finder's eyes, nose and mouth corners (subject's right eye first); NaN for the caller's boxes."""
        return self.values.get("points_xy_px")

    @property
    def landmarks_xy_px(self) -> F32 | None:
        """[N,68,2] dlib's landmarks."""
        return self.values.get("landmarks_xy_px")

    @property
    def pose(self) -> F32 | None:
        """[N,6] Pitch, Roll, Yaw in radians, then X, Y, Z; +yaw and +roll to the subject's right.

        A positive Pitch looks up where the pipeline's row says `pitch_up=1` (Detectorv1, and Detectorv2 under
        pyfeat-2.1), and down where it says -1 (Detectorv2 under pyfeat-2.0).
        """
        return self.values.get("pose")

    @property
    def au(self) -> F32 | None:
        """[N,20] probability of each action unit."""
        return self.values.get("au")

    @property
    def emotion(self) -> F32 | None:
        """[N,7] probability of each emotion, in the order of the pipeline's columns."""
        return self.values.get("emotion")

    @property
    def valence_arousal(self) -> F32 | None:
        """[N,2] in [-1,1]."""
        return self.values.get("valence_arousal")

    @property
    def gaze_rad(self) -> F32 | None:
        """[N,3] pitch, yaw, angle from straight ahead."""
        return self.values.get("gaze_rad")

    @property
    def mesh_xyz(self) -> F32 | None:
        """[N,478,3] x and y in pixels, z in the network's own relative unit."""
        return self.values.get("mesh_xyz")

    @property
    def mesh_xyz_px(self) -> F32 | None:
        """[N,478,3] MediaPipe's mesh in pixels, z too (smaller is nearer); the irises NaN without refinement."""
        return self.values.get("mesh_xyz_px")

    @property
    def blendshapes(self) -> F32 | None:
        """[N,52] in [0,1]."""
        return self.values.get("blendshapes")

    @property
    def embedding(self) -> F32 | None:
        """[N,512] identity embedding, as the network gives it (ArcFace's is not normalised)."""
        return self.values.get("embedding")

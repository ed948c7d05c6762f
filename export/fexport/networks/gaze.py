"""The gaze part of the multitask network: features of each eye, head rotation, binned or direct angles.

Mirrors `feat/multitask/heads_v26.py`. Region of interest: He et al., "Mask R-CNN" (RoIAlign, aligned); rotation: Rodrigues'
formula, its first two columns after Zhou et al., "On the Continuity of Rotation Representations", 2019; bins:
Abdelrahman et al., "L2CS-Net", 2022.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fexruntime.contracts.labels import EYE_CORNERS_OF_MESH


def rotation(rotvec: Tensor) -> tuple[Tensor, ...]:
    """Rotation vectors [B,3] -> the nine entries R00, R01, … R22 of each matrix, [B,1] each (Rodrigues)."""
    theta = rotvec.square().sum(dim=1, keepdim=True).sqrt().clamp_min(1e-8)
    k = rotvec / theta
    x, y, z = k[:, 0:1], k[:, 1:2], k[:, 2:3]
    s, c1 = torch.sin(theta), 1.0 - torch.cos(theta)
    squares = x * x + y * y + z * z  # 1, but for vectors shorter than the clamp
    return (
        1.0 + c1 * (x * x - squares),
        c1 * x * y - s * z,
        c1 * x * z + s * y,
        c1 * x * y + s * z,
        1.0 + c1 * (y * y - squares),
        c1 * y * z - s * x,
        c1 * x * z - s * y,
        c1 * y * z + s * x,
        1.0 + c1 * (z * z - squares),
    )


class EyeEncoder(nn.Module):
    """RoIAlign of a fixed-size window round each eye, two convolutions, a linear layer.

    RoIAlign is written as two small products per eye, weights_y · map · weights_xᵀ: bilinear weights are hat functions of
    the distance to each cell. That needs no RoiAlign or GridSample operator and equals torchvision's to float round-off.
    """

    def __init__(self, channels: int, out: int, roi_size: int, window: float, map_size: int) -> None:
        super().__init__()
        self.enc = nn.Sequential(
            nn.Conv2d(channels, 256, 3, padding=1, bias=False),
            nn.GroupNorm(8, 256),
            nn.GELU(),
            nn.Conv2d(256, 256, 3, padding=1, bias=False),
            nn.GroupNorm(8, 256),
            nn.GELU(),
        )
        self.proj = nn.Linear(256 * roi_size * roi_size, out)
        self.norm = nn.LayerNorm(out)
        self.map_size, self.roi_size = map_size, roi_size
        self.samples = math.ceil(window / roi_size)  # per bin and axis, as torchvision's sampling_ratio=-1
        steps = (torch.arange(roi_size * self.samples, dtype=torch.float32) + 0.5) / (roi_size * self.samples)
        self.offsets: Tensor
        self.cells: Tensor
        self.register_buffer("offsets", (steps - 0.5) * window - 0.5, persistent=False)
        self.register_buffer("cells", torch.arange(map_size, dtype=torch.float32), persistent=False)

    def _weights(self, centre: Tensor) -> Tensor:
        """Centres [B,1] in cells -> [B,1,roi_size,map_size]."""
        at = centre + self.offsets
        inside = ((at >= -1.0) & (at <= float(self.map_size))).to(at.dtype)
        at = at.clamp(0.0, self.map_size - 1.0)
        hats = F.relu(1.0 - (at.unsqueeze(-1) - self.cells).abs()) * inside.unsqueeze(-1)
        if self.samples > 1:
            hats = hats.view(-1, self.roi_size, self.samples, self.map_size).mean(dim=2)
        return hats.unsqueeze(1)

    def forward(self, features: Tensor, mesh_cells: Tensor) -> tuple[Tensor, Tensor]:
        """features [B,C,S,S], mesh [B,478,2] in cells of it -> (left, right), [B,out] each."""
        eyes = []
        for a, b in EYE_CORNERS_OF_MESH:
            centre = 0.5 * (mesh_cells[:, a] + mesh_cells[:, b])
            rows, columns = self._weights(centre[:, 1:2]), self._weights(centre[:, 0:1])
            window = rows.matmul(features).matmul(columns.transpose(2, 3))
            eyes.append(self.norm(self.proj(self.enc(window).flatten(1))))
        return eyes[0], eyes[1]


class GazeHead(nn.Module):
    """Mean of a left and a right branch -> (yaw, pitch) in radians, [B,2].

    With bins: expectation of the softmax over bin centres, per axis. With `head_frame`: a direction in the head's
    frame, rotated by the head's pose. Without either and without a hidden layer: four scalar layers.
    """

    def __init__(
        self, width: int, hidden: int, bins: int, bin_range_rad: tuple[float, float], head_frame: bool
    ) -> None:
        super().__init__()
        self.bins, self.head_frame = bins, head_frame
        out = 3 if head_frame else 2 * bins if bins else 2
        self.scalar = not (hidden or head_frame or bins)
        if self.scalar:
            self.left_yaw, self.left_pitch = nn.Linear(width, 1), nn.Linear(width, 1)
            self.right_yaw, self.right_pitch = nn.Linear(width, 1), nn.Linear(width, 1)
        else:
            for side in ("left", "right"):
                branch: nn.Module = nn.Linear(width, out)
                if hidden:
                    branch = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out))
                setattr(self, side, branch)
        if bins:
            low, high = (math.degrees(v) for v in bin_range_rad)
            edges = torch.linspace(low, high, bins + 1)
            self.centres: Tensor
            self.register_buffer("centres", torch.deg2rad(0.5 * (edges[:-1] + edges[1:])), persistent=False)

    def forward(
        self,
        unified: Tensor,
        eyes: tuple[Tensor, Tensor] | None,
        head: tuple[Tensor, ...] | None,
        pose_6d: bool,
    ) -> Tensor:
        extra = []
        if pose_6d:
            assert head is not None
            extra = [head[0], head[1], head[3], head[4], head[6], head[7]]  # R[:, :2], row by row
        left, right = (torch.cat([unified, *([] if eyes is None else [eyes[side]]), *extra], dim=-1) for side in (0, 1))
        if self.scalar:
            yaw = 0.5 * (self.left_yaw(left) + self.right_yaw(right))
            return torch.cat([yaw, 0.5 * (self.left_pitch(left) + self.right_pitch(right))], dim=-1)
        out: Tensor = 0.5 * (self.get_submodule("left")(left) + self.get_submodule("right")(right))
        if self.bins:
            return (F.softmax(out.view(-1, 2, self.bins), dim=-1) * self.centres).sum(dim=-1)
        if not self.head_frame:
            return out
        assert head is not None
        return self._in_camera_frame(out, head)

    @staticmethod
    def _in_camera_frame(direction: Tensor, head: tuple[Tensor, ...]) -> Tensor:
        v = direction / direction.square().sum(dim=-1, keepdim=True).sqrt().clamp_min(1e-8)
        x, y, z = v[:, 0:1], v[:, 1:2], v[:, 2:3]
        rotated = [head[3 * i] * x + head[3 * i + 1] * y + head[3 * i + 2] * z for i in range(3)]
        length = (rotated[0] ** 2 + rotated[1] ** 2 + rotated[2] ** 2).sqrt().clamp_min(1e-8)
        gx, gy, gz = (r / length for r in rotated)
        pitch = torch.asin(gy.clamp(-1.0 + 1e-7, 1.0 - 1e-7))
        return torch.cat([torch.atan2(gx, -gz), pitch], dim=-1)

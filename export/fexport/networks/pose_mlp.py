"""Pose-MLP: six numbers of head pose from 68 landmarks.

Mirrors `feat/utils/face_pose_mlp.py`. Version 2 has LayerNorm and GELU after each hidden layer, version 1 a ReLU;
which one a checkpoint is shows in its keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PoseMLP(nn.Module):
    """landmarks_xy [N,68,2] in pixels -> pose [N,6]: raw Pitch, Roll, Yaw (rad), X, Y, Z.

    The landmarks are centred on their mean and divided by the distance of the outer eye corners (points 36 and 45,
    at least 1e-6), all x before all y. The z-score of the training set is undone: raw = z * std + mean.
    """

    def __init__(self, hidden: Sequence[int], layer_norm: bool, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 136
        for size in hidden:
            layers.append(nn.Linear(width, size))
            layers += [nn.LayerNorm(size), nn.GELU()] if layer_norm else [nn.ReLU()]
            layers.append(nn.Dropout())
            width = size
        layers.append(nn.Linear(width, 6))
        self.net = nn.Sequential(*layers)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32), persistent=False)

    def forward(self, landmarks_xy: Tensor) -> Tensor:
        centred = landmarks_xy - landmarks_xy.mean(dim=1, keepdim=True)
        eyes = landmarks_xy[:, 36] - landmarks_xy[:, 45]
        distance = eyes.square().sum(dim=1, keepdim=True).sqrt().clamp_min(1e-6)
        features = centred.transpose(1, 2).reshape(-1, 136) / distance
        z: Tensor = self.net(features)
        return z * self.std + self.mean

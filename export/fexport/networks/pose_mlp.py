"""Pose-MLP: six numbers of head pose from 68 landmarks.

Mirrors `feat/utils/face_pose_mlp.py`. Version 2 has LayerNorm and GELU after each hidden layer, version 1 a ReLU;
which one a checkpoint is shows in its keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fexport.checkpoints import Checkpoint
from fexport.recipe import Recipe, StandIn
from fexruntime.contracts import Crop, Network
from fexruntime.contracts.labels import LANDMARKS, OUTER_EYE_CORNERS, POSE
from fexruntime.errors import CheckpointError


class PoseMLP(nn.Module):
    """landmarks_xy [N,68,2] in pixels -> pose [N,6]: raw Pitch, Roll, Yaw (rad), X, Y, Z.

    The landmarks are centred on their mean and divided by the distance of the outer eye corners (points 36 and 45,
    at least 1e-6), all x before all y. The z-score of the training set is undone: raw = z * std + mean.
    """

    def __init__(self, hidden: Sequence[int], layer_norm: bool, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 2 * LANDMARKS
        for size in hidden:
            layers.append(nn.Linear(width, size))
            layers += [nn.LayerNorm(size), nn.GELU()] if layer_norm else [nn.ReLU()]
            layers.append(nn.Dropout())
            width = size
        layers.append(nn.Linear(width, len(POSE)))
        self.net = nn.Sequential(*layers)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32), persistent=False)

    def forward(self, landmarks_xy: Tensor) -> Tensor:
        centred = landmarks_xy - landmarks_xy.mean(dim=1, keepdim=True)
        right, left = OUTER_EYE_CORNERS
        eyes = landmarks_xy[:, right] - landmarks_xy[:, left]
        distance = eyes.square().sum(dim=1, keepdim=True).sqrt().clamp_min(1e-6)
        features = centred.transpose(1, 2).reshape(-1, 2 * LANDMARKS) / distance
        z: Tensor = self.net(features)
        return z * self.std + self.mean


def _make(network: Network, checkpoint: Checkpoint, crop: Crop | None) -> tuple[nn.Module, Mapping[str, Any]]:
    name = network.files[1].filename
    try:
        architecture = (checkpoint.config or {})["architecture"]
        hidden = [int(v) for v in architecture["hidden"]]
        norm = architecture["output_normalization"]
        mean, std = ([float(v) for v in norm[key]] for key in ("mean", "std"))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{name} lacks what Pose-MLP needs ({error}): architecture.hidden and "
            "architecture.output_normalization.mean and .std"
        ) from None
    if len(mean) != len(POSE) or len(std) != len(POSE) or not all(math.isfinite(v) for v in (*mean, *std)):
        raise CheckpointError(f"{name}: output_normalization needs six finite means and six deviations")
    # version 1 has no LayerNorm: what follows its first layer's activation is another matrix
    first = checkpoint.tensors.get("net.1.weight")
    layer_norm = first.ndim == 1 if first is not None else not checkpoint.tensors
    shown = {"hidden": hidden, "layer_norm": layer_norm, "mean": mean, "std": std}
    return PoseMLP(hidden, layer_norm, mean, std), shown


def _arrays(module: nn.Module) -> dict[str, NDArray[Any]]:
    arrays = {key: value.numpy() for key, value in module.state_dict().items()}
    return arrays | {name: module.get_buffer(name).numpy() for name in ("mean", "std")}


RECIPE = Recipe(
    _make,
    StandIn(
        {
            "architecture": {
                "hidden": [512, 256, 128],
                "dropout": 0.15,
                "output_normalization": {
                    "mean": [0.02, -0.01, 0.03, 0.4, -0.6, 9.0],
                    "std": [0.2, 0.15, 0.35, 1.1, 0.9, 3.0],
                },
            }
        }
    ),
    arrays=_arrays,
)

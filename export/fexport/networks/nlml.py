"""NLML_HPE: an encoder of MediaPipe's mesh, and three heads, one an angle. Mirrors NLML_HPE_Model_Builder.py."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from fexport.checkpoints import Checkpoint
from fexport.recipe import Config, Recipe
from fexruntime.contracts import Crop, Network

_ENCODER = (1404, 1024, 512, 256, 128, 64, 9)
_HEAD = (3, 128, 256, 128, 64, 1)


def _layers(widths: Sequence[int], last: nn.Module) -> nn.Sequential:
    """Linear layers with ReLU between them; `last` stands between the two last ones."""
    layers: list[nn.Module] = []
    for k, (a, b) in enumerate(itertools.pairwise(widths)):
        layers.append(nn.Linear(a, b))
        if k < len(widths) - 3:
            layers.append(nn.ReLU())
        elif k == len(widths) - 3:
            layers.append(last)
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """features [N,1404] -> latent [N,9]: yaw's three, pitch's, roll's."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = _layers(_ENCODER, nn.Tanh())

    def forward(self, features: Tensor) -> Tensor:
        latent: Tensor = self.encoder(features)
        return latent


class Head(nn.Module):
    """latent [N,3] -> angle [N,1] in radians."""

    def __init__(self) -> None:
        super().__init__()
        self.model = _layers(_HEAD, nn.ReLU())

    def forward(self, latent: Tensor) -> Tensor:
        angle: Tensor = self.model(latent)
        return angle


def _encoder(network: Network, checkpoint: Checkpoint, crop: Crop | None) -> tuple[nn.Module, Config]:
    return Encoder(), None


def _head(network: Network, checkpoint: Checkpoint, crop: Crop | None) -> tuple[nn.Module, Config]:
    return Head(), None


ENCODER = Recipe(_encoder)
HEAD = Recipe(_head)

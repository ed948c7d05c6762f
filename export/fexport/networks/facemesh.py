"""MediaPipe's three FaceMesh networks: their .tflite files are their definitions, read by `tflite_reader`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn

from fexport.checkpoints import GRAPH, Checkpoint
from fexport.networks.preprocess import Preprocess
from fexport.networks.tflite_module import TfliteModule
from fexport.recipe import Config, Recipe
from fexruntime.contracts import Crop, Network
from fexruntime.errors import CheckpointError


class FromTflite(nn.Module):
    """chips [N,3,S,S] RGB in [0,1] -> the outputs of the row, in its order and shapes."""

    def __init__(self, preprocess: Preprocess, network: TfliteModule) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.network = network

    def forward(self, chips: Tensor) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = self.network(self.preprocess(chips))
        return found


def _make(
    names: Mapping[str, str], network: Network, checkpoint: Checkpoint, crop: Crop | None
) -> tuple[nn.Module, Config]:
    assert crop is not None
    graph = (checkpoint.config or {}).get(GRAPH)
    if graph is None:
        raise CheckpointError(
            f"{network.name} has no stand-in: its file is what it is made of; give a folder that has "
            f"{network.files[0].filename}, or the mediapipe 0.10.21 wheel, with --weights"
        )
    shapes = {names[t.name]: tuple(int(n) for n in t.shape[1:]) for t in network.outputs}
    return FromTflite(Preprocess(network, crop), TfliteModule(graph, shapes)), None


def _recipe(**names: str) -> Recipe:
    """By output of the row: its name in the file."""
    return Recipe(partial(_make, names))


BLAZEFACE = _recipe(regressors="regressors", classificators="classificators")
FACEMESH = _recipe(mesh="conv2d_21", presence="conv2d_31")
FACEMESH_ATTENTION = _recipe(
    mesh="output_mesh_identity",
    lips="output_lips",
    left_eye="output_left_eye",
    right_eye="output_right_eye",
    left_iris="output_left_iris",
    right_iris="output_right_iris",
    presence="conv_faceflag",
)

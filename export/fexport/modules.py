"""Contract row + checkpoint -> the torch module that is exported, and the reference it is compared with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fexport import checkpoints, standin
from fexport.checkpoints import Checkpoint
from fexport.networks.arcface import ArcFace
from fexport.networks.facenet import FaceNet
from fexport.networks.mobilefacenet import MobileFaceNet
from fexport.networks.multitask import Multitask, MultitaskConfig
from fexport.networks.pose_mlp import PoseMLP
from fexport.networks.retinaface import RetinaFace
from fexruntime.contracts import Network
from fexruntime.errors import CheckpointError

STAND_IN_FACE_BIAS = 7.6
"""Lowers the stand-in detector's face logit, so that a handful of anchors pass 0.5 instead of half of them."""


class Loaded:
    """A module with its weights, the flags that shaped it, and where the weights came from."""

    def __init__(self, module: nn.Module, config: dict[str, Any] | None, records: list[dict[str, Any]]) -> None:
        self.module = module.eval().requires_grad_(False)
        self.config = config
        self.records = records


def load(network: Network, weights: Path | None, chip_size: int, stand_in_seed: int | None = None) -> Loaded:
    """Build a network and load its weights.

    `chip_size` is the side of the chips that an identity network is given. With `stand_in_seed`, weights that are not
    there are made up, and recorded as such; without, CheckpointError says where to get them.
    """
    if stand_in_seed is not None and not checkpoints.at_hand(network, weights):
        return _with_stand_ins(network, chip_size, stand_in_seed)
    files = checkpoints.locate(network, weights)
    checkpoint = checkpoints.read(network, files)
    module, config = _build(network, checkpoint, chip_size)
    checkpoints.load_strictly(module, checkpoint, network)
    if isinstance(module, RetinaFace) and network.weights_colour_order == "BGR":
        module.read_rgb()
    return Loaded(module, config, checkpoint.records)


def _with_stand_ins(network: Network, chip_size: int, seed: int) -> Loaded:
    config: dict[str, Any] | None = None
    if network.name in standin.MULTITASK_FLAGS:
        config = standin.MULTITASK_CONFIG | standin.MULTITASK_FLAGS[network.name]
    elif network.name == "pose-mlp":
        config = {"architecture": standin.POSE_MLP_ARCHITECTURE}
    module, shown = _build(network, Checkpoint({"net.1.weight": torch.zeros(1)}, config), chip_size)
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    tensors = {key: torch.from_numpy(value) for key, value in standin.tensors(shapes, seed).items()}
    for key in tensors:
        if key.startswith("ClassHead") and key.endswith("bias"):
            tensors[key][0::2] += STAND_IN_FACE_BIAS  # even channels are background
    records = [
        {
            "filename": file.filename,
            "source": "stand-in",
            "repository": file.repository,
            "revision": None,
            "sha256": None,
            "bytes": None,
            "published": False,
            "seed": seed,
        }
        for file in network.files
    ]
    module.load_state_dict(tensors)
    return Loaded(module, shown, records)


def _build(network: Network, checkpoint: Checkpoint, chip_size: int) -> tuple[nn.Module, dict[str, Any] | None]:
    name = network.name
    if name == "retinaface-r34":
        return RetinaFace("resnet34"), None
    if name == "retinaface-mobilenet025":
        return RetinaFace("mobilenet025"), None
    if name == "mobilefacenet":
        return MobileFaceNet(), None
    if name == "arcface":
        return ArcFace(chip_size), None
    if name == "facenet":
        return FaceNet(chip_size), None
    if name == "pose-mlp":
        return _pose_mlp(checkpoint)
    return _multitask(network, checkpoint)


def _pose_mlp(checkpoint: Checkpoint) -> tuple[nn.Module, dict[str, Any]]:
    try:
        architecture = (checkpoint.config or {})["architecture"]
        hidden = [int(v) for v in architecture["hidden"]]
        norm = architecture["output_normalization"]
        mean, std = ([float(v) for v in norm[key]] for key in ("mean", "std"))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"pose_mlp_v2.json lacks what Pose-MLP needs ({error}): architecture.hidden and "
            "architecture.output_normalization.mean and .std"
        ) from None
    if len(mean) != 6 or len(std) != 6 or not all(math.isfinite(v) for v in (*mean, *std)):
        raise CheckpointError("pose_mlp_v2.json: output_normalization needs six finite means and six deviations")
    # version 1 has no LayerNorm: what follows its first layer's activation is another matrix
    first = checkpoint.tensors.get("net.1.weight")
    layer_norm = first is not None and first.ndim == 1
    shown = {"hidden": hidden, "layer_norm": layer_norm, "mean": mean, "std": std}
    return PoseMLP(hidden, layer_norm, mean, std), shown


def _multitask(network: Network, checkpoint: Checkpoint) -> tuple[nn.Module, dict[str, Any]]:
    if checkpoint.config is None:
        raise CheckpointError(
            f"{network.files[0].filename} has no configuration in its metadata: it is not a published checkpoint"
        )
    refused = [flag for flag in network.refused_flags if checkpoint.config.get(flag)]
    if refused:
        raise CheckpointError(
            f"{network.files[0].filename} is a checkpoint of a later version (it sets {', '.join(refused)}): "
            "build it with --contract pyfeat-2.1, whose signs it was published for"
        )
    config = dict(network.default_flags) | checkpoint.config | dict(network.forced_flags)
    return Multitask(MultitaskConfig.from_metadata(config)), config


def example(value: Any) -> torch.Tensor:
    """An input for the exporter's trace: at least two items, so that the batch axis is not taken for a constant."""
    tensor = torch.from_numpy(value)
    return tensor if len(tensor) > 1 else torch.cat([tensor, tensor])


def numpy_arrays(network: Network, module: nn.Module) -> dict[str, Any] | None:
    """Weights for the NumPy backend, of a network that has one; None for the others."""
    if not isinstance(module, PoseMLP):
        return None
    arrays = {key: value.numpy() for key, value in module.state_dict().items()}
    return arrays | {"mean": module.mean.numpy(), "std": module.std.numpy()}

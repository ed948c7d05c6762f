"""The recipes of the multitask network: which flags a checkpoint may have, where its AU graph ties, its stand-ins."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from fexport.checkpoints import Checkpoint
from fexport.networks.multitask import IMAGE_SIZE, Multitask, MultitaskConfig, unit
from fexport.networks.preprocess import Preprocess
from fexport.recipe import Config, Recipe, StandIn
from fexruntime.contracts import Crop, Network
from fexruntime.contracts.labels import AUS, BLENDSHAPES, EMOTIONS_V2, MESH_POINTS
from fexruntime.errors import CheckpointError

PUBLISHED_FLAGS: dict[str, Any] = {
    "backbone": "convnextv2_tiny.fcmae_ft_in22k_in1k",
    "image_size": IMAGE_SIZE,
    "n_au": len(AUS),
    "n_mesh": MESH_POINTS,
    "n_emotion": len(EMOTIONS_V2),
    "n_blendshape": len(BLENDSHAPES),
    "mesh_normalized": True,
    "bs_use_mesh": True,
    "knn_k": 4,
    "drop_mefl": True,
    "use_head_v3": True,
}
"""Flags that the published checkpoints share."""
_V2_FLAGS = {"emotion_use_au_prob": True}
_V28_FLAGS = {"gaze_eye_roi": True, "gaze_pose_6d": True, "gaze_bins": 180}
_MESH_OUT = r"^lmk\.mlp\.4\."


def _make(network: Network, checkpoint: Checkpoint, crop: Crop | None) -> tuple[nn.Module, Mapping[str, Any]]:
    name = checkpoint.records[0].filename if checkpoint.records else network.files[0].filename
    if checkpoint.config is None:
        raise CheckpointError(f"{name} has no configuration in its metadata: it is not a published checkpoint")
    refused = [flag for flag in network.refused_flags if checkpoint.config.get(flag)]
    if refused:
        raise CheckpointError(
            f"{name} is a checkpoint of a later version (it sets {', '.join(refused)}): "
            "build it with --contract pyfeat-2.1, whose signs it was published for"
        )
    config = dict(network.default_flags) | checkpoint.config | dict(network.forced_flags)
    size = network.resize.size if network.resize else None
    if config.get("image_size", size) != size:
        raise CheckpointError(f"{name} reads images of {config['image_size']} pixels, {network.name} of {size}")
    assert crop is not None
    return Multitask(MultitaskConfig.from_metadata(config), Preprocess(network, crop)), config


def _lacking(config: Config) -> frozenset[str]:
    return frozenset() if config and config.get("n_blendshape") else frozenset({"blendshapes"})


@contextlib.contextmanager
def _watch_neighbours(module: nn.Module, margins: list[torch.Tensor]) -> Iterator[None]:
    """Each AU's neighbours are a hard top-k: how near the last chosen and the first not chosen are, per face."""
    assert isinstance(module, Multitask)
    k = module.config.knn_k

    def note(fgg: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        margins.append(neighbour_margin(inputs[0], k))

    handle = module.fgg.register_forward_pre_hook(note)
    try:
        yield
    finally:
        handle.remove()


def neighbour_margin(v: torch.Tensor, k: int) -> torch.Tensor:
    """Least gap, per face, between the last cosine that makes an AU's top k+1 and the first that does not."""
    v_unit = unit(v)
    ranked = v_unit.matmul(v_unit.transpose(1, 2)).sort(dim=-1, descending=True).values
    return (ranked[..., k] - ranked[..., k + 1]).amin(dim=-1)


def _tied_outputs(module: nn.Module) -> tuple[str, ...]:
    assert isinstance(module, Multitask)
    return ("au", "emotion", "valence_arousal") if module.config.emotion_use_au_prob else ("au",)


def _recipe(flags: Mapping[str, Any]) -> Recipe:
    stand_in = StandIn(
        PUBLISHED_FLAGS | dict(flags),
        # fractions of the chip: keep most of the mesh inside it
        gains=((_MESH_OUT + "weight$", 0.05),),
        biases=((_MESH_OUT + "bias$", (0.1, 0.9)),),
    )
    return Recipe(_make, stand_in, lacking=_lacking, watch_ties=_watch_neighbours, tied_outputs=_tied_outputs)


RECIPE_V2, RECIPE_V28 = _recipe(_V2_FLAGS), _recipe(_V28_FLAGS)

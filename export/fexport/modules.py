"""Contract row + recipe + checkpoint -> the torch module that is exported, and the reference it is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fexport import checkpoints
from fexport.checkpoints import Checkpoint
from fexport.networks import RECIPES
from fexport.recipe import Recipe
from fexruntime.contracts import Crop, Network
from fexruntime.errors import InputError
from fexruntime.manifest import WeightsRecord


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A module with its weights, its recipe, the flags that shaped it, and where the weights came from."""

    network: Network
    recipe: Recipe
    module: nn.Module
    config: Mapping[str, Any] | None
    records: tuple[WeightsRecord, ...]
    notes: tuple[str, ...] = ()
    """What a user should hear of the weights."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the row's outputs, less those that this checkpoint has no head for."""
        lacking = self.recipe.lacking(self.config) & set(self.network.optional_outputs)
        return tuple(t.name for t in self.network.outputs if t.name not in lacking)


def recipe_of(network: Network) -> Recipe:
    """The recipe of a network; InputError if nobody wrote one."""
    try:
        return RECIPES[network.name]
    except KeyError:
        raise InputError(f"{network.name} has no recipe: add it to fexport.networks.RECIPES") from None


def load(network: Network, crop: Crop | None, folders: Sequence[Path] = (), stand_in_seed: int | None = None) -> Loaded:
    """Build a network that reads `crop` and load its weights.

    With `stand_in_seed`, weights that are not in the package or in `folders` are made up, and recorded as such; without,
    CheckpointError says where to get them.
    """
    recipe = recipe_of(network)
    if stand_in_seed is not None and not checkpoints.at_hand(network, folders):
        return _with_stand_ins(network, recipe, crop, stand_in_seed)
    checkpoint = checkpoints.read(network, checkpoints.locate(network, folders))
    module, config = recipe.make(network, checkpoint, crop)
    checkpoints.load_strictly(module, checkpoint, network)
    if recipe.after_load is not None:
        recipe.after_load(module, network)
    return Loaded(network, recipe, _ready(module), config, tuple(checkpoint.records), tuple(checkpoint.notes))


def _with_stand_ins(network: Network, recipe: Recipe, crop: Crop | None, seed: int) -> Loaded:
    config = None if recipe.stand_in.config is None else dict(recipe.stand_in.config)
    whole = recipe.stand_in.checkpoint
    checkpoint = Checkpoint({}, config) if whole is None else whole(seed)
    module, shown = recipe.make(network, checkpoint, crop)
    if whole is None:
        shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
        made = recipe.stand_in.tensors(shapes, seed)
        module.load_state_dict({key: torch.from_numpy(value) for key, value in made.items()})
    else:
        checkpoints.load_strictly(module, checkpoint, network)
        if recipe.after_load is not None:
            recipe.after_load(module, network)
    records = [
        WeightsRecord(f.filename, "stand-in", f.repository, None, None, None, published=False, seed=seed)
        for f in network.files
    ]
    return Loaded(network, recipe, _ready(module), shown, tuple(records))


def _ready(module: nn.Module) -> nn.Module:
    return module.eval().requires_grad_(False)

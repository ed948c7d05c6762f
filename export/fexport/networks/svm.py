"""Action units and emotions by linear support vector machines on HOG features.

Mirrors `feat/au_detectors/StatLearning/SL_test.py: SVMClassifier` and `feat/emo_detectors/StatLearning/EmoSL_test.py`, with
scikit-learn's LinearSVC below them. Maths: Fan et al., "LIBLINEAR: A Library for Large Linear Classification", 2008.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fexport.checkpoints import Checkpoint
from fexport.networks.hog_features import POINTS, HogFeatures, random_state, stand_in_features
from fexport.networks.xgb_au import UNITS
from fexport.recipe import Recipe, StandIn
from fexruntime.contracts import Crop, Network
from fexruntime.errors import CheckpointError

AU_REGIONS = {
    f"AU{unit}": "upper" if unit in (1, 4, 6) else "lower" if unit in (11, 12, 17) else "full" for unit in UNITS
}
"""Machines in the order of their columns, and the part of the face that each looks at."""
EMOTION_REGIONS = dict.fromkeys(("anger", "disgust", "fear", "happ", "sad", "sur", "neutral"), "full")


class LinearMachines(HogFeatures):
    """hog [N,5408], points [N,68,2] -> labels [N,K] of K machines."""

    def __init__(self, checkpoint: Checkpoint, region_of: Mapping[str, str]) -> None:
        super().__init__(checkpoint, tuple(dict.fromkeys(region_of.values())))
        self.region_of = dict(region_of)
        self.classifiers = nn.Module()
        for name, region in region_of.items():
            machine = nn.Module()
            width = self.width_of(checkpoint, region) + POINTS
            machine.register_buffer("coef_", torch.zeros((1, width), dtype=torch.float64))
            machine.register_buffer("intercept_", torch.zeros(1, dtype=torch.float64))
            machine.register_buffer("classes_", torch.zeros(2, dtype=torch.int64))
            self.classifiers.add_module(name, machine)
        self.watching: list[Tensor] | None = None

    def forward(self, hog: Tensor, points: Tensor) -> Tensor:
        features = {region: self.features(region, hog, points) for region in self.regions}
        decisions = np.stack(
            [
                (features[region] @ self.array(f"classifiers.{name}.coef_").T)[:, 0]
                + self.array(f"classifiers.{name}.intercept_")
                for name, region in self.region_of.items()
            ],
            axis=1,
        )
        if self.watching is not None:
            self.watching.append(torch.from_numpy(np.abs(decisions).min(axis=1)))
        classes = self.classes()
        return torch.from_numpy(np.where(decisions > 0, classes[:, 1], classes[:, 0]).astype(np.float32))

    def classes(self) -> NDArray[np.int64]:
        """What each machine answers below and above its plane, [K,2]."""
        return np.stack([self.get_buffer(f"classifiers.{name}.classes_").numpy() for name in self.region_of])


def _arrays(module: nn.Module) -> dict[str, NDArray[Any]]:
    """By region one product, of components and weights; the points' weights beside it."""
    assert isinstance(module, LinearMachines)
    names = list(module.region_of)
    weights = {name: module.array(f"classifiers.{name}.coef_")[0] for name in names}
    arrays: dict[str, NDArray[Any]] = {
        "points": np.stack([weights[name][-POINTS:] for name in names], axis=1),
        "offset": np.concatenate([module.array(f"classifiers.{name}.intercept_") for name in names]),
        "classes": module.classes(),
    }
    for region in module.regions:
        machines = [k for k, name in enumerate(names) if module.region_of[name] == region]
        arrays |= module.folded(region, np.stack([weights[names[k]][:-POINTS] for k in machines]))
        arrays[f"{region}.machines"] = np.array(machines)
    return arrays


@contextlib.contextmanager
def _watch_planes(module: nn.Module, margins: list[Tensor]) -> Iterator[None]:
    assert isinstance(module, LinearMachines)
    module.watching = margins
    try:
        yield
    finally:
        module.watching = None


def _check(module: nn.Module, network: Network) -> None:
    assert isinstance(module, LinearMachines)
    for name, (low, high) in zip(module.region_of, module.classes().tolist(), strict=True):
        if low >= high:
            raise CheckpointError(f"{network.name}'s machine {name} has classes {low} and {high}, not two in order")


def _recipe(output: str, region_of: Mapping[str, str]) -> Recipe:
    regions = tuple(dict.fromkeys(region_of.values()))

    def make(network: Network, checkpoint: Checkpoint, crop: Crop | None) -> tuple[nn.Module, Mapping[str, Any]]:
        shown = {"components": {r: HogFeatures.width_of(checkpoint, r) for r in regions}}
        return LinearMachines(checkpoint, region_of), shown

    def stand_in(seed: int) -> Checkpoint:
        widths = {r: {"upper": 20, "lower": 24, "full": 32}[r] for r in regions}
        tensors = stand_in_features(seed, widths)
        for name, region in region_of.items():
            rng = random_state(seed, "machine", name)
            coefficients = np.concatenate([rng.standard_normal(widths[region]), 0.02 * rng.standard_normal(POINTS)])
            middle = -56 * coefficients[-POINTS:].sum() + 0.2 * rng.standard_normal()
            tensors[f"classifiers.{name}.coef_"] = torch.from_numpy(coefficients[None])
            tensors[f"classifiers.{name}.intercept_"] = torch.tensor([middle], dtype=torch.float64)
            tensors[f"classifiers.{name}.classes_"] = torch.tensor([0, 1])
        return Checkpoint(tensors, {f"pca_model_{r}.whiten": False for r in regions})

    return Recipe(
        make,
        StandIn(checkpoint=stand_in),
        after_load=_check,
        watch_ties=_watch_planes,
        tied_outputs=lambda module: (output,),
        arrays=_arrays,
        graph=False,
    )


RECIPE_AU = _recipe("au", AU_REGIONS)
RECIPE_EMOTION = _recipe("emotion", EMOTION_REGIONS)

"""What the build must know of a network beyond its contract row: how weights become it, what ties, what a stand-in is.

Each file of `networks/` has the recipe of its network; `networks.RECIPES` lists them. Nothing outside asks which network
it has before it.
"""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fexport.checkpoints import Checkpoint
from fexruntime.arrays import F32
from fexruntime.contracts import Crop, Network

Config = Mapping[str, Any] | None
_RESIDUAL_ENDS = re.compile(r"(bn2|conv2|project\.conv|mlp\.fc2)\.weight$")


@dataclass(frozen=True, slots=True)
class StandIn:
    """Weights for machines that cannot have the real ones: every tensor a pure function of (seed, key, shape).

    They exercise each tensor (a default initialisation leaves GRN and batch norms trivial) and keep activations in
    range. What a network with stand-in weights answers has no meaning; it tests arithmetic and plumbing. RandomState's
    stream is frozen by NumPy's compatibility policy, so the values are the same everywhere.
    """

    config: Config = None
    """The configuration that the checkpoint would carry."""
    gains: tuple[tuple[str, float], ...] = ()
    """(pattern of keys, gain of the weights), where the usual ones do not keep activations in range."""
    variances: tuple[tuple[str, float], ...] = ()
    """(pattern, factor of running variances), for a batch norm whose input is not of unit scale."""
    biases: tuple[tuple[str, tuple[float, float]], ...] = ()
    """(pattern, range of biases), where they have to lie in one."""
    adjust: Callable[[dict[str, NDArray[Any]]], None] | None = None
    """Changes the made tensors in place."""
    inside: str | None = None
    """The key under which py-feat looks for the tensors in a file of torch's; None: they are all of it."""
    checkpoint: Callable[[int], Checkpoint] | None = None
    """From the seed, all of it, for a network whose shapes come from its file; the other rules are not asked then."""

    def tensors(self, shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, NDArray[Any]]:
        """Values for a state dict of these keys and shapes."""
        made = {key: self._tensor(key, shape, seed) for key, shape in shapes.items()}
        if self.adjust is not None:
            self.adjust(made)
        return made

    def _tensor(self, key: str, shape: tuple[int, ...], seed: int) -> NDArray[Any]:
        """Batch-norm statistics round 1, biases small, weights scaled by their fan-in."""
        rng = np.random.RandomState(zlib.crc32(f"{seed}:{key}".encode()) & 0x7FFFFFFF)
        leaf = key.rpartition(".")[2]
        if leaf == "num_batches_tracked":
            return np.zeros(shape, np.int64)
        if leaf == "running_var":
            factor: float = _first(self.variances, key, 1.0)
            return np.asarray(factor * rng.uniform(0.6, 1.4, shape), np.float32)
        if leaf == "running_mean":
            return np.asarray(0.05 * rng.standard_normal(shape), np.float32)
        span: tuple[float, float] | None = _first(self.biases, key, None)
        if span is not None:
            return np.asarray(rng.uniform(span[0], span[1], shape), np.float32)
        if leaf == "bias" or not shape:
            return np.asarray(0.05 * rng.standard_normal(shape), np.float32)
        if len(shape) == 1:
            low, high = (0.1, 0.3) if "prelu" in key else (0.7, 1.1)
            return np.asarray(rng.uniform(low, high, shape), np.float32)
        # the last layer of a residual branch is kept small so that the trunk's scale stays flat
        gain = _first(self.gains, key, 0.4 if _RESIDUAL_ENDS.search(key) else 1.4)
        return np.asarray(gain / np.sqrt(int(np.prod(shape[1:]))) * rng.standard_normal(shape), np.float32)


def _first(rules: tuple[tuple[str, Any], ...], key: str, otherwise: Any) -> Any:
    return next((value for pattern, value in rules if re.search(pattern, key)), otherwise)


@contextlib.contextmanager
def _watch_nothing(module: nn.Module, margins: list[torch.Tensor]) -> Any:
    yield


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one network is built, compared and made up."""

    make: Callable[[Network, Checkpoint, Crop | None], tuple[nn.Module, Config]]
    """(row, checkpoint, the crop it reads) -> (the module, without weights; the flags that shaped it, for the manifest).

    A stand-in's checkpoint has a configuration and no tensors."""
    stand_in: StandIn = StandIn()
    after_load: Callable[[nn.Module, Network], None] | None = None
    """Changes the module once it has its weights."""
    lacking: Callable[[Config], frozenset[str]] = lambda config: frozenset()
    """Outputs of the row that a checkpoint with these flags has no head for."""
    watch_ties: Callable[[nn.Module, list[torch.Tensor]], AbstractContextManager[Any]] = _watch_nothing
    """While the context is open, a run of the module appends how far each of its inputs was from a tie, [N]."""
    tied_outputs: Callable[[nn.Module], tuple[str, ...]] = lambda module: ()
    """Outputs that jump at a tie."""
    of_frames: Callable[[nn.Module, tuple[F32, ...]], tuple[F32, ...]] | None = None
    """Of a network that reads what a finder's other networks gave: its inputs for such frames (see `plan.Part`)."""
    arrays: Callable[[nn.Module], dict[str, NDArray[Any]]] | None = None
    """The weights for `fexruntime.backends.arrays`, of a network that has a function there."""
    graph: bool = True
    """Whether it is exported; else its arrays are its only artefact, and `make`'s module is what they are held to."""

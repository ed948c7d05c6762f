"""`fexport verify` with torch at hand: a bundle's networks compared again, with the weights they were made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from fexport import modules, verify
from fexport.checkpoints import PACKAGED
from fexport.modules import Loaded
from fexport.steps import compare_artefacts
from fexruntime.bundle import BundleNetwork
from fexruntime.errors import CheckpointError, VerificationError
from fexruntime.files import file_sha256
from fexruntime.manifest import WeightsRecord


def repeat_verification(
    network: BundleNetwork, weights: Sequence[Path] = (), threads: int | None = None
) -> dict[str, verify.Report]:
    """Verify the artefacts of a bundle's network against torch again, each on the backends that it was verified on. `threads` bounds both sides (None: all cores).

    Raises EnvironmentMissingError if such a backend is not installed here, CheckpointError if the weights are not to be had, VerificationError if they are other ones.
    """
    loaded = load_again(network, weights)
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        return compare_artefacts(network, loaded, threads)
    finally:
        torch.set_num_threads(before)


def load_again(network: BundleNetwork, weights: Sequence[Path] = ()) -> Loaded:
    """A bundle's network with the weights that it was built from, in torch.

    Raises CheckpointError if they are not to be had, VerificationError if these are other ones.
    """
    recorded = network.record.weights
    if not weights and all(_is_packaged(w) for w in recorded):
        weights = [PACKAGED]  # whatever folder they were read from
    if not weights and any(w.source == "folder" for w in recorded):
        raise CheckpointError(f"{network.row.name} was built from a folder of weights: give it with --weights DIR")
    seed = next((w.seed for w in recorded if w.source == "stand-in"), None)
    # the hub's files of the commit that the bundle was made from, wherever the hub is now
    files = zip(network.row.files, recorded, strict=True)
    row = replace(network.row, files=tuple(replace(f, revision=w.revision or f.revision) for f, w in files))
    loaded = modules.load(row, network.choice.crop, weights, seed)
    if [r.sha256 for r in loaded.records] != [w.sha256 for w in recorded]:
        raise VerificationError(f"the weights of {network.row.name} are not those that the bundle was built from")
    return loaded


def _is_packaged(weights: WeightsRecord) -> bool:
    path = PACKAGED / weights.filename
    return path.is_file() and file_sha256(path) == weights.sha256

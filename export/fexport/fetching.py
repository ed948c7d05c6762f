"""Folders of weights for `--weights`: real files copied from the hub, or made-up ones in the published layouts."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors.torch import save

from fexport import finding, modules
from fexport.finding import Lacking
from fexport.plan import Plan
from fexport.recipe import StandIn
from fexruntime.contracts import Network, WeightsFile
from fexruntime.errors import OutputError
from fexruntime.files import check_folder, replacing

_SHARED = ("config.json", "model.safetensors")
"""Names that several repositories have: such a file goes into a sub-folder called as its repository."""


def fetch(networks: Iterable[Network], folder: Path, say: Callable[[str], None]) -> tuple[list[Path], list[Lacking]]:
    """Copy the files of networks into a folder; (those that are in it now, those that cannot be had).

    A file that comes with the package is not copied: builds find it. One that is in the folder is kept as it is.
    """
    todo = [n for n in networks if not all(row.packaged for row in n.files)]
    there, _ = finding.look(todo, [folder]) if folder.is_dir() else ({n.name: [] for n in todo}, [])
    kept = [located.path for files in there.values() for located in files if located.source == "folder"]
    missing = [n for n in todo if len(there[n.name]) < len(n.files)]
    found, lacking = finding.look(missing, ())
    for files in found.values():
        for located in files:
            if located.source != "hub":
                continue
            data, _ = located.read()
            target = _target(folder, located.row)
            if target not in kept:
                _write(target, data)
                kept.append(target)
                say(f"{target.name}: {located.row.repository} @ {(located.revision or 'unknown')[:12]}")
    return kept, lacking


def write_stand_ins(plan: Plan, folder: Path) -> tuple[list[Path], list[str]]:
    """Write the made-up weights of a plan; (the files, why others are not written).

    OutputError if one of the files is there already.
    """
    todo = [(part.network, part.choice.crop) for part in plan.parts.values() if part.network is not None]
    todo = [(n, crop) for n, crop in todo if not all(row.packaged for row in n.files)]
    for row in (row for n, _ in todo for row in n.files):
        if _target(folder, row).exists():
            raise OutputError(f"{str(_target(folder, row))!r} is there already: give a new folder")
    written, left_out = [], []
    for network, crop in todo:
        if any(row.filename.endswith(".skops") for row in network.files):
            left_out.append(
                f"{network.name}: a .skops file of py-feat's classes cannot be made here; build it with --stand-in"
            )
            continue
        if any(row in other.files for other, _ in todo if other is not network for row in network.files):
            left_out.append(f"{network.name}: its file is several networks'; build it with --stand-in")
            continue
        recipe = modules.recipe_of(network)
        loaded = modules.load(network, crop, (), plan.stand_in_seed)
        tensors = {k: v.contiguous() for k, v in loaded.module.state_dict().items()}
        for row in network.files:
            target = _target(folder, row)
            _write(target, _encoded(row.filename, tensors, recipe.stand_in))
            written.append(target)
    return written, left_out


def _target(folder: Path, row: WeightsFile) -> Path:
    return folder / row.own_folder / row.filename if row.filename in _SHARED else folder / row.filename


def _encoded(name: str, tensors: dict[str, torch.Tensor], stand_in: StandIn) -> bytes:
    config = stand_in.config
    if name.endswith(".json"):
        return (json.dumps(config, indent=1) + "\n").encode()
    if name.endswith(".safetensors"):
        return save(tensors, None if config is None else {"config": json.dumps(config)})
    buffer = io.BytesIO()
    inside = stand_in.inside or ("state_dict" if name.endswith(".tar") else None)
    torch.save(tensors if inside is None else {inside: tensors}, buffer)
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> None:
    check_folder(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(data)

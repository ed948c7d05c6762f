"""Weights: where they come from, and whether they are what the contract says.

A file is taken from the package, from a `--weights` folder, or from the hub; read without running any code; and its keys and
shapes are held strictly against the network's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fexruntime.contracts import Network, WeightsFile
from fexruntime.digest import file_sha256
from fexruntime.errors import CheckpointError

PACKAGED = Path(__file__).parent / "weights"


@dataclass(frozen=True, slots=True)
class Located:
    """A weights file on disk: `source` is "package", "folder" or "hub"; `revision` the hub's commit."""

    path: Path
    row: WeightsFile
    source: str
    revision: str | None = None

    def record(self) -> dict[str, Any]:
        """What the manifest says of it."""
        return {
            "filename": self.path.name,
            "source": self.source,
            "repository": self.row.repository,
            "revision": self.revision,
            "sha256": file_sha256(self.path),
            "bytes": self.path.stat().st_size,
            "published": self.row.sha256 is not None and self.row.sha256 == file_sha256(self.path),
        }


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Tensors of a network and its configuration, with the records of the files they came from."""

    tensors: dict[str, torch.Tensor]
    config: dict[str, Any] | None
    records: list[dict[str, Any]] = field(default_factory=list)


def at_hand(network: Network, weights: Path | None) -> bool:
    """Whether all files of a network are in the package or the folder, without asking the hub."""
    return all(
        row.packaged or (weights is not None and any((weights / name).is_file() for name in row.names))
        for row in network.files
    )


def locate(network: Network, weights: Path | None) -> list[Located]:
    """Find the files of a network. Raises CheckpointError naming the ones that are not there and the fix."""
    return [_locate(network, row, weights) for row in network.files]


def _locate(network: Network, row: WeightsFile, weights: Path | None) -> Located:
    if row.packaged:
        return Located(PACKAGED / row.filename, row, "package")
    if weights is None:
        return _from_hub(network, row)
    if not weights.is_dir():
        raise CheckpointError(f"--weights {str(weights)!r} is not a folder")
    for name in row.names:
        if (weights / name).is_file():
            return Located(weights / name, row, "folder")
    raise CheckpointError(
        f"{network.name} needs {row.filename}, which is not in {str(weights)!r}: put it there "
        f"(from {row.repository} on the hub)"
    )


def _from_hub(network: Network, row: WeightsFile) -> Located:
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    reason: Exception | None = None
    for name in dict.fromkeys((row.hub_filename or row.filename, row.filename)):
        try:
            path = Path(huggingface_hub.hf_hub_download(row.repository, name, revision=row.revision))
        except LocalEntryNotFoundError as error:  # no connection: another name will not be there either
            reason = error
            break
        except EntryNotFoundError as error:
            reason = error
        except Exception as error:  # the hub's client raises its own, httpx's and OSError
            reason = error
            break
        else:
            # …/snapshots/<commit>/<file>
            return Located(path, row, "hub", path.parent.name if path.parent.parent.name == "snapshots" else None)
    cause = str(reason).strip().splitlines()[0] if reason and str(reason).strip() else type(reason).__name__
    raise CheckpointError(
        f"{network.name}'s weights {row.filename} could not be had from the hub ({row.repository}: {cause}); "
        f"give a folder that has them with --weights DIR, or build with --stand-in to try the rest"
    )


def read(network: Network, files: list[Located]) -> Checkpoint:
    """Read a network's checkpoint: tensors, and configuration if the files carry one."""
    tensors: dict[str, torch.Tensor] = {}
    config: dict[str, Any] | None = None
    for located in files:
        _check_digest(located)
        if located.path.suffix == ".json":
            config = _read_json(located.path)
        else:
            tensors, found = _read_tensors(located.path)
            config = found if found is not None else config
    return Checkpoint(tensors, config, [located.record() for located in files])


def _check_digest(located: Located) -> None:
    row = located.row
    if row.sha256 is not None and located.source != "folder" and file_sha256(located.path) != row.sha256:
        raise CheckpointError(f"{located.path.name} is not the published file: its sha256 is not {row.sha256}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path.name}: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path.name} does not hold a JSON object")
    return value


def _read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any] | None]:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises pickle's, zipfile's and its own errors
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{path.name} cannot be read as tensors alone, without running code from it: {first[:200]}"
        ) from None
    config = None
    if isinstance(content, Mapping):
        config = content.get("config")
        if config is not None and not isinstance(config, Mapping):
            raise CheckpointError(f"{path.name}: its configuration is a {type(config).__name__}, not a mapping")
        for key in ("state_dict", "model"):
            if isinstance(content.get(key), Mapping):
                content = content[key]
                break
    if not isinstance(content, Mapping) or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise CheckpointError(f"{path.name} holds no state dict")
    return {str(k).removeprefix("module."): v for k, v in content.items()}, dict(config) if config else None


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any] | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path.name} is not a whole safetensors file: {error}") from None
    if "config" not in metadata:
        return tensors, None
    try:
        config = json.loads(metadata["config"])
    except ValueError as error:
        raise CheckpointError(f"{path.name}: the configuration in its metadata is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path.name}: its configuration is a {type(config).__name__}, not an object")
    return tensors, config


def load_strictly(module: torch.nn.Module, checkpoint: Checkpoint, network: Network) -> None:
    """Load tensors into a module whose keys and shapes must be theirs; CheckpointError names what differs."""
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in checkpoint.tensors.items()}
    missing = sorted(
        key for key in expected.keys() - found.keys() if not key.endswith(network.optional_keys or ("\0",))
    )
    extra = sorted(found.keys() - expected.keys())
    misshaped = [
        f"{k} {found[k]} not {expected[k]}" for k in sorted(expected.keys() & found.keys()) if expected[k] != found[k]
    ]
    problems = [
        f"{len(keys)} {kind} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
        for kind, keys in (("missing", missing), ("extra", extra), ("misshaped", misshaped))
        if keys
    ]
    names = ", ".join(r["filename"] for r in checkpoint.records)
    if problems:
        raise CheckpointError(f"{names} is not a checkpoint of {network.name}: tensors {'; '.join(problems)}")
    broken = [k for k, v in checkpoint.tensors.items() if v.is_floating_point() and not bool(torch.isfinite(v).all())]
    if broken:
        raise CheckpointError(f"{names} has values that are not finite: {', '.join(broken[:3])}")
    module.load_state_dict(checkpoint.tensors, strict=False)

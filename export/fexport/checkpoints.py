"""Weights: where they come from, and whether they are what the contract says.

A file is taken from the package, from one of the `--weights` folders, or from the hub; read once, without running any
code; and its digest, keys and shapes are held against the contract's.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fexport import tflite_reader
from fexport.skops_files import read_skops
from fexruntime.contracts import Network, WeightsFile
from fexruntime.errors import CheckpointError, one_line
from fexruntime.manifest import WeightsRecord

GRAPH = "graph"
"""Key of a .tflite file's graph in a checkpoint's configuration."""
PACKAGED = Path(__file__).parent / "weights"
_FIX = "give a folder that has them with --weights DIR, or build with --stand-in to try the rest"
_log = logging.getLogger("fexport.weights")


@dataclass(frozen=True, slots=True)
class Located:
    """A weights file on disk: `source` is "package", "folder" or "hub"; `revision` the hub's commit."""

    path: Path
    row: WeightsFile
    source: str
    revision: str | None = None
    inside: str | None = None
    """The file's name within `path`, where that is an archive (a wheel)."""

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.path.name if self.inside is None else self.inside.rpartition("/")[2]

    def read(self) -> tuple[bytes, WeightsRecord]:
        """The file's bytes, read once, and what the manifest says of them.

        CheckpointError if it came with the package or from the hub and is not the published file; a user's own file may
        be another (fine-tuned, say), which its record tells.
        """
        try:
            data = self.path.read_bytes() if self.inside is None else _unpacked(self.path, self.inside)
        except (OSError, zipfile.BadZipFile) as error:
            raise CheckpointError(
                f"cannot read {str(self.path)!r}: {getattr(error, 'strerror', None) or error}"
            ) from None
        digest = hashlib.sha256(data).hexdigest()
        published = self.row.sha256
        if published is not None and published != digest and (self.source != "folder" or self.inside is not None):
            raise CheckpointError(
                f"{self.name} from {self.row.repository} is not the published file: its sha256 is {digest}, "
                f"published is {published}"
            )
        record = WeightsRecord(
            self.name, self.source, self.row.repository, self.revision, digest, len(data), published == digest
        )
        return data, record


class NotToBeHadError(CheckpointError):
    """A weights file is nowhere: `cause` goes on from its name, `fix` is what mends it, `fix_of_several` what mends it and others alike."""

    def __init__(
        self, network: Network, row: WeightsFile, cause: str, fix: str = _FIX, fix_of_several: str | None = None
    ) -> None:
        super().__init__(f"{network.name}'s weights {row.filename} {cause}; {fix}")
        self.cause, self.fix, self.fix_of_several = cause, fix, fix_of_several or fix


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Tensors of a network and its configuration, with the records of the files they came from."""

    tensors: dict[str, torch.Tensor]
    config: dict[str, Any] | None
    records: list[WeightsRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a user should hear of the files."""


def at_hand(network: Network, folders: Sequence[Path]) -> bool:
    """Whether all files of a network are in the package or a folder, without asking the hub."""
    return all(row.packaged or _in_folders(row, folders) is not None for row in network.files)


def locate(network: Network, folders: Sequence[Path]) -> list[Located]:
    """Find the files of a network. Raises CheckpointError naming the ones that are not there and the fix."""
    return [locate_file(network, row, folders) for row in network.files]


def locate_file(network: Network, row: WeightsFile, folders: Sequence[Path]) -> Located:
    """Find one file of a network: in the folders, the package, or on the hub if no folder is given."""
    for folder in folders:
        if not is_source(folder):
            raise CheckpointError(f"--weights {str(folder)!r} is not a folder, nor a wheel (.whl)")
    found = _in_folders(row, folders)
    if found is None and row.packaged:
        return Located(PACKAGED / row.filename, row, "package")
    if found is None and not folders and row.url is not None:
        raise NotToBeHadError(network, row, f"are on no hub: download them from {row.url}")
    if found is None and not folders:
        return _from_hub(network, row)
    if found is None:
        where = " or ".join(repr(str(folder)) for folder in folders)
        fetched = f"(`fexport fetch … --to {folders[0]}` with the same options gets what is on the hub)"
        own, others = f"a sub-folder {row.own_folder}", "sub-folders called as their repositories"
        fixes = (f"put them there, or into {place} {fetched}" for place in (own, others))
        raise NotToBeHadError(network, row, f"are not in {where}", *fixes)
    return found


def _in_folders(row: WeightsFile, folders: Sequence[Path]) -> Located | None:
    """The file in the first folder that has it, under any of its names; a preferred name in that folder goes first.

    A sub-folder called as the hub's repository goes before the folder itself: names like config.json are several's.
    """
    for folder in folders:
        for candidate in (row, *row.others):
            for name in candidate.names:
                if folder.suffix == ".whl" and not folder.is_dir():
                    inside = _in_wheel(folder, name)
                    if inside is not None:
                        return Located(folder, candidate, "folder", inside=inside)
                for path in (folder / candidate.own_folder / name, folder / name):
                    if path.is_file():
                        return Located(path, candidate, "folder")
    return None


def is_source(path: Path) -> bool:
    """Whether weights can be taken from there: a folder, or a wheel."""
    return path.is_dir() or (path.suffix == ".whl" and path.is_file())


def _in_wheel(wheel: Path, name: str) -> str | None:
    """The path in a wheel of the file with this name; CheckpointError if it is no wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return next((n for n in archive.namelist() if n.rpartition("/")[2] == name), None)
    except (OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"cannot read the wheel {str(wheel)!r}: {error}") from None


def _unpacked(wheel: Path, name: str) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(name)


@lru_cache(maxsize=1)
def hub_answers() -> bool:
    """Whether the hub can be reached from here: asked once a process, with one request that is not repeated."""
    hub: Any = import_module("huggingface_hub")
    # it says each of its retries twice; set here, since its import sets it anew
    hub.logging.set_verbosity_error()
    try:
        hub.utils.get_session().head(hub.constants.ENDPOINT, timeout=hub.constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:  # of whatever HTTP library it is built on
        _log.info("the hub cannot be reached: %s", error)
        return False
    return True


def _from_hub(network: Network, row: WeightsFile) -> Located:
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    # without a connection its retries would take half a minute for each file: what it has kept is looked at alone
    cached = not hub_answers()
    reason: Exception | None = None
    for name in dict.fromkeys((row.hub_filename or row.filename, row.filename)):
        try:
            path = Path(
                huggingface_hub.hf_hub_download(row.repository, name, revision=row.revision, local_files_only=cached)
            )
        except Exception as error:  # the hub's client raises its own, its HTTP library's and OSError
            reason = error
            if type(error) is LocalEntryNotFoundError or not isinstance(error, EntryNotFoundError):
                break  # another name will not be had either
        else:
            # …/snapshots/<commit>/<file>
            return Located(path, row, "hub", path.parent.name if path.parent.parent.name == "snapshots" else None)
    assert reason is not None
    raise NotToBeHadError(network, row, f"could not be had from the hub ({_cause(reason, row, cached)})")


def _cause(error: Exception, row: WeightsFile, cached: bool) -> str:
    """Why the hub's client could not give a file, in words that say what to do; its own are of requests and their numbers."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if cached or type(error).__name__ == "LocalEntryNotFoundError":
        return "no connection to it, and nothing of them in its cache"
    if isinstance(error, GatedRepoError):  # which is a RepositoryNotFoundError, too
        return f"{row.repository} is gated: accept its terms on {_page(row)}, then `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return f"404, {_page(row)} is not there, or private: `hf auth login` where it is yours"
    if isinstance(error, (EntryNotFoundError, RevisionNotFoundError)):
        return f"404, {row.repository} has no such file" + (f" at {row.revision}" if row.revision else "")
    status = getattr(error.response, "status_code", None) if isinstance(error, HfHubHTTPError) else None
    return f"{row.repository}: " + (f"it answered {status}" if status else one_line(error))


def _page(row: WeightsFile) -> str:
    return f"https://huggingface.co/{row.repository}"


def read(network: Network, files: list[Located]) -> Checkpoint:
    """Read a network's checkpoint: tensors, and configuration if the files carry one."""
    tensors: dict[str, torch.Tensor] = {}
    config: dict[str, Any] | None = None
    records, notes = [], []
    for located in files:
        data, record = located.read()
        records.append(record)
        if located.row.sha256 is not None and not record.published:
            notes.append(
                f"{record.filename} is not the published file (sha256 {record.sha256}, published is {located.row.sha256}): "
                "taken as your own weights, and recorded so"
            )
        if located.name.endswith(".skops"):
            tensors, config = read_skops(located.name, data)
        elif located.name.endswith(".json"):
            config = _read_json(located.name, data)
        else:
            tensors, found = _read_tensors(located.name, data)
            config = found if found is not None else config
    return Checkpoint(tensors, config, records, notes)


def _read_json(name: str, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data.decode("utf-8"))
    except ValueError as error:
        raise CheckpointError(f"cannot read {name}: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{name} does not hold a JSON object")
    return value


def _read_tensors(name: str, data: bytes) -> tuple[dict[str, torch.Tensor], dict[str, Any] | None]:
    if name.endswith(".safetensors"):
        return _read_safetensors(name, data)
    if name.endswith(".tflite"):
        graph = tflite_reader.read(name, data)
        constants = {i: v for i, v in graph.constants.items() if v.dtype == np.float32}
        return {f"network.constants.{i}": torch.from_numpy(v) for i, v in constants.items()}, {GRAPH: graph}
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises pickle's, zipfile's and its own errors
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{name} cannot be read as tensors alone, without running code from it: {first[:200]}"
        ) from None
    config = None
    if isinstance(content, Mapping):
        config = content.get("config")
        if config is not None and not isinstance(config, Mapping):
            raise CheckpointError(f"{name}: its configuration is a {type(config).__name__}, not a mapping")
        for key in ("state_dict", "model_state_dict", "model", "net"):
            if isinstance(content.get(key), Mapping):
                content = content[key]
                break
    if not isinstance(content, Mapping) or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise CheckpointError(f"{name} holds no state dict")
    return {str(k).removeprefix("module."): v for k, v in content.items()}, dict(config) if config else None


def _read_safetensors(name: str, data: bytes) -> tuple[dict[str, torch.Tensor], dict[str, Any] | None]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
        # the format: eight bytes of length, then a JSON header, whose "__metadata__" is free text by key
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{name} is not a whole safetensors file: {error}") from None
    metadata = header.get("__metadata__") or {}
    if "config" not in metadata:
        return tensors, None
    try:
        config = json.loads(metadata["config"])
    except ValueError as error:
        raise CheckpointError(f"{name}: the configuration in its metadata is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{name}: its configuration is a {type(config).__name__}, not an object")
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
    names = ", ".join(r.filename for r in checkpoint.records)
    if problems:
        raise CheckpointError(f"{names} is not a checkpoint of {network.name}: tensors {'; '.join(problems)}")
    broken = [k for k, v in checkpoint.tensors.items() if v.is_floating_point() and not bool(torch.isfinite(v).all())]
    if broken:
        raise CheckpointError(f"{names} has values that are not finite: {', '.join(broken[:3])}")
    module.load_state_dict(checkpoint.tensors, strict=False)

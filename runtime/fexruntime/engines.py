"""TensorRT engines in the device's store: under which key, for which shapes, and why one must not be loaded here.

An engine belongs to one TensorRT, GPU and graph. Its key names them all, so another's is never found; what is found of the
same network under another key is held against this place, and the message says what differs and what to run.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from fexruntime.bundle import BundleNetwork
from fexruntime.contracts import Tensor
from fexruntime.driver import Gpu
from fexruntime.errors import EnvironmentMissingError, InputError
from fexruntime.manifest import Variant
from fexruntime.store import Store

KIND = "TensorRT engine"
TYPED, FLAGGED = "tensorrt", "tensorrt-flags"
"""What artefacts are made for: a TensorRT that takes types from the graph, and one that has precision as a flag (8.6)."""
SIZES_HW = ((480, 640), (720, 1280), (1080, 1920))
"""Frames that a finder's engine is made for, unless others are asked for."""
FACE_BATCHES = (1, 4, 16, 64)
"""Most items of each profile of a network that reads faces."""
_OWN = ("tensorrt", "gpu", "capability", "driver", "model_sha256", "profiles", "options")
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Profile:
    """Shapes of each input that one profile serves, by name: least, preferred, most."""

    least: Mapping[str, Shape]
    best: Mapping[str, Shape]
    most: Mapping[str, Shape]

    def holds(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether inputs of these shapes are within it."""
        return all(
            len(shape) == len(self.most[name])
            and all(a <= n <= b for a, n, b in zip(self.least[name], shape, self.most[name], strict=True))
            for name, shape in shapes.items()
        )


def sizes_of(texts: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """(height, width) of each "720x1280"; InputError for what is none."""
    found = []
    for text in texts:
        try:
            height, width = (int(v) for v in text.lower().split("x"))
        except ValueError:
            height = width = 0
        if min(height, width) < 32 or max(height, width) > 8192:
            raise InputError(f"--profile {text!r} is not HEIGHTxWIDTH of 32 to 8192, such as 720x1280")
        found.append((height, width))
    return tuple(dict.fromkeys(found)) or SIZES_HW


def profiles_of(inputs: Sequence[Tensor], sizes_hw: Sequence[tuple[int, int]] = SIZES_HW) -> tuple[Profile, ...]:
    """Profiles of a network: one a frame size where its rows and columns are free, else one a range of batches."""
    if any(axis in ("height", "width") for t in inputs for axis in t.shape):
        made = []
        for height, width in sizes_hw:
            size = {"height": height, "width": width}
            shapes = {t.name: _filled(t, 1, size) for t in inputs}
            made.append(Profile(shapes, shapes, shapes))
        return tuple(made)
    least, made = 1, []
    for most in FACE_BATCHES:
        low, high = ({t.name: _filled(t, n, {}) for t in inputs} for n in (least, most))
        made.append(Profile(low, high, high))
        least = most + 1
    return tuple(made)


def _filled(tensor: Tensor, items: int, size: Mapping[str, int]) -> Shape:
    first, *rest = tensor.shape
    return (items if isinstance(first, str) else first, *(a if isinstance(a, int) else size[a] for a in rest))


def key_of(
    network: BundleNetwork, variant: Variant, version: str, gpu: Gpu, profiles: str, options: str
) -> dict[str, str]:
    """The key of a network's engine: everything that it was made from, by and for."""
    return {
        "kind": KIND,
        "network": network.row.name,
        "precision": variant.precision,
        "tensorrt": version,
        "gpu": gpu.name,
        "capability": gpu.capability,
        "driver": gpu.driver,
        "model_sha256": variant.model.sha256,
        "profiles": profiles,
        "options": options,
    }


def shown(profiles: Sequence[Profile]) -> str:
    """Profiles as a key has them: the most of each."""
    return "; ".join(
        ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in p.most.items()) for p in profiles
    )


def judge(note: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """Why an engine with this note must not be loaded here, both sides named; an empty list is that it may.

    `here` has what this place knows (an engine's profiles and options are its own, unless `here` asks for some).
    """
    names = [name for name in (*_OWN, "network", "precision") if name in here]
    return [
        f"{name} {note.get(name, 'unknown')!r}, here {here[name]!r}" for name in names if note.get(name) != here[name]
    ]


def find(
    store: Store | None, network: BundleNetwork, variant: Variant, version: str, gpu: Gpu
) -> tuple[Path, dict[str, str]]:
    """(engine, its note) of a network, made here of this very graph, the last used first.

    Raises EnvironmentMissingError that says what there is instead, and which command makes one.
    """
    command = f"make it with `fexport engines {shlex.quote(str(network.folder))}`"
    if store is None:
        raise EnvironmentMissingError(f"TensorRT engines are kept in the store, and there is none here: {command}")
    here = key_of(network, variant, version, gpu, "", "")
    here = {name: value for name, value in here.items() if name not in ("profiles", "options")}
    flagged = {
        v.model.sha256 for v in network.record.variants if (v.precision, v.target) == (variant.precision, FLAGGED)
    }
    reasons = []
    for item in store.items():
        if item.key.get("kind") != KIND or any(item.key.get(n) != here[n] for n in ("network", "precision")):
            continue
        made_from = item.key.get("model_sha256", "")
        differs = judge(item.key, here | ({"model_sha256": made_from} if made_from in flagged else {}))
        if not differs:
            path = store.find(item.key)
            if path is not None:
                return path, dict(item.key)
            differs = ["its bytes are not those that were written"]
        reasons.append("; ".join(differs))
    said = f"the one that is there was made for another place: {reasons[0]}" if reasons else "there is none"
    raise EnvironmentMissingError(
        f"no TensorRT engine of {network.row.name} ({variant.precision}) for this GPU ({said}): {command}"
    )


def import_tensorrt() -> Any:
    """The tensorrt module; EnvironmentMissingError with the fix if it is not there."""
    try:
        return import_module("tensorrt")
    except ImportError as error:
        raise EnvironmentMissingError(
            f"the backend 'tensorrt' needs TensorRT ({error}): pip install tensorrt, or on a Jetson use JetPack's own"
        ) from None

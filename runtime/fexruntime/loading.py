"""Loading what a detector runs, and what is said of it: where, how long it took, and what its failures mean."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypedDict

from fexruntime.backends import open_backend
from fexruntime.backends.base import CPU, Backend, Place, precision_said
from fexruntime.bundle import Bundle
from fexruntime.errors import InferenceError, InputError, OutOfMemoryError, is_short_of_memory
from fexruntime.faces import Step
from fexruntime.memory import give_back
from fexruntime.ops.base import HostOps, faces_a_run
from fexruntime.sources.frame import Frame
from fexruntime.workspace import Workspace

_log = logging.getLogger("fexruntime.detector")


class PlaceFields(TypedDict, total=False):
    """The fields of `Place`, for the keywords of `Detector`."""

    backend: str | Mapping[str, str]
    device: str | Mapping[str, str]
    precision: str | Mapping[str, str] | None
    threads: int | Mapping[str, int] | None
    cache: Path | str | bool | None
    shared_pool: bool
    pixels: str


def place_of(place: Place | None, given: PlaceFields) -> Place:
    """Where to run, from a place and keywords that replace its fields; InputError for one that is none."""
    known = [f.name for f in fields(Place)]
    for name in given:
        if name not in known:
            raise InputError(
                f"no option {name!r} of Detector: there are bundle, place, workspaces, observe, max_pixels, {', '.join(known)}"
            )
    return replace(place or Place(), **given)


def tell(bundle: Bundle, described: Mapping[str, Mapping[str, Any]], seconds: float) -> None:
    """Log what was loaded, and where it runs."""
    _log.info("%s: %s, contract %s, loaded in %.2f s", bundle.path, bundle.pipeline.name, bundle.contract, seconds)
    for role, said in described.items():
        _log.info(
            "%s: %s %s on %s, %s, %s threads",
            role, said["backend"], said["version"], said["device"], precision_said(said), said["threads"],
        )  # fmt: skip


def load(bundle: Bundle, place: Place) -> dict[str, Backend]:
    """Every network by role; those that were loaded are closed if another cannot be."""
    with ThreadPoolExecutor(max_workers=2) as pool:  # two at a time: one is hashed while another is parsed
        loading = {role: pool.submit(open_backend, network, place) for role, network in bundle.networks.items()}
    failed = next((f.exception() for f in loading.values() if f.exception() is not None), None)
    if failed is not None:
        for future in loading.values():
            if future.exception() is None:
                future.result().close()
        raise failed
    give_back()
    return {role: future.result() for role, future in loading.items()}


def workspace_of(networks: Mapping[str, Backend], finder: Step, steps: Sequence[Step], place: Place) -> Workspace:
    """Buffers for one call at a time over networks that are loaded: the CPU's, or a GPU's where pixels stay there."""
    if place.pixels == CPU:
        ops = HostOps(faces_a_run(place.device_of(role).kind for role in networks))
        return Workspace({role: network.share() for role, network in networks.items()}, ops)
    from fexruntime.ops.opened import resident_workspace

    return resident_workspace(networks, finder, steps, place)


def is_the_frames(error: Exception) -> bool:
    """Whether an error of a run is one of these frames (too large for the memory there is), not of the program."""
    return isinstance(error, (InferenceError, MemoryError)) or "Insufficient memory" in str(error)  # OpenCV's words


def failed(error: Exception) -> type[InferenceError]:
    """What an error of a run is to a caller: for lack of memory, as far as engines say so, or another failure."""
    return OutOfMemoryError if is_short_of_memory(error) else InferenceError


def with_frames(error: Exception, frames: Sequence[Frame]) -> str:
    """What is said of an error of these frames: which they are, and what helps."""
    names = ", ".join(f"{f.name!r} ({f.rgb_u8.shape[1]} x {f.rgb_u8.shape[0]})" for f in frames[:3])
    more = f" and {len(frames) - 3} more" if len(frames) > 3 else ""
    cause = str(error).strip().splitlines()[0] if str(error).strip() else "there is not enough memory"
    return f"{names}{more} could not be read: {cause}; if memory is short: a smaller detector_size or output_size, or a smaller batch"

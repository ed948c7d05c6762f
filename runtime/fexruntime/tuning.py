"""Which backend runs each network fastest here: measured once on the workload named, kept, and used by "auto".

Which one it is differs between CPUs (AVX-512 or not, cores, what else they do), so it is not guessed. Only artefacts that
were verified, in the precision asked for, compete. They take turns, so that all see the same machine; a choice is the
least of medians, and the default stays unless another is better by more than what such medians differ by themselves.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from fexruntime.arrays import F32
from fexruntime.backends import open_variant
from fexruntime.backends.base import AUTO, DEFAULT_BACKEND, Backend, Place
from fexruntime.backends.onnxruntime import cpu_features
from fexruntime.bundle import Bundle, BundleNetwork
from fexruntime.errors import EnvironmentMissingError
from fexruntime.faces import FACE_BATCH
from fexruntime.manifest import MANIFEST, Variant
from fexruntime.versions import installed

_ENGINES = ("onnxruntime", "ncnn", "openvino")
LEAST_GAIN = 0.03
"""A backend has to take this share less time than the default to be chosen in its place."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Workload:
    """What is measured: frames of this size, with this number of faces on each."""

    height: int = 480
    width: int = 640
    faces: int = 1


@dataclass(frozen=True, slots=True)
class Measured:
    """One backend on one network: milliseconds of each round, and whether it is the one that "auto" takes."""

    role: str
    network: str
    backend: str
    ms: tuple[float, ...]
    chosen: bool = False

    @property
    def p50_ms(self) -> float:
        """Median of the rounds."""
        return float(np.median(self.ms))


def tune(
    bundle: Bundle, place: Place, work: Workload | None = None, rounds: int = 15, say: Say = lambda text: None
) -> list[Measured]:
    """Measure every verified artefact that this machine can run, keep the choice, answer the samples.

    Raises EnvironmentMissingError if there is nowhere to keep it.
    """
    store = place.store()
    if store is None:
        raise EnvironmentMissingError(
            "there is no place to keep the choice (see `fexport cache`): set FEXPORT_CACHE to a folder of your own"
        )
    found: list[Measured] = []
    for role, network in bundle.networks.items():
        found += _of_network(network, place, work or Workload(), rounds, say)
        say(f"{role}: {next(m.backend for m in found if m.role == role and m.chosen)}")
    choice = {m.role: m.backend for m in found if m.chosen}
    with store.writing(_key(bundle, place)) as path:
        if path is not None:
            path.write_text(json.dumps(choice), encoding="utf-8")
    return found


def resolved(bundle: Bundle, place: Place) -> Place:
    """The place with "auto" replaced: by the choice that was measured here for this bundle, else by the default."""
    if place.backend != AUTO:
        return place
    store = place.store()
    kept = store.find(_key(bundle, place)) if store else None
    choice = _choice(kept.read_bytes()) if kept else {}
    return dataclasses.replace(place, backend={r: choice.get(r, DEFAULT_BACKEND) for r in bundle.networks})


def _choice(data: bytes) -> dict[str, str]:
    """What was kept, by role; EnvironmentMissingError if it is not what `tune` writes."""
    try:
        choice = json.loads(data)
    except (ValueError, RecursionError):
        choice = None
    if not isinstance(choice, dict) or not all(v in _ENGINES for v in map(str, choice.values())):
        raise EnvironmentMissingError(
            "the choice of backends that is kept here is not what `fexport tune` writes: `fexport cache --clear`, then tune again"
        )
    return {str(k): str(v) for k, v in choice.items()}


def _of_network(network: BundleNetwork, place: Place, work: Workload, rounds: int, say: Say) -> list[Measured]:
    runners = dict(_runners(network, place, say))
    inputs = [_inputs(network, size, work) for size in _batches(network, work.faces)]
    taken: dict[str, list[float]] = {name: [] for name in runners}
    for k in range(rounds + 2):
        for name, runner in sorted(runners.items(), reverse=bool(k % 2)):
            say(f"{network.row.name} on {name}, round {k + 1} of {rounds + 2}")
            for value in inputs:  # threads that slept, caches that another backend filled: not what is measured
                runner.infer(value)
            start = time.perf_counter()
            for value in inputs:
                runner.infer(value)
            if k >= 2:
                taken[name].append((time.perf_counter() - start) * 1e3)
    for runner in runners.values():
        runner.close()
    medians = {name: float(np.median(ms)) for name, ms in taken.items()}
    best = min(medians, key=medians.__getitem__)
    if DEFAULT_BACKEND in medians and medians[best] > medians[DEFAULT_BACKEND] * (1 - LEAST_GAIN):
        best = DEFAULT_BACKEND
    return [
        Measured(network.role, network.row.name, name, tuple(ms), name == best)
        for name, ms in sorted(taken.items(), key=lambda item: medians[item[0]])
    ]


def _runners(network: BundleNetwork, place: Place, say: Say) -> Iterator[tuple[str, Backend]]:
    for name, variant in _candidates(network, place.precision_of(network.role) or network.record.precision):
        try:
            yield name, open_variant(network, variant, dataclasses.replace(place, backend=name))
        except EnvironmentMissingError as error:
            say(f"{network.row.name}: {error}")


def _candidates(network: BundleNetwork, precision: str) -> Iterator[tuple[str, Variant]]:
    """Backends that were held to torch on an artefact of this precision. Arrays are run where nothing else is there."""
    variants = [v for v in network.record.variants if v.precision == precision]
    graphs = [v for v in variants if v.kind != "arrays"]
    for variant in graphs or variants:
        for name in variant.verified_on:
            yield name, variant


def _batches(network: BundleNetwork, faces: int) -> list[int]:
    """Items of each run, as the walk makes them."""
    if not network.choice.reads:
        return [1]
    return [min(FACE_BATCH, faces - start) for start in range(0, max(faces, 1), FACE_BATCH)]


def _inputs(network: BundleNetwork, items: int, work: Workload) -> dict[str, F32]:
    rng = np.random.RandomState(0)
    named = {"height": work.height, "width": work.width}
    shapes = {
        t.name: [items, *(axis if isinstance(axis, int) else named.get(axis, 1) for axis in t.shape[1:])]
        for t in network.record.inputs
    }
    return {name: rng.rand(*shape).astype(np.float32) for name, shape in shapes.items()}


def _key(bundle: Bundle, place: Place) -> dict[str, str]:
    manifest = hashlib.sha256((bundle.path / MANIFEST).read_bytes()).hexdigest()
    precision = {role: place.precision_of(role) or n.record.precision for role, n in bundle.networks.items()}
    return {
        "kind": "tuning",
        "network": f"{bundle.pipeline.name}, {', '.join(n.row.name for n in bundle.networks.values())}",
        "bundle_sha256": manifest,
        "cpu": cpu_features(),
        "threads": str(place.cores),
        "precision": str(precision),
        "device": place.device if isinstance(place.device, str) else str(dict(sorted(place.device.items()))),
        "versions": ", ".join(f"{k} {v}" for k, v in installed(_ENGINES).items()),
    }

"""Which backend, on how many threads, runs each network fastest here: measured once on the workload named, kept, and used by "auto".

Which one it is differs between CPUs (AVX-512 or not, caches, cores, what else they do), so it is not guessed. Only artefacts that
were verified, in the precision asked for, compete. A network is measured as a frame meets it: behind the other networks' runs,
whose weights are in the caches then and not its own. Candidates take turns, so that all see the same machine; rounds in which
one of them took far longer than it does are thrown away. A choice is the least of medians, and the default stays unless another
is better by more than what such medians differ by themselves.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fexruntime.arrays import F32
from fexruntime.backends import open_variant
from fexruntime.backends.base import AUTO, DEFAULT_BACKEND, Backend, Place
from fexruntime.backends.onnxruntime import cpu_features
from fexruntime.bundle import Bundle, BundleNetwork
from fexruntime.contracts.ncnn import SMALL_TILES_BACKEND
from fexruntime.errors import EnvironmentMissingError
from fexruntime.manifest import MANIFEST, Variant
from fexruntime.ops.base import faces_a_run
from fexruntime.versions import installed

_ENGINES = ("onnxruntime", "ncnn", "openvino")
_BACKENDS = (*_ENGINES, SMALL_TILES_BACKEND, "arrays")
LEAST_GAIN = 0.03
"""A candidate has to take this share less time than the default to be chosen in its place."""
NOISY = 1.3
"""A round in which a candidate took this many times its median is noise: something else ran."""
WARMUP = 2
LEAST_ROUNDS = 5
Say = Callable[[str], None]
Inputs = list[dict[str, F32]]
Given = tuple[Backend, Inputs]
"""A network of the frame, and what each of its runs is given."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is measured: frames of this size, with this number of faces on each."""

    height: int = 480
    width: int = 640
    faces: int = 1


@dataclass(frozen=True, slots=True)
class Measured:
    """One backend on one network: milliseconds of each round that was not noise, and whether it is the one that "auto" takes."""

    role: str
    network: str
    backend: str
    ms: tuple[float, ...]
    chosen: bool = False
    threads: int = 1
    noisy: int = 0
    """Rounds that were thrown away."""
    disturbed: bool = False
    """Most rounds were noise: then none was thrown away, and the choice is worth little."""

    @property
    def p50_ms(self) -> float:
        """Median of the rounds."""
        return float(np.median(self.ms))


def tune(
    bundle: Bundle, place: Place, work: Workload | None = None, rounds: int = 11, say: Say = lambda text: None
) -> list[Measured]:
    """Measure every verified artefact that this machine can run, keep the choice, answer the samples.

    Raises EnvironmentMissingError if there is nowhere to keep it.
    """
    store = place.store()
    if store is None:
        raise EnvironmentMissingError(
            "there is no place to keep the choice (see `fexport cache`): set FEXPORT_CACHE to a folder of your own"
        )
    work = work or Workload()
    most = _faces_a_run(bundle, place)
    given = {
        role: [_inputs(n, size, work) for size in _batches(n, work.faces, most)] for role, n in bundle.networks.items()
    }
    frame = {role: _first(network, place, say) for role, network in bundle.networks.items()}
    found: list[Measured] = []
    try:
        for role, network in bundle.networks.items():
            frame.pop(role).close()
            roles = [*bundle.networks]
            behind = [r for r in (*roles[roles.index(role) + 1 :], *roles) if r in frame]
            rest = [(frame[r], given[r]) for r in dict.fromkeys(behind)]
            measured, frame[role] = _of_network(network, place, given[role], rest, rounds, say)
            found += measured
            say(f"{role}: {next(m.backend for m in measured if m.chosen)}")
    finally:
        for runner in frame.values():
            runner.close()
    with store.writing(_key(bundle, place)) as path:
        if path is not None:
            path.write_text(json.dumps(choice_of(found)), encoding="utf-8")
    return found


def choice_of(found: list[Measured]) -> dict[str, dict[str, Any]]:
    """What is kept of samples: backend and threads by role."""
    return {m.role: {"backend": m.backend, "threads": m.threads} for m in found if m.chosen}


def resolved(bundle: Bundle, place: Place) -> Place:
    """The place with "auto" replaced: by the backends and threads that were measured here for this bundle, else by the default."""
    if place.backend != AUTO:
        return place
    store = place.store()
    kept = store.find(_key(bundle, place)) if store else None
    choice = _choice(kept.read_bytes()) if kept else {}
    backend = {r: choice[r][0] if r in choice else DEFAULT_BACKEND for r in bundle.networks}
    threads = {r: choice[r][1] for r in bundle.networks if r in choice and choice[r][1] != place.threads_of(r)}
    if not threads:
        return dataclasses.replace(place, backend=backend)
    return dataclasses.replace(
        place,
        backend=backend,
        threads={r: threads.get(r, place.threads_of(r)) for r in bundle.networks},
        # ONNX Runtime's one pool has one number of threads
        shared_pool=place.shared_pool and not any(backend[r] == DEFAULT_BACKEND for r in threads),
    )


def _choice(data: bytes) -> dict[str, tuple[str, int]]:
    """What was kept, backend and threads by role; EnvironmentMissingError if it is not what `tune` writes."""
    try:
        choice = {str(role): (said["backend"], said["threads"]) for role, said in json.loads(data).items()}
    except (ValueError, RecursionError, AttributeError, TypeError, KeyError):
        choice = {"": ("", 0)}
    if not all(name in _BACKENDS and type(n) is int and n >= 1 for name, n in choice.values()):
        raise EnvironmentMissingError(
            "the choice of backends that is kept here is not what `fexport tune` writes: `fexport cache --clear`, then tune again"
        )
    return choice


def _of_network(
    network: BundleNetwork, place: Place, given: Inputs, rest: list[Given], rounds: int, say: Say
) -> tuple[list[Measured], Backend]:
    """Every candidate of a network, and the one that was chosen, loaded."""
    runners = dict(_runners(network, place, say))
    times, noisy, disturbed = _in_turns(network, runners, given, rest, rounds, say)
    best = _best(times, place.threads_of(network.role))
    fewer = () if place.shared_pool else _fewer_threads(place.threads_of(network.role))
    for threads in fewer:  # of the fastest backend alone: what is slow on all threads is slow on one
        name = best[0]
        alone = dataclasses.replace(place, threads={network.role: threads})
        found = dict(_runners(network, alone, say, only=name))
        again, more, also = _in_turns(
            network, {best: runners[best], **found}, given, rest, max(LEAST_ROUNDS, rounds // 2), say
        )
        times.update(again)  # that of the one before, too: the two were compared in these turns
        noisy, disturbed = noisy + more, disturbed or also
        runners |= found
        if np.median(again[name, threads]) < np.median(again[best]) * (1 - LEAST_GAIN):
            best = (name, threads)
    for key, runner in runners.items():
        if key != best:
            runner.close()
    measured = [
        Measured(network.role, network.row.name, key[0], tuple(ms), key == best, key[1], noisy, disturbed)
        for key, ms in sorted(times.items(), key=lambda item: float(np.median(item[1])))
    ]
    return measured, runners[best]


Key = tuple[str, int]
"""A candidate: backend and threads."""


def _in_turns(
    network: BundleNetwork, runners: dict[Key, Backend], given: Inputs, rest: list[Given], rounds: int, say: Say
) -> tuple[dict[Key, list[float]], int, bool]:
    """Milliseconds of each candidate in the rounds that were quiet, and how many were not; in all, where most were not."""
    taken: dict[Key, list[float]] = {key: [] for key in runners}
    for k in range(rounds + WARMUP):
        for key, runner in sorted(runners.items(), reverse=bool(k % 2)):
            say(f"{network.row.name} on {key[0]}, round {k + 1} of {rounds + WARMUP}")
            for other, values in rest:  # of the frame before, and of this one
                for value in values:
                    other.infer(value)
            start = time.perf_counter()
            for value in given:
                runner.infer(value)
            if k >= WARMUP:
                taken[key].append((time.perf_counter() - start) * 1e3)
    medians = {key: float(np.median(ms)) for key, ms in taken.items()}
    quiet = [k for k in range(rounds) if all(ms[k] <= NOISY * medians[key] for key, ms in taken.items())]
    disturbed = 2 * len(quiet) < rounds
    if disturbed:
        quiet = list(range(rounds))
    return {key: [ms[k] for k in quiet] for key, ms in taken.items()}, rounds - len(quiet), disturbed


def _best(times: dict[Key, list[float]], threads: int) -> Key:
    medians = {key: float(np.median(ms)) for key, ms in times.items()}
    best = min(medians, key=medians.__getitem__)
    default = (DEFAULT_BACKEND, threads)
    kept = default in medians and medians[best] > medians[default] * (1 - LEAST_GAIN)
    return default if kept else best


def _fewer_threads(threads: int) -> list[int]:
    """Numbers of threads below this one that are worth a try."""
    return sorted({threads // 2, 1} - {0, threads}, reverse=True)


def _first(network: BundleNetwork, place: Place, say: Say) -> Backend:
    """The network on the first backend that is here; EnvironmentMissingError if none is."""
    for _, runner in _runners(network, place, say):
        return runner
    raise EnvironmentMissingError(
        f"no backend that {network.row.name} was verified on is installed: pip install 'fexport[cpu]' has ONNX Runtime"
    )


def _runners(network: BundleNetwork, place: Place, say: Say, only: str | None = None) -> Iterator[tuple[Key, Backend]]:
    for name, variant in _candidates(network, place.precision_of(network.role) or network.record.precision):
        if only not in (None, name):
            continue
        try:
            opened = open_variant(network, variant, dataclasses.replace(place, backend=name))
        except EnvironmentMissingError as error:
            say(f"{network.row.name}: {error}")
            continue
        yield (name, place.threads_of(network.role)), opened


def _candidates(network: BundleNetwork, precision: str) -> Iterator[tuple[str, Variant]]:
    """Backends that were held to torch on an artefact of this precision. Arrays are run where nothing else is there."""
    variants = [v for v in network.record.variants if v.precision == precision]
    graphs = [v for v in variants if v.kind != "arrays"]
    for variant in graphs or variants:
        for name in variant.verified_on:
            yield name, variant


def _faces_a_run(bundle: Bundle, place: Place) -> int:
    return faces_a_run(place.device_of(role).kind for role in bundle.networks)


def _batches(network: BundleNetwork, faces: int, most: int) -> list[int]:
    """Items of each run, as the walk makes them."""
    if not network.choice.reads:
        return [1]
    return [min(most, faces - start) for start in range(0, max(faces, 1), most)]


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
        "measured": "in the frame",  # choices of versions that measured each network alone are not used
        "network": f"{bundle.pipeline.name}, {', '.join(n.row.name for n in bundle.networks.values())}",
        "bundle_sha256": manifest,
        "faces_a_run": str(_faces_a_run(bundle, place)),
        "cpu": cpu_features(),
        "threads": str(place.threads if isinstance(place.threads, Mapping) else place.cores),
        "precision": str(precision),
        "device": place.device if isinstance(place.device, str) else str(dict(sorted(place.device.items()))),
        "versions": ", ".join(f"{k} {v}" for k, v in installed(_ENGINES).items()),
    }

"""A whole benchmark: warm-up, samples (interleaved with py-feat's, if it is asked for), networks alone, start-up, sizes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fexport.bench import cold, measure, workload
from fexport.bench.measure import Meter, Sample
from fexport.bench.pyfeat import PyFeat
from fexruntime.arrays import F32
from fexruntime.backends import open_backend
from fexruntime.backends.base import AUTO, Backend, Place
from fexruntime.bundle import Bundle, open_bundle
from fexruntime.errors import InputError
from fexruntime.tuning import resolved

PAUSE_S = 0.3
"""Longer than any runtime's idle threads spin."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure; see `fexport bench --help`."""

    bundle: str
    picture: Path | None = None
    size_wh: tuple[int, int] | None = (640, 480)
    faces: int | None = 1
    threads: int = 1
    rounds: int = 10
    warmup: int = 3
    detector_size: int | None = None
    backend: str = AUTO
    networks: bool = False
    start_up: bool = True
    against: Path | None = None
    """The Python of an environment that has py-feat."""
    weights: Path | None = None


def run(options: Options, say: Say = lambda text: None) -> dict[str, Any]:
    """Measure, and answer everything as plain values: machine, workload, raw samples, statistics, ratios."""
    bundle = open_bundle(options.bundle)
    frame = workload.frame_of(options.picture, options.size_wh)
    height, width = frame.shape[:2]
    boxes = None if options.faces is None else workload.boxes_for(options.faces, height, width)
    if options.against is not None and not bundle.pipeline.stages:
        raise InputError(
            "--against pyfeat needs a bundle of detectorv1 or detectorv2: py-feat has no detector of faces alone"
        )
    result: dict[str, Any] = {
        "machine": measure.machine(),
        "workload": {
            "bundle": described(bundle),
            "frame": f"{width} x {height}",
            "faces": options.faces,
            "threads": options.threads,
            "detector_size": options.detector_size,
            "rounds": options.rounds,
            "warmup": options.warmup,
        },
    }
    if options.start_up:
        say("start-up, in fresh processes")
        result["start_up"] = cold.start(str(bundle.path), options.threads)
    with workload.Workload(
        bundle, boxes, options.detector_size, backend=options.backend, threads=options.threads
    ) as work:
        result["describe"] = work.detector.describe()
        result["installed_mb"] = cold.installed_mb(said["backend"] for said in result["describe"].values())
        say("warm-up")
        for _ in range(options.warmup):
            work.run(frame)
        ours: list[Sample] = []
        stages: list[dict[str, float]] = []

        def round_of_ours() -> None:
            work.run(frame)
            with (meter := Meter()):
                _, taken = work.run(frame)
            ours.append(meter.sample)
            stages.append({k: v * 1e3 for k, v in taken.items()})

        if options.against is None:
            for k in range(options.rounds):
                say(f"frame {k + 1} of {options.rounds}")
                round_of_ours()
        else:
            result["pyfeat"] = _against(options, bundle, boxes, frame, round_of_ours, say)
    result["fexport"] = {
        "samples": measure.as_rows(ours),
        "statistics": measure.statistics(ours),
        "noise": measure.noise(ours),
        "stages_ms": {k: float(np.median([s.get(k, 0.0) for s in stages])) for k in stages[0]},
        "rss_mb": _resident_mb(),
    }
    if "pyfeat" in result:
        p50 = result["pyfeat"]["statistics"]["p50_ms"] / result["fexport"]["statistics"]["p50_ms"]
        result["ratio"] = {"p50": p50, "paired_p50": _paired(result)}
    if options.networks and "pyfeat" not in result:
        result["networks"] = _networks_alone(bundle, (height, width), options, say, None)
    return result


def _against(
    options: Options, bundle: Bundle, boxes: workload.Boxes | None, frame: Any, ours: Callable[[], None], say: Say
) -> dict[str, Any]:
    """Take turns, so that both sides see the same machine: a pause, a frame to warm up, a measured one.

    Without the pause and the warm-up, each side's first frame pays for the other's threads, which spin on for a while,
    and for caches full of the other's weights: a steady state that no service has.
    """
    assert options.against is not None
    identity = bundle.networks.get("identity")
    name = identity.row.name if identity else None
    # what fills each stage, as py-feat's constructor takes it; None: left out
    filled = {role: n.choice.name for role, n in bundle.networks.items()}
    models = {name: filled.get(role) for name, role in bundle.pipeline.fex_models}
    say("py-feat is loading")
    common = (options.against, bundle.pipeline.name, name, options.weights)
    with PyFeat(*common, options.threads, boxes, frame, models) as pyfeat:
        pyfeat.frame(options.warmup)
        theirs: list[Sample] = []
        for k in range(options.rounds):
            say(f"round {k + 1} of {options.rounds}")
            time.sleep(PAUSE_S)
            ours()
            time.sleep(PAUSE_S)
            theirs.append(pyfeat.frame(warmup=1))
        answer = pyfeat.ready | {
            "samples": measure.as_rows(theirs),
            "statistics": measure.statistics(theirs),
            "noise": measure.noise(theirs),
            "rss_mb": pyfeat.rss_mb,
        }
    if options.networks:
        with PyFeat(*common, 1, boxes, frame, models) as pyfeat:
            answer["networks"] = _networks_alone(bundle, frame.shape[:2], options, say, pyfeat)
    return answer


def _networks_alone(
    bundle: Bundle, size_hw: tuple[int, int], options: Options, say: Say, pyfeat: PyFeat | None
) -> dict[str, Any]:
    """CPU milliseconds of each network on one thread, one item a run; py-feat's beside them if it is there."""
    found: dict[str, Any] = {}
    rng = np.random.RandomState(0)
    for role, network in bundle.networks.items():
        say(f"{network.row.name} alone, one thread")
        backend = open_backend(network, resolved(bundle, Place(backend=options.backend, threads=1)))
        inputs = {
            t.name: rng.rand(*_one_item(t.shape, size_hw)).astype(np.float32) * (1 if network.choice.reads else 255)
            for t in backend.spec.inputs
        }
        mine, theirs = [], []
        comparable = not network.choice.reads or network.choice.crop is not None
        for k in range(options.rounds):
            mine.append(_cpu_ms(backend, inputs, warmup=2 if k == 0 else 0))
            if comparable and pyfeat is not None:
                theirs.append(pyfeat.network(role, warmup=2 if k == 0 else 0).cpu_ms)
        backend.close()
        entry: dict[str, Any] = {"network": network.row.name, "cpu_ms": mine, "cpu_p50_ms": float(np.median(mine))}
        if theirs:
            entry |= {"pyfeat_cpu_ms": theirs, "ratio": float(np.median(theirs)) / float(np.median(mine))}
        found[role] = entry
    return found


def _one_item(shape: tuple[int | str, ...], size_hw: tuple[int, int]) -> tuple[int, ...]:
    """The shape of one item: a network of frames takes one of this size."""
    frame = {"height": size_hw[0], "width": size_hw[1]}
    return tuple(axis if isinstance(axis, int) else frame.get(axis, 1) for axis in shape)


def _cpu_ms(backend: Backend, inputs: dict[str, F32], warmup: int) -> float:
    for _ in range(warmup):
        backend.infer(inputs)
    with (meter := Meter()):
        backend.infer(inputs)
    return meter.sample.cpu_ms


def _paired(result: dict[str, Any]) -> float:
    """Median of each round's own ratio: what slows both sides of a round cancels."""
    theirs, ours = (np.array([s["wall_ms"] for s in result[k]["samples"]]) for k in ("pyfeat", "fexport"))
    return float(np.median(theirs / ours))


def described(bundle: Bundle) -> dict[str, Any]:
    """What a bundle is, for a record."""
    return {
        "pipeline": bundle.pipeline.name,
        "contract": bundle.contract,
        "networks": {role: n.row.name for role, n in bundle.networks.items()},
        "precision": sorted({v.precision for n in bundle.networks.values() for v in n.record.variants}),
        "stand_ins": bundle.stand_ins,
    }


def _resident_mb() -> float:
    import psutil

    return float(psutil.Process().memory_info().rss) / 1e6

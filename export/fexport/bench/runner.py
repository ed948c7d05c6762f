"""A whole benchmark: warm-up, samples (interleaved with py-feat's, if it is asked for), networks alone, start-up, sizes."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fexport.bench import cold, flops, measure, vram, workload
from fexport.bench.measure import Meter, Sample
from fexport.bench.pyfeat import PyFeat, refuse_other_work
from fexruntime.arrays import F32, U8
from fexruntime.backends import open_backend
from fexruntime.backends.base import AUTO, CPU, Backend, Place
from fexruntime.bundle import Bundle, BundleNetwork, open_bundle
from fexruntime.errors import InputError
from fexruntime.tuning import resolved

PAUSE_S = 0.3
"""Longer than any runtime's idle threads spin."""
RUNS_A_TURN = 5
"""Of a network alone: some take a few milliseconds."""

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
    output_size: int | None = None
    backend: str | Mapping[str, str] = AUTO
    device: str | Mapping[str, str] = CPU
    pixels: str = CPU
    networks: bool = False
    start_up: bool = True
    against: Path | None = None
    """The Python of an environment that has py-feat."""
    weights: Path | None = None

    @property
    def place(self) -> Place:
        """Where and how networks run."""
        return Place(backend=self.backend, device=self.device, pixels=self.pixels, threads=self.threads)


def run(options: Options, say: Say = lambda text: None) -> dict[str, Any]:
    """Measure, and answer everything as plain values: machine, workload, raw samples, statistics, ratios.

    Raises InputError before anything is measured where py-feat would run other networks or conventions, and as soon as each
    side has read one frame where it read another number of faces.
    """
    bundle = open_bundle(options.bundle)
    if options.against is not None:
        refuse_other_work(bundle, options.against)
    frame = workload.frame_of(options.picture, options.size_wh)
    height, width = frame.shape[:2]
    boxes = None if options.faces is None else workload.boxes_for(options.faces, height, width)
    result: dict[str, Any] = {
        "machine": measure.machine(),
        "command": _command(),
        "workload": {
            "bundle": described(bundle),
            "frame": f"{width} x {height}",
            "faces": options.faces,
            "threads": options.threads,
            "detector_size": options.detector_size,
            "output_size": options.output_size,
            "rounds": options.rounds,
            "warmup": options.warmup,
            "device": options.device,
            "pixels": options.pixels,
        },
    }
    gpu_memory = vram.of(bundle, options.place)  # without a GPU that is said here
    if options.start_up:
        say("start-up, in fresh processes")
        sizes = {"detector_size": options.detector_size, "output_size": options.output_size}
        more = {name: size for name, size in sizes.items() if size is not None}
        result["start_up"] = cold.start(str(bundle.path), resolved(bundle, options.place), frame, boxes, more)
    with (
        tempfile.TemporaryDirectory() as folder,
        workload.Workload(
            bundle,
            boxes,
            options.detector_size,
            options.output_size,
            place=options.place,
        ) as work,
    ):
        given: Any = frame
        if options.output_size is not None:
            given = Path(folder) / "frame.png"
            workload.write_picture(frame, given)
        result["describe"] = work.detector.describe()
        result["installed_mb"] = cold.installed_mb(said["backend"] for said in result["describe"].values())
        say("warm-up")
        for _ in range(options.warmup):
            fex, _ = work.run(given)
        faces = result["workload"]["faces_read"] = workload.faces_of(fex)
        ours: list[Sample] = []
        stages: list[dict[str, float]] = []

        def round_of_ours() -> None:
            work.run(given)
            with (meter := Meter()):
                _, taken = work.run(given)
            ours.append(meter.sample)
            stages.append({k: v * 1e3 for k, v in taken.items()})

        if options.against is None:
            for k in range(options.rounds):
                say(f"frame {k + 1} of {options.rounds}")
                round_of_ours()
        else:
            result["pyfeat"] = _against(options, bundle, boxes, frame, faces, round_of_ours, say)
        result["fexport"] = {
            "samples": measure.as_rows(ours),
            "statistics": measure.statistics(ours),
            "noise": measure.noise(ours),
            "stages_ms": {k: float(np.median([s.get(k, 0.0) for s in stages])) for k in stages[0]},
            **measure.memory(),
            **({} if gpu_memory is None else gpu_memory.used()),
        }
    result["gflop"] = _gflop(bundle, (height, width))
    if "pyfeat" in result:
        theirs = [Sample(**s) for s in result["pyfeat"]["samples"]]
        p50 = result["pyfeat"]["statistics"]["p50_ms"] / result["fexport"]["statistics"]["p50_ms"]
        result["ratio"] = {"p50": p50, **measure.paired(ours, theirs)}
    if options.networks and "pyfeat" not in result:
        result["networks"] = _networks_alone(bundle, (height, width), options, say, None)
    return result


def _against(
    options: Options,
    bundle: Bundle,
    boxes: workload.Boxes | None,
    frame: U8,
    faces: int,
    ours: Callable[[], None],
    say: Say,
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
    with PyFeat(*common, options.threads, boxes, frame, models, options.output_size) as pyfeat:
        pyfeat.frame(options.warmup)
        if pyfeat.faces != faces:
            raise InputError(
                f"fexport reads {faces} face{'s' * (faces != 1)} on this frame and py-feat {pyfeat.faces}: that is other work, and no "
                "comparison; give --faces N, so that both read the same boxes"
            )
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
            "faces_read": pyfeat.faces,
            **pyfeat.memory,
        }
    if options.networks:
        with PyFeat(*common, 1, boxes, frame, models) as pyfeat:
            answer["networks"] = _networks_alone(bundle, frame.shape[:2], options, say, pyfeat)
        if options.threads > 1:
            with PyFeat(*common, options.threads, boxes, frame, models) as pyfeat:
                _networks_on_threads(answer["networks"], bundle, frame.shape[:2], options, say, pyfeat)
    return answer


def _networks_alone(
    bundle: Bundle, size_hw: tuple[int, int], options: Options, say: Say, pyfeat: PyFeat | None
) -> dict[str, Any]:
    """CPU milliseconds of each network on one thread, one item a run; py-feat's beside them if it is there."""
    found: dict[str, Any] = {}
    for role, network in bundle.networks.items():
        say(f"{network.row.name} alone, one thread")
        backend = open_backend(network, resolved(bundle, Place(backend=options.backend, threads=1)))
        inputs = _random_inputs(network, size_hw)
        mine, theirs = [], []
        comparable = not network.choice.reads or network.choice.crop is not None
        for k in range(options.rounds):
            mine.append(_run(backend, inputs, warmup=2 if k == 0 else 0).cpu_ms)
            if comparable and pyfeat is not None:
                theirs.append(pyfeat.network(role, warmup=2 if k == 0 else 0).cpu_ms)
        entry: dict[str, Any] = {
            "network": network.row.name,
            "backend": backend.describe()["backend"],
            "cpu_ms": mine,
            "cpu_p50_ms": float(np.median(mine)),
        }
        backend.close()
        if theirs:
            entry |= {"pyfeat_cpu_ms": theirs, "ratio": float(np.median(theirs)) / float(np.median(mine))}
        found[role] = entry
    return found


def _networks_on_threads(
    found: dict[str, Any], bundle: Bundle, size_hw: tuple[int, int], options: Options, say: Say, pyfeat: PyFeat
) -> None:
    """Put wall milliseconds of each network on all threads beside them, one item a run, `RUNS_A_TURN` runs of each side in turn."""
    for role, entry in found.items():
        if "ratio" not in entry:
            continue
        say(f"{entry['network']} alone, {options.threads} threads")
        network = bundle.networks[role]
        backend = open_backend(network, resolved(bundle, Place(backend=options.backend, threads=options.threads)))
        inputs = _random_inputs(network, size_hw)
        mine: list[float] = []
        theirs: list[float] = []
        for _ in range(options.rounds):
            time.sleep(PAUSE_S)
            mine += [_run(backend, inputs, warmup=2 if k == 0 else 0).wall_ms for k in range(RUNS_A_TURN)]
            time.sleep(PAUSE_S)
            theirs += [pyfeat.network(role, warmup=2 if k == 0 else 0).wall_ms for k in range(RUNS_A_TURN)]
        said = backend.describe()
        entry["on_threads"] = {
            "threads": options.threads,
            "backend": said["backend"],
            "backend_threads": said["threads"],
            "wall_ms": mine,
            "pyfeat_wall_ms": theirs,
            "ratio": float(np.median(theirs)) / float(np.median(mine)),
        }
        backend.close()


def _gflop(bundle: Bundle, size_hw: tuple[int, int]) -> dict[str, float]:
    """By role: GFLOP of one item, of the networks that have a graph."""
    counted = {role: flops.gflop(n, _random_inputs(n, size_hw)) for role, n in bundle.networks.items()}
    return {role: value for role, value in counted.items() if value is not None}


def _random_inputs(network: BundleNetwork, size_hw: tuple[int, int]) -> dict[str, F32]:
    rng = np.random.RandomState(0)
    scale = 1 if network.choice.reads else 255
    return {t.name: rng.rand(*_one_item(t.shape, size_hw)).astype(np.float32) * scale for t in network.record.inputs}


def _one_item(shape: tuple[int | str, ...], size_hw: tuple[int, int]) -> tuple[int, ...]:
    """The shape of one item: a network of frames takes one of this size."""
    frame = {"height": size_hw[0], "width": size_hw[1]}
    return tuple(axis if isinstance(axis, int) else frame.get(axis, 1) for axis in shape)


def _run(backend: Backend, inputs: dict[str, F32], warmup: int) -> Sample:
    for _ in range(warmup):
        backend.infer(inputs)
    with (meter := Meter()):
        backend.infer(inputs)
    return meter.sample


def _command() -> str:
    """The command of this run, for a record that is passed on: of paths the last name alone."""
    words = (Path(word).name if os.sep in word else word for word in sys.argv[1:])
    return " ".join(["fexport", *map(shlex.quote, words)])


def described(bundle: Bundle) -> dict[str, Any]:
    """What a bundle is, for a record."""
    return {
        "pipeline": bundle.pipeline.name,
        "contract": bundle.contract,
        "networks": {role: n.row.name for role, n in bundle.networks.items()},
        "precision": sorted({v.precision for n in bundle.networks.values() for v in n.record.variants}),
        "stand_ins": bundle.stand_ins,
        "weights": {
            role: [{"file": w.filename, "sha256": w.sha256, "published": w.published} for w in n.record.weights]
            for role, n in bundle.networks.items()
        },
    }

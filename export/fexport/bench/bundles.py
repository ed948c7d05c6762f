"""Two bundles on the same frames, in turns: how fast each is, and how far apart their rows are in the task's units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fexport.bench import measure, report, workload
from fexport.bench.measure import Meter, Sample
from fexport.bench.runner import Options, Say, described
from fexport.comparison.measuring import Comparison, Rows, comparable
from fexruntime.backends.base import precision_said
from fexruntime.bundle import Bundle, open_bundle
from fexruntime.errors import InputError
from fexruntime.fex import Fex

FILES = ("bundles.json", "bundles.md")


def run(options: Options, against: str, say: Say = lambda text: None) -> dict[str, Any]:
    """Measure `options.bundle` and `against` in turns; everything as plain values, raw samples included.

    Raises InputError for bundles of different pipelines, contracts or networks, and, once each has read the frame, of
    different numbers of faces: that is other work, whose times say nothing of each other.
    """
    bundles = [open_bundle(options.bundle), open_bundle(against)]
    _refuse_other_work(bundles, (options.bundle, against))
    frame = workload.frame_of(options.picture, options.size_wh)
    height, width = frame.shape[:2]
    boxes = None if options.faces is None else workload.boxes_for(options.faces, height, width)
    samples: tuple[list[Sample], list[Sample]] = ([], [])
    rows: list[Fex] = []
    describe = []
    faces: list[int] = []
    works = [
        workload.Workload(b, boxes, options.detector_size, options.output_size, place=options.place) for b in bundles
    ]
    try:
        for work in works:
            describe.append(work.detector.describe())
            for _ in range(options.warmup):
                fex, _ = work.run(frame)
            faces.append(workload.faces_of(fex))
        if faces[0] != faces[1]:
            raise InputError(
                f"{options.bundle!r} reads {_counted(faces[0])} on this frame and {against!r} {_counted(faces[1])}: that is other work, "
                "and no comparison; give --faces N, so that both read the same boxes"
            )
        for k in range(options.rounds):
            say(f"round {k + 1} of {options.rounds}")
            for side in (0, 1) if k % 2 else (1, 0):
                works[side].run(frame)  # caches that the other side filled
                with (meter := Meter()):
                    works[side].run(frame)
                samples[side].append(meter.sample)
        rows = [work.run(frame)[0] for work in works]
    finally:
        for work in works:
            work.__exit__()
    statistics = [measure.statistics(s) for s in samples]
    return {
        "machine": measure.machine(),
        "workload": {
            "frame": f"{width} x {height}",
            "faces": options.faces,
            "threads": options.threads,
            "faces_read": faces[0],
            "detector_size": options.detector_size,
            "output_size": options.output_size,
            "rounds": options.rounds,
        },
        "sides": [
            {
                "bundle": described(bundle),
                "path": str(bundle.path),
                "size_mb": _size(bundle) / 1e6,
                "describe": describe[k],
                "samples": measure.as_rows(samples[k]),
                "statistics": statistics[k],
                "noise": measure.noise(samples[k]),
            }
            for k, bundle in enumerate(bundles)
        ],
        "ratio_p50": statistics[1]["p50_ms"] / statistics[0]["p50_ms"],
        "ratio": measure.paired(*samples),
        "other_weights": [r for r in bundles[0].networks if len({_weights(b, r) for b in bundles}) > 1],
        "differences": _differences(bundles[0], rows),
    }


def _refuse_other_work(bundles: list[Bundle], names: tuple[str, str]) -> None:
    said = [(b.pipeline.name, b.contract) for b in bundles]
    if said[0] != said[1]:
        raise InputError(
            f"{names[1]!r} is {said[1][0]} under {said[1][1]}, {names[0]!r} is {said[0][0]} under {said[0][1]}: "
            "only bundles of one pipeline and contract can be compared"
        )
    first, second = ({role: n.row.name for role, n in b.networks.items()} for b in bundles)
    apart = [
        f"{role} is {first.get(role, 'left out')} in the first and {second.get(role, 'left out')} in the second"
        for role in dict.fromkeys((*first, *second))
        if first.get(role) != second.get(role)
    ]
    if apart:
        raise InputError(
            f"{names[0]!r} and {names[1]!r} have other networks ({'; '.join(apart)}): only bundles of the same networks can be compared"
        )


def _counted(faces: int) -> str:
    return f"{faces} face{'s' * (faces != 1)}"


def _weights(bundle: Bundle, role: str) -> tuple[object, ...]:
    """What tells the weights of two networks apart."""
    return tuple((w.sha256, w.seed) for w in bundle.networks[role].record.weights)


def _size(bundle: Bundle) -> int:
    networks = (n.record for n in bundle.networks.values())
    return sum(f.size_bytes for r in networks for v in r.variants for f in (v.model, *v.parts))


def _differences(bundle: Bundle, fexes: list[Fex]) -> dict[str, Any]:
    sides = [Rows.of(f.numeric_columns, f.values.astype(np.float64)) for f in fexes]
    what, _ = comparable(sides[0].columns, sides[1].columns, bundle.pipeline.groups)
    found = Comparison(what)
    found.add("frame", 0, sides[0], sides[1])
    return {
        "faces": found.pairs,
        "faces_of_one_side": found.only_first + found.only_second,
        "groups": [{k: line[k] for k in ("group", "unit", "values", "max", "p99", "mean")} for line in found.table()],
    }


def markdown(result: dict[str, Any]) -> str:
    """The result as a page, every number from the samples."""
    work, sides, apart = result["workload"], result["sides"], result["differences"]
    machine = result["machine"]
    lines = [
        "# Two bundles in turns",
        "",
        f"{machine['cpu']}, {work['threads']} threads, {work['frame']}, {_counted(work['faces_read'])}, {work['rounds']} rounds; "
        f"{machine['date']}, commit {machine['commit'] or 'none (a wheel)'}.",
        "",
        "| bundle | precision | backend | MB | p50 ms | max ms |",
        "|---|---|---|---|---|---|",
    ]
    for side in sides:
        networks = side["describe"].values()
        precisions = ", ".join(dict.fromkeys(map(precision_said, networks)))
        backends = ", ".join(dict.fromkeys(n["backend"] for n in networks))
        numbers = f"{side['size_mb']:.1f} | {side['statistics']['p50_ms']:.1f} | {side['statistics']['max_ms']:.1f}"
        lines.append(f"| {side['path']} | {precisions} | {backends} | {numbers} |")
    lines += [
        "",
        f"The second's time over the first's: **{result['ratio']['paired_p50']:.2f}** (median of the rounds' own ratios; the middle half of "
        f"them {result['ratio']['paired_p25']:.2f} to {result['ratio']['paired_p75']:.2f}).",
        "",
        f"{apart['faces']} faces of both, {apart['faces_of_one_side']} of one alone.",
        "",
        "| group | unit | values | max | p99 | mean |",
        "|---|---|---|---|---|---|",
    ]
    for g in apart["groups"]:
        lines.append(
            f"| {g['group']} | {g['unit']} | {g['values']} | {g['max']:.3g} | {g['p99']:.3g} | {g['mean']:.3g} |"
        )
    for side in sides:
        if side["bundle"]["stand_ins"]:
            made_up = ", ".join(side["bundle"]["stand_ins"])
            lines += ["", f"Stand-in weights in {side['path']} ({made_up}): differences say nothing of real ones."]
        for role, said in side["describe"].items():
            if said.get("loss"):
                lines += ["", f"Loss allowed in {side['path']}, {role}: {', '.join(said['loss'])}."]
    if result["other_weights"]:
        lines += ["", f"Other weights in {', '.join(result['other_weights'])}: differences are of the weights, too."]
    lines += ["", "Noise: " + "; ".join(f"{s['path']}: {s['noise'] or 'none seen'}" for s in sides) + "."]
    return "\n".join(lines).rstrip() + "\n"


def write(result: dict[str, Any], folder: Path) -> list[Path]:
    """Write `FILES`; answers their paths."""
    contents = (report.as_json(result), report.as_markdown(markdown(result)))
    return report.write_files(dict(zip(FILES, contents, strict=True)), folder)

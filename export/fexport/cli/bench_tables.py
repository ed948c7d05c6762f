"""What `fexport bench` measured, on the screen: the tables of its report as they fit a terminal."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import click

from fexport.bench import plots, report
from fexport.cli.tables import Column, Sheet
from fexruntime.backends.base import precision_said

_RANKS = {"p50": 0, "p90": 5, "p95": 6, "p99": 7, "max": 1}
"""By percentile: how much it is needed where not all have room."""


def show(result: Mapping[str, Any]) -> None:
    """Print a run: verdict, time a frame, stages, networks alone, start-up and sizes."""
    click.echo(plots.title(result))
    click.echo(plots.verdict(result))
    for doubt in plots.doubts(result):
        click.echo(doubt)
    sides = {"fexport": result["fexport"]} | ({"py-feat": result["pyfeat"]} if "pyfeat" in result else {})
    # of few samples there are no high percentiles
    times = [p for p in _RANKS if any(f"{p}_ms" in side["statistics"] for side in sides.values())]
    frames = Sheet(
        Column("ms a frame", whole=True), Column("faces", 3, right=True), Column("samples", 4, right=True),
        *(Column(p, _RANKS[p], right=True) for p in times), Column("frames/s", 2, right=True),
    )  # fmt: skip
    for name, side in sides.items():
        found = side["statistics"]
        faces = side.get("faces_read", result["workload"]["faces_read"])
        cells = (f"{found[f'{p}_ms']:.1f}" if f"{p}_ms" in found else "" for p in times)
        frames.add(name, str(faces), str(len(side["samples"])), *cells, f"{found['frames_per_second']:.1f}")
    frames.show()
    stages = Sheet(Column("stage"), Column("ms", right=True))
    for stage, ms in result["fexport"]["stages_ms"].items():
        stages.add(stage, f"{ms:.2f}")
    stages.add("outside the networks", f"{report.outside_networks_ms(result['fexport']):.2f}")
    stages.show()
    if networks := result.get("networks") or result.get("pyfeat", {}).get("networks"):
        _networks(networks, result.get("gflop", {}))
    for line in report.start_up(result):
        click.echo(line)


def _networks(networks: Mapping[str, Any], gflop: Mapping[str, float]) -> None:
    both = any("ratio" in entry for entry in networks.values())
    table = Sheet(
        Column("network alone, 1 thread"), Column("CPU ms", right=True), Column("GFLOP", 2, right=True),
        *((Column("py-feat", 1, right=True), Column("ratio", right=True)) if both else ()),
    )  # fmt: skip
    for role, entry in networks.items():
        said = [f"{statistics.median(entry['pyfeat_cpu_ms']):.1f}", f"{entry['ratio']:.2f}"] if "ratio" in entry else []
        table.add(entry["network"], f"{entry['cpu_p50_ms']:.2f}", f"{gflop[role]:.3g}" if role in gflop else "", *said)
    table.show()
    if threaded := {e["network"]: e["on_threads"] for e in networks.values() if "on_threads" in e}:
        threads = next(iter(threaded.values()))["threads"]
        table = Sheet(
            Column(f"network alone, {threads} threads"), Column("backend", 2), Column("wall ms", right=True),
            Column("py-feat", 1, right=True), Column("ratio", right=True),
        )  # fmt: skip
        for name, entry in threaded.items():
            medians = [f"{statistics.median(entry[key]):.2f}" for key in ("wall_ms", "pyfeat_wall_ms")]
            table.add(name, entry["backend"], *medians, f"{entry['ratio']:.2f}")
        table.show()


def show_two(result: Mapping[str, Any]) -> None:
    """Print a run of two bundles in turns: times, what the second's rows differ in."""
    work, apart, ratio = result["workload"], result["differences"], result["ratio"]
    click.echo(f"{work['frame']}, {work['faces_read']} faces, {work['threads']} threads, {work['rounds']} rounds")
    times = Sheet(
        Column("bundle"), Column("precision", 2), Column("backend", 1), Column("MB", 3, right=True), Column("p50 ms", right=True),
        Column("max ms", 4, right=True),
    )  # fmt: skip
    for side in result["sides"]:
        said = side["describe"].values()
        kinds = (", ".join(dict.fromkeys(names)) for names in (map(precision_said, said), (n["backend"] for n in said)))
        found = side["statistics"]
        times.add(side["path"], *kinds, f"{side['size_mb']:.1f}", f"{found['p50_ms']:.1f}", f"{found['max_ms']:.1f}")
    times.show()
    click.echo(
        f"the second's time over the first's: {ratio['paired_p50']:.2f} (middle half {ratio['paired_p25']:.2f} to {ratio['paired_p75']:.2f})"
    )
    click.echo(f"{apart['faces']} faces of both, {apart['faces_of_one_side']} of one alone")
    groups = Sheet(
        Column("group"), Column("unit"), Column("values", 2, right=True), Column("max", right=True), Column("p99", 3, right=True),
        Column("mean", 1, right=True),
    )  # fmt: skip
    for g in apart["groups"]:
        groups.add(g["group"], g["unit"], str(g["values"]), *(f"{g[k]:.3g}" for k in ("max", "p99", "mean")))
    groups.show()
    for side in result["sides"]:
        if made_up := side["bundle"]["stand_ins"]:
            click.echo(
                f"stand-in weights in {side['path']} ({', '.join(made_up)}): differences say nothing of real ones"
            )
    if result["other_weights"]:
        click.echo(f"other weights in {', '.join(result['other_weights'])}: differences are of the weights, too")

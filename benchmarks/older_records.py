"""Records that an older `fexport bench` made, in the form of today's: what follows from their samples is computed anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fexport.bench import measure
from fexport.bench.measure import Sample

ALL_DATED_FROM = "2026-11-26"
"""The first day all of whose records say when, and of which commit, they were made."""
GFLOP = {"retinaface-r34": 48.694272, "multitask-v28": 9.759087552, "arcface": 12.681969664}
"""GFLOP of one item (a frame of 640 x 480), as torch counted them on the modules; today's records count their own graphs."""


def today(result: dict[str, Any]) -> dict[str, Any]:
    """The record itself if it is dated; else marked "before …", without what nobody measured then.

    That is: peaks of memory, noise of py-feat's side (its share of other processes was written as 0), the split of py-feat's
    environment, the digests of the weights.
    """
    if "date" in result["machine"]:
        return result
    result["machine"]["date"] = f"before {ALL_DATED_FROM}"
    work = result["workload"]
    work["bundle"] = {"precision": ["fp32"], "weights": {}, **work["bundle"]}
    sides = {}
    for name in ("fexport", "pyfeat"):
        side = result[name]
        sides[name] = [
            Sample(s["wall_ms"], s["cpu_ms"], s["foreign_share"] if name == "fexport" else None)
            for s in side["samples"]
        ]
        side["statistics"] = measure.statistics(sides[name])
        side["noise"] = measure.noise(sides[name])
    result["ratio"] = {"p50": result["ratio"]["p50"], **measure.paired(*sides.values())}
    if not isinstance(result["pyfeat"]["installed_mb"], dict):
        result["pyfeat"]["installed_mb"] = {"rest": result["pyfeat"]["installed_mb"]}
    if "gflop" not in result and work["frame"] == "640 x 480":
        counted = {role: GFLOP.get(name) for role, name in work["bundle"]["networks"].items()}
        result["gflop"] = {role: value for role, value in counted.items() if value is not None}
    return result


def when(result: Mapping[str, Any]) -> str:
    """Date and commit of a record, or of each of its parts where they are of several, as two cells of a table."""
    machine = result.get("machine", {})
    commits = dict.fromkeys(p.get("commit") or "–" for p in result.get("parts", [machine]))
    return f"{machine.get('date', 'not said').partition('T')[0]} | {', '.join(commits)}"


def recorded(result: Mapping[str, Any]) -> str:
    """The same, in a sentence."""
    return when(result).replace(" | ", ", commit ")

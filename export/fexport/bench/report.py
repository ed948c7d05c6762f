"""What was measured, for a person: Markdown, two plots, one HTML page that holds them; the JSON has every sample."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fexport.bench import plots
from fexport.bench.cold import STEADY_FRAMES
from fexport.bench.page import page
from fexruntime.files import check_folder, check_ours, replacing

FILES = ("samples.json", "report.md", "latency.png", "stages.png", "report.html")
_MARK = b"fexport bench"
"""In each file that is written, so that the next run may replace it and nobody else's."""
_PERCENTILES = ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms")


def write(result: dict[str, Any], folder: Path) -> list[Path]:
    """Write `FILES`; answers their paths."""
    pictures = {"latency.png": plots.latency(result), "stages.png": plots.stages(result)}
    text = markdown(result)
    html = page(text, f"{_MARK.decode()}: {plots.title(result)}", pictures).encode()
    contents = (as_json(result), as_markdown(text), *pictures.values(), html)
    return write_files(dict(zip(FILES, contents, strict=True)), folder)


def check_target(folder: Path, names: Sequence[str]) -> None:
    """OutputError unless files of these names can be written into `folder`: where one is there, `fexport bench` wrote it."""
    check_folder(folder)
    for name in names:
        check_ours(folder / name, _MARK)


def write_files(contents: Mapping[str, bytes], folder: Path) -> list[Path]:
    """Write files by name, each whole or not at all, once `check_target` has nothing against any of them."""
    check_target(folder, tuple(contents))
    for name, data in contents.items():
        with replacing(folder / name) as temporary:
            temporary.write_bytes(data)
    return [folder / name for name in contents]


def as_json(result: Mapping[str, Any]) -> bytes:
    """A result as the file of it, marked."""
    text = json.dumps({"written_by": _MARK.decode(), **result}, indent=1, default=dataclasses.asdict)
    return f"{text}\n".encode()


def as_markdown(text: str) -> bytes:
    """A page as the file of it, marked where no reader sees it."""
    return f"{text.rstrip()}\n\n<!-- {_MARK.decode()} -->\n".encode()


def outside_networks_ms(side: Mapping[str, Any]) -> float:
    """Milliseconds a frame of all stages that are no network."""
    return float(sum(ms for stage, ms in side["stages_ms"].items() if not stage.endswith(" network")))


def markdown(result: dict[str, Any], pictures: str = "") -> str:
    """The figures of a run as Markdown tables, and its plots, whose names begin with `pictures`."""
    work, ours, theirs = result["workload"], result["fexport"], result.get("pyfeat")
    packages = ", ".join(f"{k} {v}" for k, v in result["machine"]["packages"].items())
    lines = [
        f"# {plots.title(result)}",
        "",
        f"**{plots.verdict(result)}**",
        "",
        *(line for doubt in plots.doubts(result) for line in (f"- {doubt}", "")),
        f"{plots.machine(result)}. {packages}."
        + (f" py-feat's side: {', '.join(f'{k} {v}' for k, v in theirs['versions'].items())}." if theirs else ""),
        "",
    ]
    used = [f"{role} {said['backend']}" for role, said in result.get("describe", {}).items()]
    lines += [f"Backends: {', '.join(used)}.", ""] if used else []
    lines += [f"Made by `{result['command']}`.", ""] if result.get("command") else []
    lines += ["| ms a frame | p50 | p90 | p95 | p99 | max | frames/s |", "|---|---|---|---|---|---|---|"]
    for name, side in (("fexport", ours), ("py-feat", theirs)):
        if side is not None:
            s = side["statistics"]
            cells = [f"{s[k]:.1f}" if k in s else "–" for k in (*_PERCENTILES, "frames_per_second")]
            lines.append(f"| {name} ({_faces(side, work)}{len(side['samples'])} samples) | {' | '.join(cells)} |")
    lines += ["", f"![time a frame]({pictures}latency.png)", ""]
    noise = [
        f"{name}: {side.get('noise', 'not judged') or 'none seen'}"
        for name, side in (("fexport", ours), ("py-feat", theirs))
        if side
    ]
    lines += [f"Noise: {'; '.join(noise)}.", "", "| stage | ms |", "|---|---|"]
    lines += [f"| {stage} | {taken:.2f} |" for stage, taken in ours["stages_ms"].items()]
    lines += [f"| *outside the networks* | {outside_networks_ms(ours):.2f} |", ""]
    if work.get("pixels", "cpu") != "cpu":
        lines += [
            'Stages are by the GPU\'s clock (CUDA events), the median of each; "asking the GPU" is what the CPU spent beside.',
            "",
        ]
    lines += [f"![where the time goes]({pictures}stages.png)", ""]
    networks = result.get("networks") or (theirs or {}).get("networks")
    if networks:
        counted = result.get("gflop", {})
        lines += [
            "| network alone, one thread, CPU ms | backend | fexport | py-feat | ratio | GFLOP |",
            "|---|---|---|---|---|---|",
        ]
        for role, entry in networks.items():
            other = f"{np.median(entry['pyfeat_cpu_ms']):.1f} | {entry['ratio']:.2f}" if "ratio" in entry else "– | –"
            work_of = f"{counted[role]:.3g}" if role in counted else "–"
            backend = entry.get("backend", "not said")  # older records
            lines.append(f"| {entry['network']} | {backend} | {entry['cpu_p50_ms']:.2f} | {other} | {work_of} |")
        lines.append("")
        threaded = {e["network"]: e["on_threads"] for e in networks.values() if "on_threads" in e}
        if threaded:
            lines += [
                f"| network alone, {work['threads']} threads, wall ms | backend | its threads | fexport | py-feat | ratio |",
                "|---|---|---|---|---|---|",
            ]
        for name, entry in threaded.items():
            ours_ms, theirs_ms = (np.median(entry[key]) for key in ("wall_ms", "pyfeat_wall_ms"))
            lines.append(
                f"| {name} | {entry['backend']} | {entry['backend_threads']} | {ours_ms:.2f} | {theirs_ms:.2f} | {entry['ratio']:.2f} |"
            )
        lines += [""] if threaded else []
    lines += [part for line in start_up(result) for part in (line, "")]
    return "\n".join(lines)


def _faces(side: Mapping[str, Any], work: Mapping[str, Any]) -> str:
    faces = side.get("faces_read", work.get("faces_read"))
    return "" if faces is None else f"{faces} face{'s' * (faces != 1)}, "


def start_up(result: Mapping[str, Any]) -> list[str]:
    """Sentences on start-up, memory and disk of both sides."""
    theirs = result.get("pyfeat")
    lines = []
    if "start_up" in result:
        for label, run in (("first ever (graphs optimised)", result["start_up"][0]), ("later", result["start_up"][-1])):
            lines += [
                f"Start-up in a fresh process, {label}: import {run['import_s']:.2f} s, load {run['load_s']:.2f} s, first frame "
                f"{run['first_frame_s']:.2f} s; resident then {_memory(run)}.",
            ]
        if (steady := steady_mb(result)) is not None:
            lines.append(f"Resident after {STEADY_FRAMES} more frames there {steady:.0f} MB.")
    ours = result["fexport"]
    sizes = result["installed_mb"]
    lines += [
        f"Resident after all frames, with what measures them in the same process, {_memory(ours)}.",
        f"Installed: {sum(sizes.values()):.0f} MB ({', '.join(f'{k} {v:.0f}' for k, v in sizes.items())}).",
    ]
    if theirs is not None:
        installed = theirs["installed_mb"]
        # a record of before peaks were measured, or CUDA's files counted apart, says neither
        environment = (
            f"environment {installed['rest']:.0f} MB without what serves CUDA alone, which is {installed['cuda']:.0f} MB more"
            if "cuda" in installed
            else f"environment {installed['rest']:.0f} MB, CUDA's libraries included"
        )
        lines += [
            f"py-feat: import and load {theirs['load_s']:.1f} s; resident after all frames {_memory(theirs)}; {environment}.",
        ]
    return lines


def steady_mb(result: Mapping[str, Any]) -> float | None:
    """Resident megabytes of a process that runs the workload and nothing else, once graphs are kept; None in older records."""
    runs = [run["steady_mb"] for run in result.get("start_up", ())[1:] if "steady_mb" in run]
    return float(np.median(runs)) if runs else None


def _memory(side: Mapping[str, Any]) -> str:
    said = f"{side['rss_mb']:.0f} MB" + (f", at most {side['peak_mb']:.0f} MB" if "peak_mb" in side else "")
    return said + (f"; on the GPU {side['vram_mb']:.0f} MB" if "vram_mb" in side else "")

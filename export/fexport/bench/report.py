"""What was measured, for a person: Markdown, two plots, one HTML page that holds them; the JSON has every sample."""

from __future__ import annotations

import base64
import html
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from fexruntime.files import replacing


def write(result: dict[str, Any], folder: Path) -> list[Path]:
    """Write samples.json, report.md, latency.png, stages.png and report.html; answers their paths."""
    latency, stages = _latency_png(result), _stages_png(result)
    text = markdown(result)
    contents = {
        "samples.json": (json.dumps(result, indent=1) + "\n").encode(),
        "report.md": text.encode(),
        "latency.png": latency,
        "stages.png": stages,
        "report.html": _page(text, {"latency": latency, "stages": stages}).encode(),
    }
    for name, data in contents.items():
        with replacing(folder / name) as temporary:
            temporary.write_bytes(data)
    return [folder / name for name in contents]


def markdown(result: dict[str, Any]) -> str:
    """The figures of a run as Markdown tables."""
    work, ours, theirs = result["workload"], result["fexport"], result.get("pyfeat")
    bundle = work["bundle"]
    faces = "the faces it finds" if work["faces"] is None else f"{work['faces']} faces"
    lines = [
        f"# {bundle['pipeline']}, {bundle['contract']}: {work['frame']}, {faces}, {work['threads']} threads",
        "",
        f"{result['machine']['cpu']}, {result['machine']['cores']} cores, {result['machine']['system']}. "
        + ", ".join(f"{k} {v}" for k, v in result["machine"]["packages"].items())
        + ".",
        "",
    ]
    used = [f"{role} {said['backend']}" for role, said in result.get("describe", {}).items()]
    lines += [f"Backends: {', '.join(used)}.", ""] if used else []
    if work["detector_size"]:
        lines += [f"Not exact: the detector saw frames shrunk to {work['detector_size']} px.", ""]
    if bundle["stand_ins"]:
        lines += [f"Stand-in weights: {', '.join(bundle['stand_ins'])} (speed does not depend on the weights).", ""]
    lines += ["| ms a frame | p50 | p90 | p95 | p99 | max | frames/s |", "|---|---|---|---|---|---|---|"]
    for name, side in (("fexport", ours), ("py-feat", theirs)):
        if side is not None:
            s = side["statistics"]
            cells = [f"{s[k]:.1f}" for k in ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms", "frames_per_second")]
            lines.append(f"| {name} ({len(side['samples'])} samples) | {' | '.join(cells)} |")
    lines.append("")
    if "ratio" in result:
        lines += [f"**{result['ratio']['paired_p50']:.2f} times py-feat** (median of the rounds' own ratios).", ""]
    noise = [
        f"{name}: {side.get('noise', 'not judged') or 'none seen'}"
        for name, side in (("fexport", ours), ("py-feat", theirs))
        if side
    ]
    lines += [f"Noise: {'; '.join(noise)}.", "", "| stage | ms |", "|---|---|"]
    lines += [f"| {stage} | {taken:.2f} |" for stage, taken in ours["stages_ms"].items()]
    outside = sum(v for k, v in ours["stages_ms"].items() if not k.endswith(" network"))
    lines += [f"| *outside the networks* | {outside:.2f} |", ""]
    networks = result.get("networks") or (theirs or {}).get("networks")
    if networks:
        lines += ["| network alone, one thread, CPU ms | fexport | py-feat | ratio |", "|---|---|---|---|"]
        for entry in networks.values():
            other = f"{np.median(entry['pyfeat_cpu_ms']):.1f} | {entry['ratio']:.2f}" if "ratio" in entry else "– | –"
            lines.append(f"| {entry['network']} | {entry['cpu_p50_ms']:.2f} | {other} |")
        lines.append("")
    lines += _start_up(result)
    return "\n".join(lines)


def _start_up(result: dict[str, Any]) -> list[str]:
    theirs = result.get("pyfeat")
    lines = []
    if "start_up" in result:
        for label, run in (("first ever (graphs optimised)", result["start_up"][0]), ("later", result["start_up"][-1])):
            lines += [
                f"Start-up, {label}: import {run['import_s']:.2f} s, load {run['load_s']:.2f} s, first frame "
                f"{run['first_frame_s']:.2f} s, then resident {run['rss_mb']:.0f} MB.",
                "",
            ]
    lines += [f"Resident after all frames: {result['fexport']['rss_mb']:.0f} MB.", ""]
    sizes = result["installed_mb"]
    lines += [f"Installed: {sum(sizes.values()):.0f} MB ({', '.join(f'{k} {v:.0f}' for k, v in sizes.items())}).", ""]
    if theirs is not None:
        lines += [
            f"py-feat: import and load {theirs['load_s']:.1f} s, resident after all frames {theirs['rss_mb']:.0f} MB, environment "
            f"{theirs['installed_mb']:.0f} MB; " + ", ".join(f"{k} {v}" for k, v in theirs["versions"].items()) + ".",
            "",
        ]
    return lines


def _latency_png(result: dict[str, Any]) -> bytes:
    """Sorted latencies of each side: the whole distribution, tail included."""
    figure, axes = _figure()
    for name, key in (("fexport", "fexport"), ("py-feat", "pyfeat")):
        if key in result:
            wall = np.sort([s["wall_ms"] for s in result[key]["samples"]])
            axes.plot(np.linspace(0, 100, len(wall)), wall, marker="o", markersize=3, label=name)
    axes.set_xlabel("percentile of frames")
    axes.set_ylabel("ms a frame")
    axes.set_ylim(bottom=0)
    axes.legend()
    axes.grid(alpha=0.3)
    return _png(figure)


def _stages_png(result: dict[str, Any]) -> bytes:
    stages = result["fexport"]["stages_ms"]
    figure, axes = _figure()
    axes.barh(list(stages)[::-1], list(stages.values())[::-1])
    for place, taken in enumerate(list(stages.values())[::-1]):
        axes.text(taken, place, f" {taken:.1f}", va="center")
    axes.set_xlabel("ms a frame (median)")
    axes.margins(x=0.15)
    return _png(figure)


def _figure() -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _page(text: str, pictures: dict[str, bytes]) -> str:
    images = "".join(
        f'<p><img alt="{name}" src="data:image/png;base64,{base64.b64encode(data).decode()}"></p>'
        for name, data in pictures.items()
    )
    return f'<!doctype html><meta charset="utf-8"><title>fexport bench</title><pre>{html.escape(text)}</pre>{images}\n'

"""Pictures of a run. Each says what was run, on what, what came out, and what is to be said against it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from fexruntime.backends.base import precision_said

_COLOURS = {"fexport": "#1f6f8b", "py-feat": "#c8553d"}


def title(result: Mapping[str, Any]) -> str:
    """What was run: pipeline, contract, frame, faces, threads."""
    work, bundle = result["workload"], result["workload"]["bundle"]
    faces = work.get("faces_read", work["faces"])
    counted = "the faces it finds" if faces is None else f"{faces} face{'s' * (faces != 1)}"
    threads = f"{work['threads']} thread{'s' * (work['threads'] != 1)}"
    return f"{bundle['pipeline']}, {bundle['contract']}: {work['frame']}, {counted}, {threads}"


def machine(result: Mapping[str, Any]) -> str:
    """On what, when, of which commit."""
    said = result["machine"]
    parts = [f"{said['cpu']}, {said['cores']} cores, {said['memory_gib']} GiB, {said['system']}", said.get("date")]
    parts.append(f"commit {said['commit']}" if said.get("commit") else None)
    return "; ".join(part for part in parts if part)


def verdict(result: Mapping[str, Any]) -> str:
    """What came out, in one line."""
    if "ratio" in result:
        ratio = result["ratio"]
        return (
            f"{ratio['paired_p50']:.2f} times py-feat (median of the rounds' own ratios; the middle half of them "
            f"{ratio['paired_p25']:.2f} to {ratio['paired_p75']:.2f})"
        )
    found = result["fexport"]["statistics"]
    return f"{found['p50_ms']:.1f} ms a frame (median), {found['frames_per_second']:.1f} frames a second"


def doubts(result: Mapping[str, Any]) -> list[str]:
    """What a reader must know before believing the figures: noise of either side, what is not exact, made-up weights."""
    work, bundle = result["workload"], result["workload"]["bundle"]
    said = []
    for name, key in (("fexport", "fexport"), ("py-feat", "pyfeat")):
        if key in result and result[key]["noise"]:
            said.append(f"NOISY ({name}): {result[key]['noise']}")
    if work["detector_size"]:
        said.append(f"not exact: fexport's face detector saw frames shrunk to {work['detector_size']} px")
    if work.get("output_size"):
        both = "both sides" if "pyfeat" in result else "it"
        said.append(f"frames are scaled to {work['output_size']} px (output_size), and read from a file, by {both}")
    lower = []
    if any(p != "fp32" for p in bundle["precision"]):
        runs_in = [precision_said(d) for d in result.get("describe", {}).values() if "precision" in d]
        lower = [kind for kind in dict.fromkeys(runs_in) if kind != "fp32"]
    if lower:
        said.append(
            f"fexport has {', '.join(lower)} networks" + (", py-feat computes in fp32" if "pyfeat" in result else "")
        )
    if bundle["stand_ins"]:
        said.append(f"stand-in weights: {', '.join(bundle['stand_ins'])} (they cost what real ones cost)")
    own = [
        role for role, files in bundle["weights"].items() if role not in bundle["stand_ins"] and not _published(files)
    ]
    if own:
        said.append(f"not the published weights: {', '.join(own)} (others cost the same)")
    return said


def _published(files: list[dict[str, Any]]) -> bool:
    return all(file["published"] for file in files)


def latency(result: Mapping[str, Any]) -> bytes:
    """Sorted latencies of each side as PNG: the whole distribution, tail included."""
    figure, axes = _figure(result, "time a frame")
    for name, key in (("fexport", "fexport"), ("py-feat", "pyfeat")):
        if key in result:
            wall = np.sort([s["wall_ms"] for s in result[key]["samples"]])
            label = f"{name}, median {np.median(wall):.0f} ms"
            axes.plot(np.linspace(0, 100, len(wall)), wall, marker="o", markersize=3, label=label, color=_COLOURS[name])
    axes.set_xlabel("percentile of frames")
    axes.set_ylabel("ms a frame")
    axes.set_ylim(bottom=0)
    axes.legend()
    axes.grid(alpha=0.3)
    return png(figure)


def stages(result: Mapping[str, Any]) -> bytes:
    """Median milliseconds of each stage of fexport's side, as PNG."""
    taken = list(result["fexport"]["stages_ms"].items())[::-1]
    figure, axes = _figure(result, "where fexport's time goes")
    axes.barh([name for name, _ in taken], [ms for _, ms in taken], color=_COLOURS["fexport"])
    for place, (_, ms) in enumerate(taken):
        axes.text(ms, place, f" {ms:.1f}", va="center")
    axes.set_xlabel("ms a frame (median)")
    axes.margins(x=0.15)
    return png(figure)


def _figure(result: Mapping[str, Any], what: str) -> tuple[Any, Any]:
    below = [machine(result), *doubts(result)]
    figure, axes = figure_of(f"{title(result)}\n{what}; {verdict(result).partition(' (')[0]}", below)
    return figure, axes


def figure_of(above: str, below: list[str], height: float = 3.8) -> tuple[Any, Any]:
    """A figure and its axes, with a title, and small lines under it; lines that begin with NOISY are red."""
    import textwrap

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    lines = [(part, text.startswith("NOISY")) for text in below for part in textwrap.wrap(text, 115)]
    foot = 0.16 * len(lines)
    share = foot / (height + foot)
    engine = ConstrainedLayoutEngine(rect=(0, share, 1, 1 - share))
    figure = Figure(figsize=(7.5, height + foot), layout=engine)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(above, fontsize=10, loc="left")
    for k, (text, red) in enumerate(reversed(lines)):
        y = (0.16 * k + 0.05) / (height + foot)
        figure.text(0.01, y, text, fontsize=7, color="#b00020" if red else "#555555")
    return figure, axes


def png(figure: Any) -> bytes:
    """A figure as a PNG file's bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": "fexport bench"})
    return buffer.getvalue()

"""Measured figures of README.md and of pages of docs/, from the records: what stands between two comments there.

`<!-- measured: NAME -->` … `<!-- /measured -->`, NAME of `SECTIONS`. What a page says beside them has no measured number: a test looks.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable
from typing import Any

import older_records
import readme_table
from pieces import HERE, RESULTS

from fexport.bench import report

ROOT = HERE.parent
PAGES = (
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("detectorv1", "head-pose", "performance", "precision", "video")),
)
_SECTION = re.compile(r"<!-- measured: (\S+) -->\n.*?<!-- /measured -->", re.S)
_SHOWN_LAYERS = 6
Workloads = dict[str, dict[str, Any]]


def filled(page: str, found: Workloads) -> str:
    """A page with the figures of the records."""

    def section(match: re.Match[str]) -> str:
        lines = readme_table.lines(found) if match[1] == "frames" else SECTIONS[match[1]]()
        return "\n".join((f"<!-- measured: {match[1]} -->", *lines, "<!-- /measured -->"))

    return _SECTION.sub(section, page)


def write(found: Workloads) -> None:
    """Fill every page."""
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8"), found), encoding="utf-8")


def record(name: str) -> Any:
    """A file of the results."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def on(said: dict[str, Any]) -> str:
    """Where and when, as far as a record says it."""
    machine = said.get("machine", {})
    parts = [machine.get("cpu"), machine.get("date", "").partition("T")[0]]
    parts.append(f"commit {machine['commit']}" if machine.get("commit") else "")
    return ", ".join(p for p in parts if p)


def table(head: str, *lines: str) -> list[str]:
    """Cells separated by bars, as Markdown."""
    return [f"| {head} |", f"|{'---|' * (head.count(' | ') + 1)}", *(f"| {line} |" for line in lines)]


def _video_fidelity() -> list[str]:
    found = record("video_fidelity")
    lines = (
        f"{name} | {f['rows']} of {f['rows_pyfeat']} | {'yes' if f['rows_one_to_one'] and f['share_within']['texts'] == 1 else 'NO'} | "
        f"{f['worst_px']:.4f} | {f['worst_share']:.1e} | {f['levels']['most']}"
        for name, f in found["files"].items()
    )
    head = "file | rows of py-feat's | one to one, texts equal | worst coordinate, px | worst other cell, of its value | pixels apart, levels at most"
    return [*table(head, *lines), "", f"{on(found)}; py-feat {found['pyfeat']['py-feat']}."]


def _video_overlap() -> list[str]:
    lines = []
    for name in ("video_overlap_1_thread", "video_overlap"):
        r = record(name)
        slowest, whole = (1e3 * r["median_s"][k] * r["frames"] for k in (r["slowest"], "whole"))
        first, end = (1e3 * statistics.median(v[k] for v in r["first_frame_and_end_s"]) for k in (0, 1))
        lines.append(
            f"{r['threads']} of {r['machine']['cores']} cores | {r['slowest']} {slowest:.0f} ms | {whole:.0f} ms | {r['fastest_over_fastest']:.2f} | "
            f"{r['whole_over_slowest']:.2f} | {first:.0f} ms | {end:.0f} ms"
        )
    head = "networks on | slowest stage | whole | fastest over fastest | median over median | first frame | end of the file"
    return [*table(head, *lines), "", f"{on(r)}; {r['clip']}, {r['frames']} frames."]


_WAYS = {
    "flow": "corners followed there and back (what is done)",
    "template": "template, best of three sizes",
    "landmarks": "as the landmarks of the frame before moved (FaceMesh's way)",
    "still": "box stays",
    "velocity": "velocity of the last two detections",
}


def _video_following() -> list[str]:
    found = record("video_following")
    clips = found["clips"]
    lines = []
    for way, words in _WAYS.items():
        cells = []
        for clip in clips.values():
            px = [statistics.fmean(v for c in clip["ways"][way][n]["corner_px"] for v in c) for n in ("5", "10")]
            lost = [clip["ways"][way][n]["lost"] for n in ("5", "10")]
            cells.append(f"{px[0]:.1f} ({px[1]:.1f})" + (f", lost {lost[0]} ({lost[1]})" if any(lost) else ""))
        cpu = statistics.median(clip["ways"][way]["5"]["cpu_s_a_frame"] for clip in clips.values())
        lines.append(f"{words} | {' | '.join(cells)} | {1e3 * cpu:.1f} ms")
    head = " | ".join(f"{name} ({clip['face_width_px']:.0f} px)" for name, clip in clips.items())
    return [*table(f"way | {head} | CPU a frame", *lines), "", f"{on(found)}."]


def _video_every() -> list[str]:
    alone, whole = record("video_tracking"), record("video_every_fifth")
    lines = [
        f"the detector alone, every {n} | {alone['times_faster_than_every_frame'][n]:.1f} of itself in each | {_drift(d)}"
        for n, d in alone["drift"].items()
    ]
    lines += [
        f"{whole['pipeline']} in {kind}, every {whole['every']} | {times:.1f} of py-feat {whole['pyfeat']['py-feat']} in each | {_drift(whole['drift'][kind])}"
        for kind, times in whole["times_pyfeat"].items()
    ]
    head = "detects in | times as fast | corners apart from detecting in each, px: mean | 95 % | largest"
    return [
        *table(head, *lines),
        "",
        f"{on(alone)}; {alone['clip']}, {alone['threads']} threads; stand-in weights in {whole['pipeline']}.",
    ]


def _drift(d: dict[str, float]) -> str:
    return " | ".join(f"{d[f'box_corner_px_{k}']:.1f}" for k in ("mean", "p95", "max"))


def _heads() -> list[str]:
    found = record("unread_heads")
    cpu = {name: statistics.median(samples) for name, samples in found["cpu_ms"].items()}
    whole = cpu.pop("every output")
    lines = (f"{name} | {ms:.1f} | {100 * (1 - ms / whole):+.0f} %" for name, ms in cpu.items())
    said = f"{on(found)}; {found['network']} in ONNX Runtime, {found['threads']} thread{'s' * (found['threads'] != 1)}."
    return [*table("outputs | CPU ms | saved", f"every output | {whole:.1f} | ", *lines), "", said]


def _outputs() -> list[str]:
    found = record("unread_outputs")
    cpu = {name: statistics.median(samples) for name, samples in found["cpu_ms"].items()}
    lines = (
        f"{engine} | {cpu[f'{engine}, every output']:.1f} | {cpu[f'{engine}, read ones']:.1f}"
        for engine in dict.fromkeys(name.partition(",")[0] for name in cpu)
    )
    return [*table(f"{found['network']}, CPU ms | every output | those that are read", *lines), "", f"{on(found)}."]


def _ncnn_options() -> list[str]:
    runs = [record(f"ncnn_options_{threads}") for threads in (1, 2)]
    lines = []
    for network, measured in runs[0]["networks"].items():
        for choice in measured["choices"]:
            cells = (_over_default(r["networks"][network]["choices"][choice]) for r in runs)
            lines.append(f"{network} | {choice} | {' | '.join(cells)}")
    head = " | ".join(f"{r['threads']} thread{'s' * (r['threads'] != 1)}" for r in runs)
    return [*table(f"network | ways to convolve | {head}", *lines), "", f"{on(runs[0])}; middle half in brackets."]


def _over_default(choice: dict[str, Any]) -> str:
    low, high = choice["ratio_quartiles"]
    return f"{choice['ratio']:.2f}" + ("" if low == high else f" ({low:.2f} to {high:.2f})")


def _ncnn_profile() -> list[str]:
    lines = []
    for name in ("faces", "identity", "identity_without"):
        found = record(f"ncnn_profile_{name}")
        whole = sum(found["cpu_ms"].values())
        called = found["network"] + (", F(2x2) alone" if found["without"] else "")
        for layer, ms in list(found["cpu_ms"].items())[:_SHOWN_LAYERS]:
            lines.append(f"{called} | {layer} | {ms:.1f} | {100 * ms / whole:.0f} %")
            called = ""
    head = "network | layers | CPU ms | of the profile's sum"
    return [*table(head, *lines), "", f"{on(found)}; one thread; the {_SHOWN_LAYERS} kinds of layers that take most."]


def _winograd() -> list[str]:
    lines = []
    for r in record("winograd"):
        ms = {way: statistics.median(samples) for way, samples in r["ms"].items()}
        lines.append(f"{' x '.join(map(str, r['map']))} | " + " | ".join(f"{v:.2f}" for v in ms.values()))
    return table(f"map (channels, height, width), ms | {' | '.join(ms)}", *lines)


def _reduced_points() -> list[str]:
    found = record("reduced_points")
    lines = [
        f"{name}, {precision} | {r['mean_px']:.3f} | {r['largest_px']:.2f} | {r['nme_percent']:.2f} % | {r['worst_nme_percent']:.2f} % | "
        f"{', '.join(f'{k} {v:.3g}' for k, v in r['loss'].items()) or 'none'}"
        for name, network in found["networks"].items()
        for precision, r in network["precisions"].items()
    ]
    head = "network | mean px | largest px | of the eyes' distance, mean | worst face | beyond the budget"
    return [*table(head, *lines), "", f"{on(found)}; pixels of the network's crop, published weights, held-out faces."]


def _detectorv1() -> list[str]:
    lines = []
    for name in ("detectorv1_default_vga_1_face", "detectorv1_default_vga_5_faces"):
        r = older_records.today(record(name))
        faces = r["workload"]["faces"]
        ours, theirs = (r[side] for side in ("fexport", "pyfeat"))
        after_a_frame = [run["rss_mb"] for run in r.get("start_up", ())][-1:]
        resident = [mb for mb in (report.steady_mb(r), *after_a_frame) if mb is not None]
        fresh = f"{resident[0]:.0f} MB" if resident else "not measured"
        lines.append(
            f"{faces} face{'s' * (faces != 1)} | {ours['statistics']['p50_ms']:.0f} ms | {theirs['statistics']['p50_ms']:.0f} ms | "
            f"{r['ratio']['paired_p50']:.2f} | {report.outside_networks_ms(ours):.0f} ms | {fresh} | {theirs['rss_mb']:.0f} MB"
        )
    head = "Detectorv1's default | fexport | py-feat | ratio | of it outside the networks | fexport resident, a fresh process | py-feat resident"
    return [
        *table(head, *lines),
        "",
        f"{on(r)}; {r['workload']['frame']}, {r['workload']['threads']} threads; stand-in weights.",
    ]


def _img2pose() -> list[str]:
    r = record("img2pose_vga_many_candidates")
    lines = []
    for side in ("fexport", "py-feat"):
        walls = [wall for wall, _, _ in r["wall_ms_cpu_ms_rss_mb"][side]]
        lines.append(
            f"{side} | {r['faces'][side]} | {r['p50_ms'][side]:.0f} ms | {min(walls):.0f} to {max(walls):.0f} ms | {r['rss_mb'][side]:.0f} MB"
        )
    said = f"{on(r)}; {r['work']}, {r['threads']} threads; py-feat's loop projects {r['proposals_that_pyfeat_projects']} proposals."
    return [*table("side | faces | p50 | all samples | resident", *lines), "", said]


def _tokenhpe() -> list[str]:
    runs = [record(name) for name in ("tokenhpe_1_thread", "tokenhpe")]
    lines = (
        f"{r['threads']} | {r['median_ms']['fexport']:.0f} ms | {r['median_ms']['torch']:.0f} ms | {r['times_faster']:.2f}"
        for r in runs
    )
    return [
        *table("threads | fexport | torch, eager | ratio", *lines),
        "",
        f"{runs[0]['cpu']}; torch {runs[0]['versions']['torch']}.",
    ]


SECTIONS: dict[str, Callable[[], list[str]]] = {
    "detectorv1": _detectorv1,
    "img2pose": _img2pose,
    "tokenhpe": _tokenhpe,
    "video-fidelity": _video_fidelity,
    "video-overlap": _video_overlap,
    "video-following": _video_following,
    "video-every-nth": _video_every,
    "heads": _heads,
    "outputs": _outputs,
    "ncnn-options": _ncnn_options,
    "ncnn-profile": _ncnn_profile,
    "winograd": _winograd,
    "reduced-points": _reduced_points,
}

"""REPORT.md from the recorded samples."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import older_records
from record import RESULTS, WORKLOADS

from fexport.bench import plots, report
from fexport.bench.page import page

TARGETS = {
    # what was asked for: (workload, what, at least), over py-feat's eager torch
    "whole frame, VGA, 1 face": ("vga_1_face", "frame", 1.8),
    "whole frame, VGA, 5 faces": ("vga_5_faces", "frame", 1.55),
    "whole frame, 1080p, detector at 640": ("hd_1_face_detector_640", "frame", 5.0),
    "detector alone, one thread": ("vga_1_face", "faces", 1.9),
    "multitask alone, one thread": ("vga_1_face", "multitask", 1.3),
    "ArcFace alone, one thread": ("vga_1_face", "identity", 1.1),
    "MobileFaceNet alone, one thread": ("detectorv1_vga_1_face", "landmarks", 2.4),
}


def main() -> None:
    """Write REPORT.md, its plots, and REPORT.html, which holds them."""
    kept = {n: json.loads((RESULTS / f"{n}.json").read_text()) for n in WORKLOADS if (RESULTS / f"{n}.json").exists()}
    found = {name: older_records.today(result) for name, result in kept.items()}
    lines = [
        "# What was measured",
        "",
        "Made by `benchmarks/report.py` from `benchmarks/results/`. Both sides took turns on the same frames with the same number of",
        "threads; a ratio is the median of the rounds' own ratios. Weights: made by the stand-in recipe; they cost what real ones cost.",
        "",
        "| workload | fexport p50 ms | py-feat p50 ms | ratio | recorded |",
        "|---|---|---|---|---|",
    ]
    for name, result in found.items():
        ours, theirs = (result[k]["statistics"]["p50_ms"] for k in ("fexport", "pyfeat"))
        when = result["machine"]["date"].partition("T")[0]
        lines.append(f"| {name} | {ours:.0f} | {theirs:.0f} | {result['ratio']['paired_p50']:.2f} | {when} |")
    lines += [
        "",
        *_targets(found),
        *_footprint(),
        *_backends(),
        *_in_turns(),
        *_precisions(),
        *_limit(found),
        *_profiles(),
        *_gate(),
        *_pools(),
    ]
    pictures = {}
    for name, result in found.items():
        lines += [report.markdown(result, f"plots/{name}_").replace("# ", "## ", 1)]
        pictures |= {
            f"plots/{name}_latency.png": plots.latency(result),
            f"plots/{name}_stages.png": plots.stages(result),
        }
    text = "\n".join(lines).rstrip() + "\n"
    here = Path(__file__).parent
    (here / "plots").mkdir(exist_ok=True)
    for name, data in pictures.items():
        (here / name).write_bytes(data)
    (here / "REPORT.md").write_text(text)
    (here / "REPORT.html").write_text(page(text, "fexport: what was measured", pictures))


PRECISION_TARGETS = {
    "int8_vga_1_face": 4.2,
    "int8_vga_5_faces": 3.8,
    "int8_hd_1_face_detector_640": 15.0,
    "bf16_vga_1_face": 2.5,
}


def _precisions() -> list[str]:
    """Lower precisions: speed beside py-feat, then what verification found (made-up weights: arithmetic, not accuracy)."""
    speeds = {p.stem.removeprefix("precision_"): p for p in sorted(RESULTS.glob("precision_*_face*.json"))}
    if not speeds:
        return []
    lines = [
        "## Lower precisions",
        "",
        "| workload | backends | fexport p50 ms | py-feat p50 ms | ratio | asked | RSS MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, path in speeds.items():
        result = json.loads(path.read_text())
        ours, theirs = (result[k]["statistics"]["p50_ms"] for k in ("fexport", "pyfeat"))
        backends = ", ".join(f"{r} {d['backend']}" for r, d in result["describe"].items())
        asked = PRECISION_TARGETS.get(name)
        ratio = f"{result['ratio']['paired_p50']:.2f} | {'–' if asked is None else asked}"
        lines.append(
            f"| {name} | {backends} | {ours:.0f} | {theirs:.0f} | {ratio} | {result['fexport']['rss_mb']:.0f} |"
        )
    lines += [
        "",
        "| precision | artefact | output | unit | max | p99 | budget | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for path in sorted(RESULTS.glob("precision_*_verification.json")):
        for report_of in json.loads(path.read_text())["networks"].values():
            for d in report_of["differences"]:
                if report_of["precision"] == "fp32" or d["kind"] != "faces":
                    continue
                judged = d["max"] if d["by"] == "max" else d["p99"]
                words = (
                    f"{d['max']:.2g} | {d['p99']:.2g} | {d['limit']:.2g} | {'ok' if judged <= d['limit'] else 'beyond'}"
                )
                unit = d["unit"] or d["task"]
                lines.append(
                    f"| {report_of['precision']} | {report_of['network']} ({report_of['against']}) | {d['output']} | {unit} | {words} |"
                )
    return [*lines, "", "A budget that was exceeded and allowed is shown as the loss that was written down.", ""]


def _targets(found: dict[str, dict]) -> list[str]:
    lines = ["## Against the targets", "", "| ratio over py-feat | target | measured | |", "|---|---|---|---|"]
    for name, (workload, what, least) in TARGETS.items():
        if workload in found:
            result = found[workload]
            ratio = result["ratio"]["paired_p50"] if what == "frame" else result["pyfeat"]["networks"][what]["ratio"]
            lines.append(f"| {name} | {least} | {ratio:.2f} | {'met' if ratio >= least else 'missed'} |")
    return [
        *lines,
        "",
        "The profiles below say where a frame's time goes.",
        "",
    ]


def _limit(found: dict[str, dict]) -> list[str]:
    peak = json.loads((RESULTS / "peak.json").read_text())["gflops"]
    lines = [
        "## Against a matrix product",
        "",
        "fp32 multiply-adds of direct convolutions and matrix products, times two (counted from the graphs, by shape),",
        "over what the networks took (p50). For comparison, not as a ceiling: a 2048 x 2048 x 2048 product on the same two cores reaches",
        f"{sorted(peak)[len(peak) // 2]:.0f} GFLOP/s (median; best {max(peak):.0f}; `results/peak.json`).",
        "",
        "| workload | GFLOP a frame | networks ms | GFLOP/s |",
        "|---|---|---|---|",
    ]
    for name, faces in (("vga_1_face", 1), ("vga_5_faces", 5)):
        if name in found:
            stages, gflop = found[name]["fexport"]["stages_ms"], found[name]["gflop"]
            taken = sum(stages[f"{role} network"] for role in gflop)
            work = sum(g * (1 if role == "faces" else faces) for role, g in gflop.items())
            lines.append(f"| {name} | {work:.0f} | {taken:.0f} | {1e3 * work / taken:.0f} |")
    return [*lines, ""]


INSTALLED_TARGET = 1 / 19
"""Asked of the runtime with ncnn: at most this share of py-feat's environment, which has CUDA's libraries by default."""


def _footprint() -> list[str]:
    """Memory on each backend and disk, as `benchmarks/footprint.py` measured."""
    path = RESULTS / "footprint.json"
    if not path.exists():
        return []
    result = json.loads(path.read_text())
    bundle, machine = result["bundle"], result["machine"]
    lines = [
        "## Memory and disk",
        "",
        f"`benchmarks/footprint.py`, {bundle['pipeline']} ({', '.join(bundle['networks'].values())}), {result['threads']} threads, a VGA frame",
        f"and a face; {machine['cpu']}, {machine['date'].partition('T')[0]}, commit {machine['commit']}. Each in a process of its own, median of",
        "those that found optimised graphs in the cache; the first optimises them.",
        "",
        "| backend | runs | resident MB | at most MB | at most, first | load s |",
        "|---|---|---|---|---|---|",
    ]
    for name, measured in result["memory"].items():
        on_it = [role for role, backend in measured["backends"].items() if backend == name]
        first, *later = measured["runs"]
        rss, peak, load = (statistics.median(r[k] for r in later) for k in ("rss_mb", "peak_mb", "load_s"))
        lines.append(f"| {name} | {', '.join(on_it)} | {rss:.0f} | {peak:.0f} | {first['peak_mb']:.0f} | {load:.2f} |")
    theirs = result.get("pyfeat_installed_mb")
    whole = sum(theirs.values()) if theirs else None
    lines += [
        "",
        "What a backend does not run, ONNX Runtime does.",
        "",
        "| environment | MB | of py-feat's | without CUDA's |",
    ]
    lines.append("|---|---|---|---|")
    for extras, sizes in result["installed"].items():
        taken = sum(sizes.values())
        shares = f"1/{whole / taken:.1f} | 1/{theirs['rest'] / taken:.1f}" if whole else "– | –"
        lines.append(f"| fexport[{extras}] | {taken:.0f} | {shares} |")
    if whole is not None:
        lines += [f"| py-feat {result['pyfeat']} | {whole:.0f} | | {theirs['rest']:.0f} MB |", ""]
        for extras in ("ncnn", "cpu,ncnn"):
            verdict = "met" if sum(result["installed"][extras].values()) <= whole * INSTALLED_TARGET else "missed"
            lines.append(
                f"At most 1/{1 / INSTALLED_TARGET:.0f} of py-feat's, asked of the runtime with ncnn: fexport[{extras}] {verdict}."
            )
    return [*lines, ""]


def _backends() -> list[str]:
    """Each network on each backend, fp32, as `benchmarks/backends.py` measured."""
    lines = []
    for path in sorted(RESULTS.glob("backends_*.json")):
        result = json.loads(path.read_text())
        work = result["workload"]
        lines += [
            f"### {path.stem.removeprefix('backends_')}: {work['width']} x {work['height']}, {work['faces']} faces, {result['threads']} threads",
            "",
            f"{result['machine']['cpu']}. Rounds in turns; wall milliseconds of a run after a run to warm up.",
            "",
            "| network | backend | p50 ms | chosen |",
            "|---|---|---|---|",
        ]
        for m in result["measured"]:
            chosen = "yes" if m["chosen"] else ""
            lines.append(f"| {m['network']} | {m['backend']} | {statistics.median(m['ms']):.1f} | {chosen} |")
        lines.append("")
    return ["## Backends, each network alone, fp32", "", *lines] if lines else []


def _in_turns() -> list[str]:
    """Whole frames of two commits or two backends, as `benchmarks/before_after.py` measured."""
    rows = []
    for path in sorted(RESULTS.glob("before_after_*.json")):
        r = json.loads(path.read_text())
        sides = [f"{r['commits'][s]}, {r.get('backends', {}).get(s, 'default')}" for s in ("before", "after")]
        cells = [
            path.stem.removeprefix("before_after_"),
            *sides,
            f"{r['after_over_before']:.3f}",
            f"{r['cpu_after_over_before']:.3f}",
        ]
        rows.append(f"| {' | '.join([*cells, r['machine']['cpu']])} |")
    if not rows:
        return []
    head = [
        "## Two commits or two backends in turns",
        "",
        "Whole frames (find, then read the given faces); time of the second over the first.",
    ]
    return [*head, "", "| workload | first | second | wall | CPU | machine |", "|---|---|---|---|---|---|", *rows, ""]


def _profiles() -> list[str]:
    """Where a network's time goes in each library, as `benchmarks/network_profile.py` measured."""
    lines = []
    for path in sorted(RESULTS.glob("profile_*.json")):
        result = json.loads(path.read_text())
        lines += [f"## Profile of {result['network']}, {result['threads']} thread", ""]
        for library in ("onnxruntime", "openvino"):
            said = result[library]
            spent = said["ms_by_operation"]
            total = sum(spent.values())
            lines += [
                f"{library}: {said['wall_ms']:.1f} ms a run; {total:.1f} ms in operations under its profiler.",
                "",
                "| operation | ms | share |",
                "|---|---|---|",
                *(
                    f"| {kind} | {ms:.2f} | {100 * ms / total:.1f} % |"
                    for kind, ms in spent.items()
                    if ms > total / 200
                ),
                "",
            ]
    return lines


def _gate() -> list[str]:
    """What the gate says of a build without its graph rewrites."""
    path = RESULTS / "gate_slowed.txt"
    if not path.exists():
        return []
    return [
        "## The gate, on a build that was made slower",
        "",
        "`python benchmarks/gate.py --rounds 8 --pipeline detectorv1 --without-rewrites`:",
        "",
        "```",
        path.read_text().rstrip(),
        "```",
        "",
    ]


def _pools() -> list[str]:
    path = RESULTS / "thread_pools.json"
    if not path.exists():
        return []
    samples = json.loads(path.read_text())["p50_ms"]
    rows = [f"| {name} | {', '.join(f'{v:.0f}' for v in values)} |" for name, values in samples.items()]
    return [
        "## Thread pools",
        "",
        "A frame's three networks one after another (`benchmarks/thread_pools.py`), median ms of each of several processes:",
        "",
        "| threads | p50 ms |",
        "|---|---|",
        *rows,
        "",
    ]


if __name__ == "__main__":
    main()

"""REPORT.md from the recorded samples."""

from __future__ import annotations

import json
import shutil
import statistics

import click
import older_records
import page_tables
import report_networks
from pieces import HERE, PRECISIONS, RECORDS, RESULTS, WORKLOADS

from fexport.bench import measure, plots, report
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
    "MobileFaceNet alone, two threads": ("detectorv1_vga_1_face", "landmarks on_threads", 2.4),
}
REMADE = {
    *(f"{name}.json" for name in (*RECORDS, *WORKLOADS)),
    *(f"precision_{name}.json" for name in (*PRECISIONS, "int8_verification", "bf16_verification", "fp16_verification")),
    *(f"before_after_{name}.json" for name in RECORDS),
    "backends_detectorv1_default_1_face.json", "gate_slowed.json", "gate.json", "profile_multitask-v28.json",
    "profile_multitask-v28_int8.json",
}  # fmt: skip
"""Files that `record.py` makes (and the gate's baseline)."""
REMADE -= {f"before_after_{name}.json" for name in RECORDS if not name.startswith("auto_over")}


def workloads() -> dict[str, dict]:
    """The records beside py-feat, by workload."""
    kept = {n: RESULTS / f"{n}.json" for n in WORKLOADS if (RESULTS / f"{n}.json").exists()}
    return {n: older_records.today(json.loads(path.read_text(encoding="utf-8"))) for n, path in kept.items()}


def text(found: dict[str, dict]) -> str:
    """REPORT.md."""
    lines = [
        "# What was measured",
        "",
        "Made by `benchmarks/report.py` from `benchmarks/results/`; `benchmarks/record.py` makes those. Both sides took turns on the same",
        "frames with the same number of threads; a ratio is the median of the rounds' own ratios.",
        "",
        "| workload | machine | fexport p50 ms | py-feat p50 ms | ratio | middle half | rounds | noise | recorded | commit |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, result in found.items():
        ours, theirs = (result[k]["statistics"]["p50_ms"] for k in ("fexport", "pyfeat"))
        ratio = result["ratio"]
        noisy = [side for side, key in (("fexport", "fexport"), ("py-feat", "pyfeat")) if result[key]["noise"]]
        lines.append(
            f"| {name} | {measure.processor(result['machine'])} | {ours:.0f} | {theirs:.0f} | {ratio['paired_p50']:.2f} | {ratio['paired_p25']:.2f} to {ratio['paired_p75']:.2f} | "
            f"{len(result['fexport']['samples'])} | {' and '.join(noisy) or 'none seen'} | {older_records.when(result)} |"
        )
    lines += [
        "",
        *_targets(found),
        *_footprint(),
        *report_networks.backends(),
        *report_networks.without_avx512(),
        *_in_turns(),
        *_precisions(),
        *_limit(found),
        *report_networks.profiles(),
        *_gate(),
        *report_networks.pools(),
        *_others(),
        *_elsewhere(),
    ]
    lines += [report.markdown(result, f"plots/{name}_").replace("# ", "## ", 1) for name, result in found.items()]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Write REPORT.md, its plots, REPORT.html, which holds them, and the figures of README.md and docs/."""
    found = workloads()
    pictures = {}
    for name, result in found.items():
        pictures |= {
            f"plots/{name}_latency.png": plots.latency(result),
            f"plots/{name}_stages.png": plots.stages(result),
        }
    shutil.rmtree(HERE / "plots", ignore_errors=True)
    (HERE / "plots").mkdir()
    for name, data in pictures.items():
        (HERE / name).write_bytes(data)
    (HERE / "REPORT.md").write_text(text(found), encoding="utf-8")
    (HERE / "REPORT.html").write_text(page(text(found), "fexport: what was measured", pictures), encoding="utf-8")
    page_tables.write(found)


PRECISION_TARGETS = {
    # what was asked for, over py-feat's fp32
    "int8_vga_1_face": 4.2,
    "int8_vga_5_faces": 3.8,
    "int8_hd_1_face_detector_640": 15.0,
    "bf16_vga_1_face": 2.5,
}


def _precisions() -> list[str]:
    """Lower precisions: speed beside py-feat, then what verification found (made-up weights: arithmetic, not accuracy)."""
    speeds = {n: RESULTS / f"precision_{n}.json" for n in PRECISIONS if (RESULTS / f"precision_{n}.json").exists()}
    if not speeds:
        return []
    lines = [
        "## Lower precisions",
        "",
        "Resident: of a process that runs the workload and nothing else; in brackets of `fexport bench`, which measures in it too.",
        "",
        "| workload | backends | fexport p50 ms | py-feat p50 ms | ratio | asked | resident MB | recorded | commit |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, path in speeds.items():
        result = json.loads(path.read_text(encoding="utf-8"))
        ours, theirs = (result[k]["statistics"]["p50_ms"] for k in ("fexport", "pyfeat"))
        backends = ", ".join(f"{r} {d['backend']}" for r, d in result["describe"].items())
        asked = PRECISION_TARGETS.get(name)
        ratio = f"{result['ratio']['paired_p50']:.2f} | {'–' if asked is None else asked}"
        steady, benched = report.steady_mb(result), result["fexport"]["rss_mb"]
        resident = f"({benched:.0f})" if steady is None else f"{steady:.0f} ({benched:.0f})"
        lines.append(
            f"| {name} | {backends} | {ours:.0f} | {theirs:.0f} | {ratio} | {resident} | {older_records.when(result)} |"
        )
    lines += [
        "",
        "| precision | artefact | output | unit | max | p99 | budget | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for path in sorted(RESULTS.glob("precision_*_verification.json")):
        for report_of in json.loads(path.read_text(encoding="utf-8"))["networks"].values():
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
            role, _, on_threads = what.partition(" ")
            measured = result["pyfeat"].get("networks", {}).get(role, {})
            measured = measured.get(on_threads, {}) if on_threads else measured
            ratio = result["ratio"]["paired_p50"] if what == "frame" else measured.get("ratio")
            if ratio is None:  # an older record
                continue
            lines.append(f"| {name} | {least} | {ratio:.2f} | {'met' if ratio >= least else 'missed'} |")
    return [
        *lines,
        "",
    ]


def _limit(found: dict[str, dict]) -> list[str]:
    """What the networks reach beside what one layer alone does on the same cores."""
    record = json.loads((RESULTS / "peak.json").read_text(encoding="utf-8"))
    if "machine" not in record:
        return []
    lines = [
        "## Arithmetic",
        "",
        f"One layer alone in ONNX Runtime, fp32, {record['threads']} threads; {record['machine']['cpu']}, {older_records.recorded(record)}.",
        "",
        "| layer | GFLOP/s, median | best |",
        "|---|---|---|",
    ]
    best = {"MatMul": 0.0, "Conv": 0.0}
    for layer, samples in record["gflops"].items():
        kind = layer.partition(" ")[0]
        best[kind] = max(best[kind], statistics.median(samples))
        lines.append(f"| {layer} | {statistics.median(samples):.0f} | {max(samples):.0f} |")
    lines += [
        "",
        "The networks: multiply-adds of direct convolutions and matrix products, times two (counted from the graphs, by shape), over what",
        "they took (p50), and that over the best medians above. A backend that does convolutions with fewer multiplications (Winograd) can",
        "pass 100 %.",
        "",
        "| workload | GFLOP a frame | networks ms | GFLOP/s | of the product's | of the convolutions' |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in found.items():
        faces, gflop = result["workload"].get("faces_read", result["workload"]["faces"]), result.get("gflop")
        shrunk = result["workload"]["detector_size"] or result["workload"].get("output_size")
        if (
            not gflop or shrunk or faces is None or result["machine"]["cpu"] != record["machine"]["cpu"]
        ):  # counted on whole frames
            continue
        stages = result["fexport"]["stages_ms"]
        taken = sum(stages[f"{role} network"] for role in gflop)
        work = sum(g * (1 if role == "faces" else faces) for role, g in gflop.items())
        rate = 1e3 * work / taken
        shares = f"{100 * rate / best['MatMul']:.0f} % | {100 * rate / best['Conv']:.0f} %"
        lines.append(f"| {name} | {work:.0f} | {taken:.0f} | {rate:.0f} | {shares} |")
    return [*lines, ""]


def _elsewhere() -> list[str]:
    """Whole frames beside py-feat on machines that were at hand before: CPUs differ in what is fast on them."""
    lines = []
    for path in sorted((RESULTS / "other_machines").glob("*/*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        now = RESULTS / path.name
        if "ratio" not in result or (now.exists() and now.read_bytes() == path.read_bytes()):
            continue
        older_records.today(result)
        ours, theirs = (result[side]["statistics"]["p50_ms"] for side in ("fexport", "pyfeat"))
        ratio = result["ratio"]["paired_p50"]
        lines.append(
            f"| {result['machine']['cpu']} | {path.stem} | {ours:.0f} | {theirs:.0f} | {ratio:.2f} | {older_records.when(result)} |"
        )
        lines += [
            f"| {result['machine']['cpu']} | {path.stem}: {n['network']} alone ({n.get('backend', 'not said')}), one thread, CPU ms | {n['cpu_p50_ms']:.1f} | {statistics.median(n['pyfeat_cpu_ms']):.1f} | {n['ratio']:.2f} | {older_records.when(result)} |"
            for n in result["pyfeat"].get("networks", {}).values()
            if "ratio" in n
        ]
    if not lines:
        return []
    return [
        "## On other machines",
        "",
        "The same workloads where they were recorded before, by the programs of then (`results/other_machines/`).",
        "",
        "| machine | workload | fexport p50 ms | py-feat p50 ms | ratio | recorded | commit |",
        "|---|---|---|---|---|---|---|",
        *lines,
        "",
    ]


INSTALLED_TARGET = 1 / 19
"""Asked of the runtime with ncnn: at most this share of py-feat's environment, which has CUDA's libraries by default."""


def _footprint() -> list[str]:
    """Memory on each backend and disk, as `benchmarks/footprint.py` measured."""
    path = RESULTS / "footprint.json"
    if not path.exists():
        return []
    result = json.loads(path.read_text(encoding="utf-8"))
    bundle, machine = result["bundle"], result["machine"]
    lines = [
        "## Memory and disk",
        "",
        f"`benchmarks/footprint.py`, {bundle['pipeline']} ({', '.join(bundle['networks'].values())}), {result['threads']} threads, a VGA frame",
        f"and a face; {machine['cpu']}, {machine['date'].partition('T')[0]}, commit {machine['commit']}. Each in a process of its own, median of",
        "those that found optimised graphs in the cache; the first optimises them.",
        "",
        "| backend | runs | resident after a frame, MB | after ten more | at most in the first frame | at most, first process | load s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, measured in result["memory"].items():
        on_it = [role for role, backend in measured["backends"].items() if backend == name]
        first, *later = measured["runs"]
        rss, peak, load = (statistics.median(r[k] for r in later) for k in ("rss_mb", "peak_mb", "load_s"))
        steady = report.steady_mb({"start_up": measured["runs"]})
        after = "not measured" if steady is None else f"{steady:.0f}"
        lines.append(
            f"| {name} | {', '.join(on_it)} | {rss:.0f} | {after} | {peak:.0f} | {first['peak_mb']:.0f} | {load:.2f} |"
        )
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


def _in_turns() -> list[str]:
    """Whole frames of two commits or two backends, as `benchmarks/before_after.py` measured."""
    rows = []
    for path in sorted(RESULTS.glob("before_after_*.json")):
        if path.name not in REMADE:
            continue
        r = json.loads(path.read_text(encoding="utf-8"))
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


def _gate() -> list[str]:
    """What the gate says of a build without its graph rewrites."""
    path = RESULTS / "gate_slowed.json"
    if not path.exists():
        return []
    record = json.loads(path.read_text(encoding="utf-8"))
    said = [
        f"`{record['command']}`, {older_records.recorded(record)}:",
        "",
        "```",
        *record["said"],
        "```",
        "",
    ]
    return ["## The gate, on a build that was made slower", "", *said]


def _others() -> list[str]:
    """Records that other scripts made, which `record.py` does not make again."""
    lines = [
        "## Other records", "", "Made by scripts of their own (README.md here), not by `record.py`:", "", "| record | recorded | commit |", "|---|---|---|",
    ]  # fmt: skip
    for path in sorted(RESULTS.rglob("*.json")):
        if path.name in REMADE or "other_machines" in path.parts:
            continue
        record = json.loads(path.read_text(encoding="utf-8"))
        said = record if isinstance(record, dict) else {}
        lines.append(f"| {path.relative_to(RESULTS)} | {older_records.when(said)} |")
    return [*lines, ""]


if __name__ == "__main__":
    click.command()(main)()

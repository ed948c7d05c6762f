"""Parts of REPORT.md on single networks: each backend, without AVX-512, where their time goes, thread pools."""

from __future__ import annotations

import json
import statistics

import older_records
from pieces import RESULTS


def backends() -> list[str]:
    """Each network on each backend, fp32, as `benchmarks/backends.py` measured."""
    lines = []
    for path in sorted(RESULTS.glob("backends_*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        work = result["workload"]
        in_frame = all("noisy" in m for m in result["measured"])
        lines += [
            f"### {path.stem.removeprefix('backends_')}: {work['width']} x {work['height']}, {work['faces']} faces, {result['threads']} threads",
            "",
            f"{result['machine']['cpu']}. Rounds in turns; wall milliseconds of a run "
            + (
                "behind the rest of a frame."
                if in_frame
                else "after a run to warm up (before a network was measured as a frame meets it)."
            ),
            "",
            "| network | backend | threads | p50 ms | noisy rounds | chosen |",
            "|---|---|---|---|---|---|",
        ]
        for m in result["measured"]:
            chosen = "yes" if m["chosen"] else ""
            threads, noisy = m.get("threads", result["threads"]), m.get("noisy", "–")
            lines.append(
                f"| {m['network']} | {m['backend']} | {threads} | {statistics.median(m['ms']):.1f} | {noisy} | {chosen} |"
            )
        lines.append("")
    return ["## Backends, each network, fp32", "", *lines] if lines else []


def without_avx512() -> list[str]:
    """Both sides with AVX-512 hidden from them, as `benchmarks/without_avx512.py` measured."""
    path = RESULTS / "without_avx512.json"
    if not path.exists():
        return []
    record = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        "## Without AVX-512 (a stand-in)",
        "",
        f"`benchmarks/without_avx512.py`: {record['machine']['cpu']}, from what runs networks on both sides (not from NumPy and OpenCV), so that it runs",
        f"the kernels it has for such CPUs; frequencies and caches stay this machine's. {older_records.recorded(record)}. `auto` after `tune` there, 2 threads.",
        "",
        "| whole frame | backends | fexport p50 ms | py-feat p50 ms | ratio | middle half |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in record["frames"].items():
        ours, theirs = (result[side]["statistics"]["p50_ms"] for side in ("fexport", "pyfeat"))
        backends = ", ".join(f"{r} {d['backend']}" for r, d in result["describe"].items())
        ratio = result["ratio"]
        middle = f"{ratio['paired_p25']:.2f} to {ratio['paired_p75']:.2f}"
        lines.append(f"| {name} | {backends} | {ours:.0f} | {theirs:.0f} | {ratio['paired_p50']:.2f} | {middle} |")
    lines += [
        "",
        "| bundle of | network alone | threads | backend | fexport ms | py-feat ms | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    ratios = []
    for result in record["frames"].values():
        for entry in result["pyfeat"].get("networks", {}).values():
            if "ratio" not in entry:
                continue
            of_one = (1, entry["backend"], entry["cpu_ms"], entry["pyfeat_cpu_ms"], entry["ratio"])
            more = entry["on_threads"]
            of_more = (more["threads"], more["backend"], more["wall_ms"], more["pyfeat_wall_ms"], more["ratio"])
            for threads, backend, mine, others, ratio in (of_one, of_more):
                cells = f"{statistics.median(mine):.1f} | {statistics.median(others):.1f} | {ratio:.2f}"
                pipeline = result["workload"]["bundle"]["pipeline"]
                lines.append(f"| {pipeline} | {entry['network']} | {threads} | {backend} | {cells} |")
                ratios.append(ratio)
    slower = sum(ratio < 1 for ratio in ratios)
    return [*lines, "", f"Networks slower than torch: {slower or 'none'} of {len(ratios)} rows.", ""]


def profiles() -> list[str]:
    """Where a network's time goes in each library, as `benchmarks/network_profile.py` measured."""
    lines = []
    for path in sorted(RESULTS.glob("profile_*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        precision = result.get("precision", "fp32")
        lines += [f"## Profile of {result['network']} in {precision}, {result['threads']} thread", ""]
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


def pools() -> list[str]:
    """A frame under each way to give ONNX Runtime threads, as `benchmarks/thread_pools.py` measured."""
    path = RESULTS / "thread_pools.json"
    if not path.exists():
        return []
    samples = json.loads(path.read_text(encoding="utf-8"))["p50_ms"]
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

"""Parts of REPORT.md on single networks: each backend, where their time goes, thread pools."""

from __future__ import annotations

import json
import statistics

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

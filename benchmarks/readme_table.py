"""README.md's figures, from the records."""

from __future__ import annotations

import json
import statistics
from typing import Any

from pieces import RESULTS

from fexport.bench import measure, report
from fexport.bench.cold import STEADY_FRAMES

_ROWS = {
    "vga_1_face": "Detectorv2, 640 x 480, 1 face",
    "vga_5_faces": "Detectorv2, 640 x 480, 5 faces",
    "detectorv1_vga_1_face": "Detectorv1 (landmarks, pose, identity), 640 x 480, 1 face",
    "detectorv1_default_vga_1_face": "Detectorv1 as py-feat has it by default, 640 x 480, 1 face",
    "hd_1_face": "Detectorv2, 1920 x 1080, 1 face",
    "hd_1_face_output_size_640": "Detectorv2, 1920 x 1080, 1 face, both sides with `output_size` 640",
    "hd_1_face_detector_640": "Detectorv2, 1920 x 1080, 1 face, fexport with `--detector-size 640` (not exact)",
}


def lines(found: dict[str, dict[str, Any]]) -> list[str]:
    """The table of frames, and what holds of all of it."""
    rows = ["| a frame | fexport | py-feat | ratio |", "|---|---|---|---|"]
    first = found["vga_1_face"]
    machine = first["machine"]
    for name, words in _ROWS.items():
        if name in found:
            own = found[name]["machine"]
            if own["cpu"] != machine["cpu"]:
                words += f" ({measure.processor(own)}, {own['date'].partition('T')[0]})"
            ours, theirs = (found[name][side]["statistics"]["p50_ms"] for side in ("fexport", "pyfeat"))
            rows.append(f"| {words} | {ours:.0f} ms | {theirs:.0f} ms | {found[name]['ratio']['paired_p50']:.2f} |")
    theirs = first["pyfeat"]
    cold, *later = first["start_up"]
    begun = [statistics.median(r["import_s"] + r["load_s"] for r in runs) for runs in ([cold], later)]
    taken = json.loads((RESULTS / "footprint.json").read_text(encoding="utf-8"))
    installed, disk = sum(taken["installed"]["cpu,ncnn"].values()), taken["pyfeat_installed_mb"]
    memory = [
        f"{report.steady_mb(first):.0f} MB, at most {max(r['peak_mb'] for r in later):.0f} once graphs are kept",
        f"{theirs['rss_mb']:.0f} MB" + (f", at most {theirs['peak_mb']:.0f}" if "peak_mb" in theirs else ""),
    ]
    return [
        *rows,
        "",
        f"fp32, {first['workload']['threads']} threads, {machine['cpu']}; py-feat {theirs['versions']['py-feat']} with torch "
        f"{theirs['versions']['torch']}; {machine['date'].partition('T')[0]}"
        + (f", commit {machine['commit']}." if machine.get("commit") else "."),
        f"Import and load {begun[1]:.1f} s ({begun[0]:.1f} s the first time; py-feat {theirs['load_s']:.1f} s); resident in a fresh process",
        f"after {STEADY_FRAMES + 1} frames of the first row {memory[0]} (py-feat's after its rounds {memory[1]}); installed {installed:.0f} MB with ncnn (py-feat's environment {disk['rest']:.0f} MB, and",
        f"{disk['cuda']:.0f} MB more that serve CUDA alone).",
    ]

"""ROBUSTNESS.md (every case) and docs/robustness.md (what they come to) from the records: broken input, fuzzing, soak, kills, load, Pythons.

python benchmarks/robustness.py

No number in either page is typed: each comes from a record in results/, beside the command that made it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click

RESULTS = Path(__file__).parent / "results"
PAGE, DOCS = Path(__file__).parent / "ROBUSTNESS.md", Path(__file__).parent.parent / "docs" / "robustness.md"


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> list[str]:
    """A Markdown table and an empty line."""
    names = list(head)
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    return [*lines, *(f"| {' | '.join(_cell(c) for c in row)} |" for row in rows), ""]


def _cell(value: Any) -> str:
    text = f"{value:,}".replace(",", " ") if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return text.replace("|", "\\|").replace("<", "&lt;")


def record(name: str) -> Any:
    """A file of results/."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def command(said: str, machine: Mapping[str, Any] | None = None) -> list[str]:
    """How to make it again, and where and of which commit it was made."""
    if machine is None:
        return [f"`{said}`", ""]
    made = f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, {machine['date'][:10]}, commit {machine['commit']}"
    return [f"`{said}`", "", f"Made on: {made}.", ""]


def corpus(whole: bool) -> list[str]:
    """Broken and hostile input."""
    found = record("hostile_corpus.json")
    cases, outcomes = found["cases"], ("kept", "refused", "broken")
    kinds = list(dict.fromkeys(c["kind"] for c in cases))
    counts = Counter((c["kind"], c["outcome"]) for c in cases)
    rows = [[kind, sum(counts[kind, o] for o in outcomes), *(counts[kind, o] for o in outcomes)] for kind in kinds]
    totals = ["all", len(cases), *(sum(counts[k, o] for k in kinds) for o in outcomes)]
    lines = [
        "## Broken and hostile input",
        "",
        *command(found["command"], found["machine"]),
        "Kept: it was read (damage that a decoder cannot see, words of a manifest that nothing depends on, a video as far as it goes).",
        "Refused: one sentence. Broken: anything else (another exception, a message of more than a line, a picture that is cut off or a bomb that was",
        "kept, a gigabyte more of memory, a file that was written or executed).",
        "",
        *table(["kind", "cases", *outcomes], [*rows, totals]),
    ]
    if whole:
        for kind in kinds:
            mine = [[c["case"], c["outcome"], c["said"]] for c in cases if c["kind"] == kind]
            lines += [f"### Each case: {kind}", "", *table(["case", "outcome", "what the program said"], mine)]
    return lines


def fuzz(whole: bool) -> list[str]:
    """Coverage-guided fuzzing."""
    found = record("fuzz.json")
    names = ("cpu_s", "executions", "read", "refused", "corpus", "edges")
    rows = [[name, *(t.get(n, "") for n in names)] for name, t in found["targets"].items()]
    rows.append(["all", *(round(sum(t.get(n, 0) for t in found["targets"].values()), 1) for n in names[:4]), "", ""])
    findings = [[f["target"], f["place"], f["said"][:200]] for f in found["findings"]]
    return [
        "## Fuzzing",
        "",
        *command(found["command"], found["machine"]),
        f"Atheris {found['versions']['atheris']}, Python {found['python']}; {found['cpu_s'] / 3600:.2f} hours of CPU time were recorded. Our readers",
        "are instrumented, the decoders below them are not.",
        "",
        *table(["reader", "CPU s", "inputs", "read", "refused", "corpus", "edges"], rows),
        f"Findings of that run: {len(findings)}. Inputs of findings, of this run and of those before, are `tests/goldens/fuzz_findings.json`, each a test.",
        "",
        *(table(["reader", "where", "what"], findings) if findings else []),
    ]


def soak(whole: bool) -> list[str]:
    """One detector, many frames."""
    lines = ["## Soak", ""]
    for path in sorted((RESULTS / "soak").glob("*.json")):
        found = record(f"soak/{path.name}")
        rows = [
            [
                f"{p['first']} to {p['first'] + p['frames'] - 1}", p["errors"], p["faces"],
                p["rss_slope_mb_per_1000"], p["thread_slope_per_1000"],
                " → ".join(map(str, p["cpu_ns_per_pixel_median_first_and_second_half"])),
                "same" if p["same"] else "differs",
            ]
            for p in found["pieces"]
        ]  # fmt: skip
        head = [
            "frames",
            "unreadable",
            "faces",
            "RSS, MB per 1000",
            "threads per 1000",
            "CPU ns a pixel, halves",
            "answers at the ends",
        ]
        lines += [*command(found["command"], found["machine"]), *table(head, rows)]
    return lines


def kills(whole: bool) -> list[str]:
    """Killed runs, gone on with."""
    found = record("video_kills.json")
    kinds = [k for k in found if k.startswith(".")]
    rows = [
        [
            k[1:], len(found[k]), sum(t["rows_kept"] > 0 for t in found[k]), max(t["rows_kept"] for t in found[k]),
            f"{sum(t['equal'] for t in found[k])} of {len(found[k])}",
        ]
        for k in kinds
    ]  # fmt: skip
    lines = [
        "## Kills",
        "",
        *command(found["command"], found["machine"]),
        f"A run over {found['clip']} ({found['pipeline']}) gets SIGKILL at a random moment, `--resume` goes on; the table is then that of a run that was",
        "not killed, cell by cell (CSV: byte by byte).",
        "",
        *table(["format", "kills", "with rows kept", "rows kept at most", "equal at the end"], rows),
    ]
    if whole:
        each = [
            [k[1:], f"{t['killed_after_s']:.2f}", t["rows_kept"], "equal" if t["equal"] else "differs"]
            for k in kinds
            for t in found[k]
        ]
        lines += ["### Each kill", "", *table(["format", "killed after s", "rows kept", "table at the end"], each)]
    return lines


def load(whole: bool) -> list[str]:
    """Servers under eight clients."""
    rows, commands = [], []
    for name in ("serve_load.json", "serve_full_queue.json"):
        found = record(name)
        commands.append((f"{found['command']} --out benchmarks/results/{name}", found["machine"]))
        waits = found["ms_p50_p99_max_by_status"]
        for status, taken in waits.items():
            rows.append(
                [
                    "fexport serve",
                    found["command"].partition("--")[2],
                    f"HTTP {status}",
                    found["answers_by_status"][status],
                    *taken,
                ]
            )
        others = {s: n for s, n in found["answers_by_status"].items() if s not in waits}
        rows += [["fexport serve", found["command"].partition("--")[2], s, n, "", "", ""] for s, n in others.items()]
        rows.append(["fexport serve", "", "different answers among the 200s", found["different_answers"], "", "", ""])
        rows.append(["fexport serve", "", "exit status on SIGTERM", found["exit_status_on_sigterm"], "", "", ""])
    found = record("triton_load.json")
    commands.append((f"{found['command']} --out benchmarks/results/triton_load.json", found["machine"]))
    for answer, number in found["answers"].items():
        rows.append(["Triton", found["command"].partition("--")[2], answer, number, "", "", ""])
    rows.append(["Triton", "", "all", sum(found["answers"].values()), *found["ms_p50_p99_max"]])
    rows.append(["Triton", "", "runs of the model for them", found["executions"], "", "", ""])
    rows.append(["Triton", "", "exit status on SIGTERM", found["exit_status_on_sigterm"], "", "", ""])
    return [
        "## Load",
        "",
        *(line for said, machine in commands for line in command(said, machine)),
        "The clients run on the same cores as the server: the ms are no measure of its speed. -15: the service ends by the signal that it got, after the",
        "last answer; tritonserver ends by itself.",
        "",
        *table(["server", "run", "answer", "number", "ms p50", "ms p99", "ms max"], rows),
    ]


def pythons(whole: bool) -> list[str]:
    """The wheel on each Python."""
    if not (RESULTS / "pythons.json").exists():
        return ["## Pythons", "", "Not recorded yet: `make pythons`.", ""]
    found = record("pythons.json")
    names = list(found["pythons"][0]["versions"])
    rows = [
        [
            p["python"], *(p["versions"][n] for n in names), "ran" if p["commands"] else "failed",
            *(p["tests"].get(k, 0) for k in ("passed", "skipped", "failed", "error")),
        ]
        for p in found["pythons"]
    ]  # fmt: skip
    return [
        "## Pythons",
        "",
        *command(found["command"], found.get("machine")),
        f"The wheel with the extras {found['extras']} in an environment of its own, without torch: `fexport doctor`, `verify`, `run` with both packaged bundles, then",
        "`tests/runtime`, of which those that build a bundle are skipped.",
        "",
        *table(["Python", *names, "commands", "passed", "skipped", "failed", "errors"], rows),
    ]


PARTS: tuple[Callable[[bool], list[str]], ...] = (corpus, fuzz, soak, kills, load, pythons)


def page(whole: bool) -> str:
    """The text of ROBUSTNESS.md (`whole`), or of docs/robustness.md."""
    other = "[what they come to](../docs/robustness.md)" if whole else "[every case](../benchmarks/ROBUSTNESS.md)"
    lines = [
        "# Broken input, soak, fuzzing, kills, load",
        "",
        f"Made by `python benchmarks/robustness.py` from the records in `benchmarks/results`, with the command of each; {other}.",
        "",
    ]
    for part in PARTS:
        lines += part(whole)
    return "\n".join(lines).rstrip() + "\n"


@click.command()
def main() -> None:
    """Write both pages."""
    PAGE.write_text(page(True), encoding="utf-8")
    DOCS.write_text(page(False), encoding="utf-8")


if __name__ == "__main__":
    main()

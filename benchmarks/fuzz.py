"""Fuzz the readers of what others made, guided by coverage: manifests, journals, images, videos, archives.

    pip install '.[fuzz]'
    python benchmarks/fuzz.py --seconds 3600 --work fuzz-work --out benchmarks/results/fuzz.json

`--seconds` is CPU time over all targets, which take turns in processes of their own (`--at-once` of them), so that one that dies (a
decoder's fault, memory, a hang) is noted and the rest goes on. Atheris (libFuzzer) counts the branches of fexruntime's code; the decoders
of OpenCV and FFmpeg are not instrumented: they get what the readers' branches, and mutations that know the formats, lead to. The corpus
and the inputs of findings stay in `--work`; the same command with the same folder goes on. Exits with 1 if there was a finding.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from importlib.metadata import version
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

SLICE_S = 120
SLOW_CPU_S = 5
"""An input that takes more CPU time is a finding: a pause of the process, or other work on the machine, is none."""
HANGS_S = 900
"""An input that takes longer by the clock, as one that waits for ever does, is a finding of libFuzzer's, which ends the turn."""
MOST_MB = 3000
_RUNTIME = Path(__file__).parent.parent / "runtime" / "fexruntime"
_SEEN = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)")
NAMES = ("manifest", "journal", "image", "video", "archive")


def fuzz_one(name: str, work: Path, seconds: int) -> None:
    """One target for so long, in this process; does not come back. Counts and findings go to files."""
    import atheris

    with atheris.instrument_imports(include=["fexruntime", "tarfile"], enable_loader_override=False):
        import fuzz_targets
    target = fuzz_targets.TARGETS[name]
    corpus, findings = work / name / "corpus", work / name / "findings"
    for folder in (corpus, findings):
        folder.mkdir(parents=True, exist_ok=True)
    for data in target.seeds():
        (corpus / f"seed-{fuzz_targets.digest(data)}").write_bytes(data)
    counts = {"executions": 0, fuzz_targets.READ: 0, fuzz_targets.REFUSED: 0}
    known: set[str] = set()
    noted = [time.monotonic()]

    def check(data: bytes) -> None:
        counts["executions"] += 1
        began = time.process_time()
        try:
            counts[target.check(data)] += 1
            if time.process_time() - began > SLOW_CPU_S:
                raise fuzz_targets.Broken(f"{time.process_time() - began:.0f} s of CPU time")
        except Exception as error:  # a finding: noted once a place, and the fuzzer goes on
            place = where(error)
            if place not in known:
                known.add(place)
                kept = findings / fuzz_targets.digest(place.encode())
                kept.with_suffix(".input").write_bytes(data)
                text = "".join(traceback.format_exception(error))
                said = str(error).replace(f"{tempfile.gettempdir()}/", "")[
                    :500
                ]  # the record names no folder of a machine
                kept.with_suffix(".json").write_text(
                    json.dumps({"place": place, "said": said, "traceback": text[-4000:]}), encoding="utf-8"
                )
        if time.monotonic() - noted[0] > 1:
            noted[0] = time.monotonic()
            (work / name / "counts.json").write_text(json.dumps(counts), encoding="utf-8")

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        changed = target.mutate(data, rng) if rng.random() < 0.5 else data
        if rng.random() < 0.3 or changed == data or len(changed) > most:
            changed = atheris.Mutate(changed[:most], most)
        return bytes(changed)

    flags = [
        f"-max_total_time={seconds}",
        f"-timeout={HANGS_S}",
        f"-rss_limit_mb={MOST_MB}",
        f"-max_len={target.most_bytes}",
    ]
    atheris.Setup([sys.argv[0], str(corpus), *flags, f"-artifact_prefix={findings}/"], check, custom_mutator=mutate)
    atheris.Fuzz()


def where(error: BaseException) -> str:
    """The kind of an error and the last line of fexruntime (or of the check, or of this file) that it came through: one finding each."""
    ours = ("fexruntime", "fuzz_targets", Path(__file__).name)
    last = [f for f in traceback.extract_tb(error.__traceback__) if any(name in f.filename for name in ours)][-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno} ({last.name})"


def lines_run(name: str, work: Path) -> dict[str, list[int]]:
    """By file of the target's: how many lines of its functions the corpus runs, and how many there are."""
    import fuzz_targets

    target = fuzz_targets.TARGETS[name]
    target.check(target.seeds()[0])  # what a check makes once for itself
    files = {str(_RUNTIME / f): set() for f in target.files}

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        ran = files.get(frame.f_code.co_filename)
        if ran is None:
            return None
        ran.add(frame.f_lineno)
        return trace

    sys.settrace(trace)
    for path in sorted((work / name / "corpus").iterdir()):
        try:
            target.check(path.read_bytes())
        except Exception:  # noted when it was found
            continue
    sys.settrace(None)
    found = {}
    for file, ran in files.items():
        there = set(_function_lines(compile(Path(file).read_text(encoding="utf-8"), file, "exec"), False))
        found[str(Path(file).relative_to(_RUNTIME))] = [len(ran & there), len(there)]
    return found


def _function_lines(code: CodeType, inside: bool) -> Iterator[int]:
    inside = inside or bool(code.co_flags & 0x2)  # CO_NEWLOCALS: a function, not a module or a class's body
    if inside and not code.co_name.startswith("<"):
        yield from (line for _, _, line in code.co_lines() if line and line != code.co_firstlineno)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _function_lines(constant, inside)


def child(work: Path, *words: str) -> tuple[str, float]:
    """A process of this file: what it said, and its CPU seconds."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, __file__, *words, "--work", str(work)], stdout=said, stderr=subprocess.STDOUT
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        return said.read().decode(errors="replace"), used.ru_utime + used.ru_stime


def main() -> None:
    """Give each target its turns until the time is used; write what there is after each."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--seconds", type=int, default=3600, help="CPU time over all targets")
    words.add_argument("--targets", default=",".join(NAMES))
    words.add_argument("--work", type=Path, default=Path("fuzz-work"))
    words.add_argument("--out", type=Path, default=Path("fuzz.json"))
    words.add_argument("--one", choices=NAMES, help=argparse.SUPPRESS)
    words.add_argument("--lines", choices=NAMES, help=argparse.SUPPRESS)
    words.add_argument("--slice", type=int, default=SLICE_S, help="seconds of a turn")
    words.add_argument("--at-once", type=int, default=1, help="turns at one time, each of another target")
    chosen = words.parse_args()
    if chosen.one:
        fuzz_one(chosen.one, chosen.work, chosen.slice)
    if chosen.lines:
        print(json.dumps(lines_run(chosen.lines, chosen.work)))
        return
    names = chosen.targets.split(",")
    chosen.work.mkdir(parents=True, exist_ok=True)
    state = chosen.work / "state.json"
    said: dict[str, Any] = json.loads(state.read_text(encoding="utf-8")) if state.exists() else {}
    for name in names:
        said.setdefault(name, {"cpu_s": 0.0, "turns": 0, "executions": 0, "read": 0, "refused": 0})
        (chosen.work / name / "findings").mkdir(parents=True, exist_ok=True)
    busy: dict[Future[tuple[str, float]], str] = {}
    with ThreadPoolExecutor(chosen.at_once) as turns:
        while True:
            used = sum(t["cpu_s"] for t in said.values())
            idle = sorted(set(names) - set(busy.values()), key=lambda n: said[n]["cpu_s"])
            for name in idle[: chosen.at_once - len(busy)] if used < chosen.seconds else ():
                busy[turns.submit(turn, name, chosen.work, chosen.slice)] = name
            if not busy:
                break
            for ended in wait(busy, return_when=FIRST_COMPLETED).done:
                took_turn(busy.pop(ended), chosen.work, *ended.result(), said)
            state.write_text(json.dumps(said, indent=1), encoding="utf-8")
            write(said, chosen.work, chosen.out)
    for name in said:
        text, _ = child(chosen.work, "--lines", name)
        said[name]["lines"] = json.loads(text.splitlines()[-1])
    state.write_text(json.dumps(said, indent=1), encoding="utf-8")
    found = write(said, chosen.work, chosen.out)
    print(chosen.out.read_text(encoding="utf-8"))
    raise SystemExit(bool(found))


def turn(name: str, work: Path, seconds: int) -> tuple[str, float]:
    """One turn of a target: what its process said, and its CPU seconds."""
    (work / name / "counts.json").unlink(missing_ok=True)
    return child(work, "--one", name, "--slice", str(seconds))


def took_turn(name: str, work: Path, text: str, cpu_s: float, said: dict[str, Any]) -> None:
    """A turn added to what was said of its target before."""
    target, counts = said[name], work / name / "counts.json"
    (work / name / "last.log").write_text(text[-20_000:], encoding="utf-8")
    if not counts.exists():
        raise SystemExit(f"{name} could not be fuzzed:\n{text[-3000:]}")
    target["cpu_s"], target["turns"] = round(target["cpu_s"] + cpu_s, 1), target["turns"] + 1
    for key, value in json.loads(counts.read_text(encoding="utf-8")).items():
        target[key] += value
    if seen := _SEEN.findall(text):
        for key, value in zip(("edges", "features", "corpus"), seen[-1], strict=True):
            target[key] = max(int(value), target.get(key, 0))


def write(said: dict[str, Any], work: Path, out: Path) -> list[Any]:
    """The record; answers the findings in it."""
    from fexport.bench import measure  # here: in a turn, what it imports would not be instrumented

    found = []
    for name in said:
        for path in sorted((work / name / "findings").iterdir()):
            if path.suffix == ".json":
                found.append({"target": name} | json.loads(path.read_text(encoding="utf-8")))
            elif path.name.startswith(
                ("crash", "timeout", "oom", "leak")
            ):  # libFuzzer's own; not slow-unit-…, which a pause makes
                found.append({"target": name, "place": path.name.split("-")[0], "said": path.name, "traceback": ""})
    record = {
        "command": "python benchmarks/fuzz.py --seconds 3600",
        "machine": measure.machine(),
        "versions": {name: version(name) for name in ("atheris", "numpy", "opencv-python-headless", "av")},
        "python": platform.python_version(),
        "cpu_s": round(sum(t["cpu_s"] for t in said.values()), 1),
        "executions": sum(t["executions"] for t in said.values()),
        "targets": said,
        "findings": [{k: v for k, v in f.items() if k != "traceback"} for f in found],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return found


if __name__ == "__main__":
    main()

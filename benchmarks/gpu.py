"""Everything that only a GPU can show, in one call of under ten minutes, on a host that reaches no package index.

    python benchmarks/gpu.py prepare PIECES            # here: parts for the host, in pieces that can be carried one at a time
    python benchmarks/gpu.py take PIECES/p000 STAGE    # there, for each piece; the last one unpacks them
    python benchmarks/gpu.py run --stage STAGE --out OUT

Kernels against NumPy on the device; ONNX Runtime's CUDA provider and TensorRT against the recorded answers of ONNX Runtime on a
CPU, for every network; an engine of 8.6 in the lean runtime of 10.16; whole rows within fp16's budgets; time end to end, beside
py-feat's (which is bf16 on a GPU) if it is installed. Each part is a process of its own with a limit, and OUT/gpu.json is written
after each: one that fails, hangs or ends the process loses nothing else. Without a GPU it says so in one line.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import gpu_staging

HERE = Path(__file__).resolve()
ROOT = HERE.parents[1]
for _folder in ("runtime", "export", "calibration"):
    if (ROOT / _folder).is_dir():
        sys.path.insert(0, str(ROOT / _folder))

LIMITS = {
    "environment": 40, "bundles": 200, "reference": 60, "kernels": 60, "provider": 120, "engines": 240, "tensorrt": 60,
    "rows_tensorrt": 90, "rows_provider": 60, "pyfeat": 90, "lean": 60,
}  # fmt: skip
"""Seconds that each part may take at most, in the order they run."""
STAGED = ("engines", "tensorrt", "rows_tensorrt", "plan")
"""Parts that run in the Python that TensorRT is staged for, if one is."""
SPARE_S = 10.0
"""Left for writing."""


def main() -> None:
    """Do what the first word says."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = words.add_subparsers(dest="verb", required=True)
    gpu_staging.add_verbs(verbs)
    run = verbs.add_parser("run", help="measure everything")
    run.add_argument("--stage", type=Path, help="what `take` unpacked; without it, what is installed is used")
    run.add_argument("--out", type=Path, required=True)
    run.add_argument(
        "--bundle", action="append", default=[], help="instead of bundles that are built there, on made-up weights"
    )
    run.add_argument("--seconds", type=float, default=540.0, help="all of it takes no longer")
    run.add_argument("--rounds", type=int, default=50, help="frames of each measurement")
    run.add_argument("--size", default="640x480", help="of the frame, WxH")
    run.add_argument("--only", help="parts, by comma")
    run.add_argument("--weights", type=Path, help="for py-feat: a folder, not the hub")
    part = verbs.add_parser("part")
    part.add_argument("name")
    part.add_argument("settings", type=Path)
    chosen = words.parse_args()
    if chosen.verb == "run":
        sys.exit(measure(chosen))
    elif chosen.verb == "part":
        one_part(chosen.name, chosen.settings)
    else:
        chosen.do(chosen)


def measure(chosen: argparse.Namespace) -> int:
    """Run the parts within the time there is, write OUT/gpu.json after each; the exit status."""
    from fexruntime.driver import gpu
    from fexruntime.errors import EnvironmentMissingError

    try:
        here = gpu()
    except EnvironmentMissingError as error:
        print(f"no GPU: {error}", file=sys.stderr)
        return 1
    end = time.monotonic() + chosen.seconds - SPARE_S
    work = chosen.out / "work"
    work.mkdir(parents=True, exist_ok=True)
    settings = work / "settings.json"
    width, height = (int(n) for n in chosen.size.lower().split("x"))
    tree = None if chosen.stage is None else str((chosen.stage / "tree").resolve())
    given = {
        "work": str(work.resolve()), "tree": tree, "bundles": chosen.bundle, "rounds": chosen.rounds,
        "size_hw": [height, width], "weights": None if chosen.weights is None else str(chosen.weights.resolve()),
    }  # fmt: skip
    settings.write_text(json.dumps(given), encoding="utf-8")
    result: dict[str, Any] = {
        "gpu": {"name": here.name, "capability": here.capability, "driver": here.driver},
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "frame": f"{width} x {height}",
        "parts": {},
    }
    names = list(LIMITS) if chosen.only is None else chosen.only.split(",")
    for name in names:
        left = end - time.monotonic()
        result["parts"][name] = said = (
            run_part(name, settings, min(LIMITS[name], left)) if left > 1 else {"status": "no time was left"}
        )
        result["claims"] = claims(result["parts"])
        written(chosen.out / "gpu.json", result)
        print(f"{name}: {said['status']}" + (f" ({said['why']})" if "why" in said else ""), flush=True)
    for claim, holds in result["claims"].items():
        print(
            f"{claim}: {'not measured' if holds is None else 'yes' if holds is True else 'NO' if holds is False else holds}"
        )
    return 0 if all(p["status"] in ("done", "skipped") for p in result["parts"].values()) else 3


def run_part(name: str, settings: Path, seconds: float) -> dict[str, Any]:
    """One part in a process (group) of its own: its answer, or why there is none."""
    given = json.loads(settings.read_text(encoding="utf-8"))
    answer = Path(given["work"]) / f"{name}.json"
    answer.unlink(missing_ok=True)
    python, environment = gpu_staging.python_of(given["tree"], name in STAGED)
    environment |= {"FEXPORT_CACHE": str(Path(given["work"]) / "cache"), "PYTHONUNBUFFERED": "1"}
    began = time.monotonic()
    with (Path(given["work"]) / f"{name}.log").open("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            [python, str(HERE), "part", name, str(settings)],
            stdout=log,
            stderr=log,
            env=os.environ | environment,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout=seconds)
            ended = {}
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status, ended = -1, {"status": "failed", "why": f"it did not end within {seconds:.0f} s"}
        log.seek(0)
        last = [line for line in log.read().splitlines() if line.strip()][-8:]
    took = {"seconds": round(time.monotonic() - began, 2)}
    whole = json.loads(answer.read_text(encoding="utf-8")) if answer.is_file() else {}
    if not ended and whole.get("status") in ("done", "skipped", "failed"):
        return whole | took
    if not ended:
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        ended = {"status": "failed", "why": f"the process ended with {how}: {last[-1] if last else 'it said nothing'}"}
    return whole | ended | took | {"log": last}


def one_part(name: str, settings: Path) -> None:
    """Run a part here, and write what it answers; what it has so far is there at any time."""
    import traceback

    import gpu_parts
    import gpu_setting

    given = json.loads(settings.read_text(encoding="utf-8"))
    answer = Path(given["work"]) / f"{name}.json"
    said: dict[str, Any] = {}

    def tell(**more: Any) -> None:
        said.update(more)
        written(answer, said)

    try:
        tell(**gpu_parts.PARTS[name](gpu_setting.Setting(tell=tell, **given)), status="done")
    except gpu_setting.Skipped as reason:
        tell(status="skipped", why=str(reason))
    except Exception as error:
        traceback.print_exc()
        tell(status="failed", why=f"{type(error).__name__}: {error}")


def claims(parts: dict[str, Any]) -> dict[str, Any]:
    """What the project says of a GPU, each held to what was measured; None where it was not."""

    def all_of(part: str, key: str) -> bool | None:
        found = [one.get("passed") for one in parts.get(part, {}).get(key, [])]
        return all(found) if found else None

    rows = [parts.get(part, {}) for part in ("rows_tensorrt", "rows_provider")]
    runs = [run for part in rows for run in part.get("runs", [])]
    within = [run["passed"] for run in runs] + [False for part in rows for _ in part.get("failed", [])]
    fastest = min([r for r in runs if r["pipeline"] == "detectorv2"] or runs, key=lambda r: r["p50_ms"], default=None)
    theirs = parts.get("pyfeat", {})
    built_by = str(parts.get("lean", {}).get("built_by", ""))  # of the TensorRT that is here
    ratio = None
    if (
        fastest and fastest["pipeline"] == "detectorv2" and theirs.get("faces") == fastest["faces"]
    ):  # else it is other work
        ratio = theirs["p50_ms"] / fastest["p50_ms"]
    return {
        "kernels give NumPy's bits on the device": all_of("kernels", "kernels"),
        "ONNX Runtime's CUDA provider within every gate": all_of("provider", "networks"),
        "TensorRT within every gate": all_of("tensorrt", "networks"),
        "rows within the fp16 budgets": all(within) if within else None,
        "engines are 70 % of the time end to end": fastest["engine_share"] >= 0.7 if fastest else None,
        "8 times as fast as py-feat's bf16": None if ratio is None else ratio >= 8,
        "a plan of 8.6 runs in the lean runtime": all_of("lean", "networks") if built_by.startswith("8.6") else None,
    }


def written(path: Path, value: Any) -> None:
    """Write JSON in one step."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1, default=float) + "\n", encoding="utf-8")
    partial.replace(path)


if __name__ == "__main__":
    main()

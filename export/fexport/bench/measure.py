"""Samples and what they say: percentiles, throughput, and whether the machine was quiet enough to be believed."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from fexruntime.versions import installed

NOISY_SHARE = 0.05
"""Share of the machine's cores that others may use before a run is called noisy."""
NOISY_SPREAD = 1.3
"""p90 over p50 above which a run is called noisy."""
LEAST_SAMPLES = {"p90_ms": 10, "p95_ms": 20, "p99_ms": 100}
"""Samples without which a percentile is the largest one under another name; it is not given then."""
_PACKAGES = ("fexport", "numpy", "onnxruntime", "ncnn", "openvino", "opencv-python-headless")


@dataclass(frozen=True, slots=True)
class Sample:
    """One call: wall and process CPU milliseconds, and the share of the cores that other processes used meanwhile.

    The share is None where nobody measured it.
    """

    wall_ms: float
    cpu_ms: float
    foreign_share: float | None = None


class Meter:
    """Times a block: `with meter: …`, then `meter.sample`."""

    sample: Sample

    def __enter__(self) -> Meter:
        self._busy = _busy_seconds()
        self._cpu = time.process_time()
        self._wall = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        wall = time.perf_counter() - self._wall
        cpu = time.process_time() - self._cpu
        foreign = max(0.0, _busy_seconds() - self._busy - cpu) / (wall * (os.cpu_count() or 1))
        self.sample = Sample(wall * 1e3, cpu * 1e3, foreign)


def _busy_seconds() -> float:
    """CPU seconds that the whole machine has spent on anything."""
    import psutil

    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def statistics(samples: list[Sample]) -> dict[str, float]:
    """p50, max and mean of the wall milliseconds, CPU milliseconds, frames a second; p90, p95 and p99 of samples enough."""
    wall = np.array([s.wall_ms for s in samples])
    upper = {k: float(np.percentile(wall, int(k[1:3]))) for k, least in LEAST_SAMPLES.items() if len(wall) >= least}
    return {
        "p50_ms": float(np.median(wall)),
        **upper,
        "max_ms": float(wall.max()),
        "mean_ms": float(wall.mean()),
        "cpu_p50_ms": float(np.median([s.cpu_ms for s in samples])),
        "frames_per_second": 1e3 / float(wall.mean()),
    }


def noise(samples: list[Sample]) -> str | None:
    """What makes these samples doubtful, in one sentence; None if nothing does."""
    shares = [s.foreign_share for s in samples if s.foreign_share is not None]
    foreign = float(np.median(shares)) if shares else 0.0
    if foreign > NOISY_SHARE:
        return f"other processes used {foreign:.0%} of the cores: stop them and run again"
    wall = [s.wall_ms for s in samples]
    spread = float(np.percentile(wall, 90) / np.median(wall))
    if spread > NOISY_SPREAD:
        return f"a tenth of the samples took more than {spread:.1f} times the median: the machine was not steady"
    return None


def paired(ours: list[Sample], theirs: list[Sample]) -> dict[str, float]:
    """Theirs over ours, round by round (what slows both sides of a round cancels): median, and its middle half."""
    low, middle, high = np.percentile([b.wall_ms / a.wall_ms for a, b in zip(ours, theirs, strict=True)], (25, 50, 75))
    return {"paired_p50": float(middle), "paired_p25": float(low), "paired_p75": float(high)}


def memory() -> dict[str, float]:
    """Resident megabytes of this process: now, and the most that there ever were, which is what one must provide."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    return {name: int(fields[key].split()[0]) * 1024 / 1e6 for name, key in (("rss_mb", "VmRSS"), ("peak_mb", "VmHWM"))}


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": installed(_PACKAGES),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(Path(__file__).parents[3]),
    }


def processor(machine: Mapping[str, Any]) -> str:
    """Of what `machine` says, the processor's name alone, without what it can: for a cell of a table."""
    return str(machine["cpu"]).partition(" (")[0]


def commit(checkout: Path) -> str | None:
    """The commit of a checkout, "+" where its programs were changed since; None where there is no checkout (a wheel)."""
    if not (checkout / ".git").exists():
        return None
    git = ("git", "-C", str(checkout))
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, encoding="utf-8", check=True
        )
        programs = (name for name in ("runtime", "export", "calibration") if (checkout / name).is_dir())
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *programs], check=False)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.returncode else "")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    named = {k.strip(): v.strip() for k, v in facts.items()}
    wide = [f for f in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16") if f in named.get("flags", "").split()]
    return f"{named.get('model name', platform.machine())} ({', '.join(wide)})"


def as_rows(samples: list[Sample]) -> list[dict[str, float | None]]:
    """Samples as plain values, for the JSON."""
    return [asdict(s) for s in samples]

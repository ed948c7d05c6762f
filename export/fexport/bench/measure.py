"""Samples and what they say: percentiles, throughput, and whether the machine was quiet enough to be believed."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fexruntime.versions import installed

NOISY_SHARE = 0.05
"""Share of the machine's cores that others may use before a run is called noisy."""
NOISY_SPREAD = 1.3
"""p90 over p50 above which a run is called noisy."""


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
    """p50, p90, p95, p99, max and mean of the wall milliseconds, CPU milliseconds, frames a second."""
    wall = np.array([s.wall_ms for s in samples])
    p50, p90, p95, p99 = (float(v) for v in np.percentile(wall, (50, 90, 95, 99)))
    return {
        "p50_ms": p50,
        "p90_ms": p90,
        "p95_ms": p95,
        "p99_ms": p99,
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
    found = statistics(samples)
    spread = found["p90_ms"] / found["p50_ms"]
    if spread > NOISY_SPREAD:
        return f"a tenth of the samples took more than {spread:.1f} times the median: the machine was not steady"
    return None


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": installed(("fexport", "numpy", "onnxruntime", "opencv-python-headless")),
    }


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

"""How many cores this process may use: its affinity, and the CPU quota of its container."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def available_cores() -> int:
    """Cores that this process may run on at once, at least 1.

    A container with a quota of 1.5 CPUs on 64 cores has 2: more threads than that are stopped by the system in
    the middle of their work, which is slower than fewer.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def cpu_quota(root: Path = _CGROUPS, own: Path = _OWN) -> float | None:
    """CPUs that the process's control groups allow (the least of it and its ancestors), or None without a limit."""
    try:
        lines = own.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        relative = path.strip("/")
        if not controllers:
            quotas += [_version_2(folder) for folder in _upwards(root, relative)]
        elif "cpu" in controllers.split(","):
            quotas += [_version_1(folder) for folder in _upwards(root / "cpu", relative)]
    found = [q for q in quotas if q is not None]
    return min(found) if found else None


def _upwards(root: Path, relative: str) -> list[Path]:
    folder = root / relative if relative else root
    # inside a container the path may be the host's, of which only the root is to be seen
    return [folder, *(p for p in folder.parents if p == root or root in p.parents)]


def _version_2(folder: Path) -> float | None:
    """cpu.max holds "QUOTA PERIOD" in microseconds, or "max PERIOD"."""
    try:
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _version_1(folder: Path) -> float | None:
    try:
        quota, period = (
            int((folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii")) for name in ("quota", "period")
        )
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None

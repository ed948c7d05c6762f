from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fexruntime import cores


@pytest.mark.parametrize(
    ("files", "own", "quota"),
    [
        ({"cpu.max": "100000 100000"}, "0::/", 1.0),
        ({"cpu.max": "max 100000"}, "0::/", None),
        ({"cpu.max": "max 100000", "a/b/cpu.max": "150000 100000", "a/cpu.max": "max 100000"}, "0::/a/b", 1.5),
        ({"a/cpu.max": "50000 100000", "a/b/cpu.max": "150000 100000"}, "0::/a/b", 0.5),
        ({"cpu.max": "200000 100000"}, "0::/docker/not/seen/from/here", 2.0),
        ({"cpu/a/cpu.cfs_quota_us": "250000", "cpu/a/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/a", 2.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/", None),
        ({}, "0::/", None),
        ({"cpu.max": "nonsense"}, "0::/", None),
    ],
)
def test_quotas_of_both_versions_and_all_levels(tmp_path, files, own, quota):
    root = tmp_path / "cgroup"
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    (tmp_path / "own").write_text(own + "\n", encoding="utf-8")
    assert cores.cpu_quota(root, tmp_path / "own") == quota


def test_threads_follow_the_quota_and_the_affinity(monkeypatch):
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda pid: set(range(8)))
    for quota, expected in ((None, 8), (1.5, 2), (0.2, 1), (16.0, 8)):
        monkeypatch.setattr(cores, "cpu_quota", lambda quota=quota: quota)
        assert cores.available_cores() == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity to set")
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "ncnn"])
def test_every_backend_keeps_to_the_affinity(targets_bundle, backend):
    program = """
import os, sys
core = min(os.sched_getaffinity(0))
os.sched_setaffinity(0, {core})
from fexruntime import Place, open_bundle
from fexruntime.backends import open_backend
import numpy as np
runner = open_backend(open_bundle(sys.argv[1]).networks["faces"], Place(sys.argv[2]))
runner.infer({"frames": np.zeros((1, 3, 64, 96), np.float32)})
assert runner.describe()["threads"] == 1, runner.describe()
for task in os.listdir("/proc/self/task"):
    assert os.sched_getaffinity(int(task)) == {core}, task
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(targets_bundle), backend],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr

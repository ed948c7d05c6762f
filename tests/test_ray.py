"""The Ray Data recipe on a local Ray: two workers give the serial answer, and a run that was cut short goes on."""

from __future__ import annotations

import sys

import pytest
from conftest import ROOT

from fexruntime import Detector

pytestmark = pytest.mark.slow


def test_two_workers_give_the_serial_answer_and_go_on(pictures, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="needs the extra 'ray'")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import ray_data

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": sys.path[0]}},
    )
    try:
        assert ray_data.read(pictures, tmp_path, "edge", workers=2, block=2) == 3
        first = ray_data.table(pictures, tmp_path, block=2)
        assert ray_data.read(pictures, tmp_path, "edge", workers=2, block=2) == 0
        lost = sorted(tmp_path.glob("*.parquet"))[0]
        lost.unlink()
        assert ray_data.read(pictures, tmp_path, "edge", workers=2, block=2) == 1
    finally:
        ray.shutdown()
    again = ray_data.table(pictures, tmp_path, block=2)
    assert again.equals(first)
    paths = sorted(str(p) for p in pictures.iterdir())
    serial = Detector("edge", threads=1).detect(paths)
    assert again["input"].to_pylist() == list(serial.inputs)
    for column in serial.numeric_columns:
        assert again[column].to_pylist() == serial[column].tolist(), column

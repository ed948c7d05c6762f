from __future__ import annotations

import hashlib
import io
import json

import numpy as np
import pytest

from fexruntime import Detector, sinks
from fexruntime.errors import InputError, OutputError
from fexruntime.provenance import sidecar_of


@pytest.fixture(scope="module")
def fex(v1_edge_bundle, frame):
    return Detector(v1_edge_bundle).detect([frame, np.zeros((64, 64, 3), np.uint8)])


def test_csv_is_what_pandas_would_write_and_reads_back(fex, tmp_path):
    import pandas as pd

    fex.to_csv(tmp_path / "fex.csv")
    table = fex.to_pandas()
    buffer = io.StringIO()
    table.to_csv(buffer, index=False)
    ours, theirs = (pd.read_csv(f) for f in (tmp_path / "fex.csv", io.StringIO(buffer.getvalue())))
    pd.testing.assert_frame_equal(ours, theirs, rtol=0, atol=0)
    assert np.array_equal(ours[list(fex.numeric_columns)].to_numpy(np.float32), fex.values, equal_nan=True)


def test_pandas_dtypes_are_pyfeats(fex):
    table = fex.to_pandas()
    assert tuple(table.columns) == fex.columns
    assert table["AU01"].dtype == np.float32
    assert table["FrameHeight"].dtype == np.float64
    assert table["frame"].dtype == np.int64


def test_parquet_and_jsonl_read_back(fex, tmp_path):
    import pandas as pd

    for suffix in (".parquet", ".jsonl"):
        sinks.write_table(fex, tmp_path / f"fex{suffix}")
    table = pd.read_parquet(tmp_path / "fex.parquet")
    assert np.array_equal(table["Pitch"].to_numpy(), fex["Pitch"], equal_nan=True)
    lines = [json.loads(line) for line in (tmp_path / "fex.jsonl").read_text(encoding="utf-8").splitlines()]
    assert list(lines[0]) == list(fex.columns)
    assert np.float32(lines[0]["Pitch"]) == fex["Pitch"][0]
    assert lines[1]["Pitch"] is None
    assert lines[1]["Identity"] is None


def test_json_lines_have_no_infinity_and_csv_keeps_it(fex, tmp_path):
    values = fex.values.copy()
    fex.values[0, 5] = np.inf
    try:
        for suffix in (".jsonl", ".csv"):
            sinks.write_table(fex, tmp_path / f"fex{suffix}")
    finally:
        fex.values[:] = values

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    (line, *_) = (tmp_path / "fex.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line, parse_constant=refuse)[fex.numeric_columns[5]] is None
    assert ",inf," in (tmp_path / "fex.csv").read_text(encoding="utf-8").splitlines()[1]


def test_parquet_files_with_and_without_a_name_can_be_joined(v1_edge_bundle, frame, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    detector = Detector(v1_edge_bundle)
    tables = []
    for name, image in (("some", frame), ("none", np.zeros((64, 64, 3), np.uint8))):
        sinks.write_table(detector.detect(image), tmp_path / f"{name}.parquet")
        tables.append(pq.read_table(tmp_path / f"{name}.parquet"))
    assert tables[0].schema == tables[1].schema
    assert str(tables[1].schema.field("Identity").type) == "string"
    assert len(pa.concat_tables(tables)) == 2


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_names_that_are_not_utf8_are_written_as_escapes(photo, tmp_path, suffix):
    import os
    import shutil

    import pandas as pd

    name = os.fsdecode(b"caf\xe9.jpg")
    shutil.copy(photo, tmp_path / name)
    sinks.write_table(Detector().detect(tmp_path / name), tmp_path / f"out{suffix}")
    read = {".csv": pd.read_csv, ".jsonl": lambda p: pd.read_json(p, lines=True), ".parquet": pd.read_parquet}[suffix]
    assert read(tmp_path / f"out{suffix}")["input"][0].endswith("caf\\xe9.jpg")


def test_a_suffix_that_is_not_known(fex, tmp_path):
    with pytest.raises(InputError, match=r"\.csv, \.parquet, \.jsonl"):
        sinks.write_table(fex, tmp_path / "fex.xlsx")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(fex, tmp_path, monkeypatch):
    target = tmp_path / "fex.csv"
    target.write_text("old", encoding="utf-8")
    said = {"bundle_sha256": "x", "table_sha256": hashlib.sha256(b"old").hexdigest()}
    sidecar_of(target).write_text(json.dumps(said), encoding="utf-8")

    class Full(type(sinks.FORMATS[".csv"])):
        def block(self, table, schema):
            raise OSError("disk full")

    monkeypatch.setitem(sinks.FORMATS, ".csv", Full())
    with pytest.raises(OutputError, match="disk full"):
        sinks.write_table(fex, target)
    assert target.read_text(encoding="utf-8") == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fex.csv", "fex.csv.meta.json"]


def test_a_target_that_cannot_be_is_found_before_the_work(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match="is not a folder"):
        sinks.check_target(tmp_path / "file" / "fex.csv")
    (tmp_path / "fex.csv").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        sinks.check_target(tmp_path / "fex.csv")

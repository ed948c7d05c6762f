"""Records of older `fexport bench` runs stay in the report: marked, and without what nobody measured then."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

from fexport.bench import report

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name):
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load


def old_record():
    def side(walls, **more):
        samples = [{"wall_ms": w, "cpu_ms": 2 * w, "foreign_share": 0.0} for w in walls]
        return {
            "samples": samples,
            "statistics": {"p50_ms": -1.0, "p99_ms": -1.0},
            "noise": None,
            "rss_mb": 500.0,
            **more,
        }

    bundle = {
        "pipeline": "detectorv2",
        "contract": "pyfeat-2.1",
        "networks": {"faces": "retinaface-r34", "gaze": "new"},
        "stand_ins": [],
    }
    return {
        "machine": {"cpu": "a CPU", "cores": 2, "memory_gib": 8, "system": "Linux", "packages": {"numpy": "2.0"}},
        "workload": {
            "bundle": bundle, "frame": "640 x 480", "faces": 1, "threads": 2, "detector_size": None, "rounds": 3, "warmup": 1,
        },
        "start_up": [{"import_s": 0.2, "load_s": 1.0, "first_frame_s": 0.3, "rss_mb": 700.0}],
        "installed_mb": {"numpy": 70.0},
        "fexport": side([10.0, 11.0, 12.0], stages_ms={"faces network": 9.0}),
        "pyfeat": side([20.0, 22.0, 30.0], versions={"torch": "2"}, installed_mb=6000.0, load_s=9.0),
        "ratio": {"p50": 2.0},
    }  # fmt: skip


def test_an_undated_record_is_kept_and_marked(scripts):
    older = scripts("older_records")
    result = older.today(old_record())
    assert result["machine"]["date"] == f"before {older.ALL_DATED_FROM}"
    assert result["fexport"]["statistics"]["p50_ms"] == 11.0
    assert "p99_ms" not in result["fexport"]["statistics"]  # of three samples
    assert result["ratio"] == {"p50": 2.0, "paired_p50": 2.0, "paired_p25": 2.0, "paired_p75": 2.25}
    assert result["gflop"] == {"faces": older.GFLOP["retinaface-r34"]}
    text = report.markdown(result)
    assert f"before {older.ALL_DATED_FROM}" in text
    assert "environment 6000 MB, CUDA's libraries included" in text
    assert "at most" not in text


def test_a_dated_record_stays_as_it_is(scripts):
    dated = old_record()
    dated["machine"]["date"] = "2026-12-01T10:00:00+00:00"
    before = json.dumps(dated)
    assert json.dumps(scripts("older_records").today(dated)) == before


def test_memory_and_disk_of_the_footprint_with_their_verdict(scripts, monkeypatch, tmp_path):
    made = scripts("report")
    monkeypatch.setattr(made, "RESULTS", tmp_path)
    assert made._footprint() == []
    run = {"import_s": 0.1, "load_s": 1.0, "first_frame_s": 0.2, "rss_mb": 100.0, "peak_mb": 200.0, "steady_mb": 150.0}
    record = {
        "machine": {"cpu": "a CPU", "date": "2026-12-01T10:00:00+00:00", "commit": "abc"},
        "bundle": {"pipeline": "detectorv2", "networks": {"faces": "retinaface-r34", "multitask": "multitask-v28"}},
        "threads": 2,
        "memory": {
            "ncnn": {
                "backends": {"faces": "ncnn", "multitask": "onnxruntime"},
                "runs": [run | {"peak_mb": 900.0}, run, run | {"rss_mb": 300.0}],
            }
        },
        "installed": {"ncnn": {"rest": 300.0, "cuda": 0.0}, "cpu,ncnn": {"rest": 400.0, "cuda": 0.0}},
        "pyfeat_installed_mb": {"rest": 2660.0, "cuda": 3990.0},
        "pyfeat": "2.1.5",
    }
    (tmp_path / "footprint.json").write_text(json.dumps(record), encoding="utf-8")
    text = "\n".join(made._footprint())
    assert "| ncnn | faces | 200 | 150 | 200 | 900 | 1.00 |" in text
    assert "| fexport[cpu,ncnn] | 400 | 1/16.6 | 1/6.7 |" in text
    assert "fexport[ncnn] met." in text
    assert "fexport[cpu,ncnn] missed." in text


def test_what_was_measured_without_avx512_says_what_is_slower_than_torch(scripts, monkeypatch, tmp_path):
    made = scripts("report_networks")
    monkeypatch.setattr(made, "RESULTS", tmp_path)
    assert made.without_avx512() == []

    def network(name, mine, theirs):
        on_threads = {
            "threads": 2,
            "backend": "ncnn",
            "wall_ms": [mine],
            "pyfeat_wall_ms": [theirs],
            "ratio": theirs / mine,
        }
        one = {"backend": "onnxruntime", "cpu_ms": [2.0], "pyfeat_cpu_ms": [3.0], "ratio": 1.5}
        return {"network": name, **one, "on_threads": on_threads}

    networks = {
        "faces": network("finder", 10.0, 20.0),
        "pose": {"network": "mlp"},
        "identity": network("slow", 4.0, 3.0),
    }
    frame = {
        "workload": {"bundle": {"pipeline": "detectorv9"}},
        "fexport": {"statistics": {"p50_ms": 100.0}},
        "pyfeat": {"statistics": {"p50_ms": 150.0}, "networks": networks},
        "describe": {"faces": {"backend": "ncnn"}},
        "ratio": {"paired_p25": 1.4, "paired_p50": 1.5, "paired_p75": 1.6},
    }
    machine = {"cpu": "a CPU (avx2; AVX-512 hidden)", "date": "2026-12-01T10:00:00+00:00", "commit": "abc"}
    record = {"machine": machine, "frames": {"vga": frame}}
    (tmp_path / "without_avx512.json").write_text(json.dumps(record), encoding="utf-8")
    text = "\n".join(made.without_avx512())
    assert "| vga | faces ncnn | 100 | 150 | 1.50 | 1.40 to 1.60 |" in text
    assert "| detectorv9 | finder | 1 | onnxruntime | 2.0 | 3.0 | 1.50 |" in text
    assert "| detectorv9 | slow | 2 | ncnn | 4.0 | 3.0 | 0.75 |" in text
    assert "Networks slower than torch: 1 of 4 rows." in text


def test_the_pages_of_robustness_are_what_the_records_say(scripts):
    """`python benchmarks/robustness.py` makes both."""
    made = scripts("robustness")
    assert made.PAGE.read_text(encoding="utf-8") == made.page(True)
    assert made.DOCS.read_text(encoding="utf-8") == made.page(False)


def test_the_report_and_the_figures_of_the_pages_are_what_the_records_say(scripts):
    """`python benchmarks/report.py` writes them."""
    scripts("pieces"), scripts("older_records"), scripts("readme_table")
    tables = scripts("page_tables")
    report_script = scripts("report")
    found = report_script.workloads()
    shown = []
    for page in tables.PAGES:
        text = page.read_text(encoding="utf-8")
        assert text == tables.filled(text, found), page
        shown += re.findall(r"<!-- measured: (\S+) -->", text)
    assert sorted(shown) == sorted(("frames", *tables.SECTIONS))
    assert (BENCHMARKS / "REPORT.md").read_text(encoding="utf-8") == report_script.text(found)


def test_no_page_says_a_measured_number_by_hand(scripts):
    """Beside what is filled from records: no time, rate, memory or ratio of speeds. (`10 ms` of a code's constant has none, either.)"""
    scripts("pieces"), scripts("older_records"), scripts("readme_table")
    tables = scripts("page_tables")
    measured = re.compile(
        r"\d[\d.]* (?:to [\d.]+ )?(?:ms\b|GFLOP|frames/s)|\d[\d.]* times (?:as|py-feat)|\d\.\d+ for \d"
    )
    assert all(measured.search(said) for said in ("140 to 146 ms", "1.8 times py-feat", "5.09 for 5.11", "270 GFLOP/s"))
    for page in (tables.ROOT / "README.md", *sorted((tables.ROOT / "docs").glob("*.md"))):
        if page.name == "robustness.md":  # all of it is made from records
            continue
        text = re.sub(r"<!-- measured: .*?<!-- /measured -->", "", page.read_text(encoding="utf-8"), flags=re.S)
        assert measured.findall(text) == [], page


def test_the_corpus_and_the_kills_that_are_recorded_broke_nothing():
    results = BENCHMARKS / "results"
    corpus = json.loads((results / "hostile_corpus.json").read_text(encoding="utf-8"))["cases"]
    assert len(corpus) > 200
    assert {c["outcome"] for c in corpus} == {"kept", "refused"}
    kills = json.loads((results / "video_kills.json").read_text(encoding="utf-8"))
    for suffix in (".csv", ".parquet"):
        assert [t["equal"] for t in kills[suffix]] == [True] * 20


def dated(walls, commit):
    record = old_record()
    record["machine"] |= {"date": "2026-12-01T10:00:00+00:00", "commit": commit}
    for side, factor in (("fexport", 1), ("pyfeat", 3)):
        record[side]["samples"] = [{"wall_ms": w * factor, "cpu_ms": w, "foreign_share": 0.0} for w in walls]
        record[side] |= {"rss_mb": 10.0 * len(walls), "peak_mb": 20.0, "faces_read": 1}
    record["workload"]["rounds"] = len(walls)
    return record


def test_pieces_of_a_workload_are_one_record(scripts):
    pieces = scripts("pieces")
    whole = pieces.joined([dated([10.0, 12.0], "a"), dated([14.0, 16.0, 18.0], "b")], "record.py --only x")
    assert [s["wall_ms"] for s in whole["fexport"]["samples"]] == [10.0, 12.0, 14.0, 16.0, 18.0]
    assert whole["fexport"]["statistics"]["p50_ms"] == 14.0
    assert whole["ratio"]["paired_p50"] == 3.0
    assert whole["workload"]["rounds"] == 5
    assert whole["fexport"]["rss_mb"] == 30.0
    assert [p["commit"] for p in whole["parts"]] == ["a", "b"]
    assert whole["command"] == "record.py --only x"


def test_every_record_that_the_report_shows_is_one_that_record_makes(scripts):
    pieces, report_script = scripts("pieces"), scripts("report")
    made = set()
    for name, record in pieces.RECORDS.items():
        lowered = name != "bundles"
        parts = {p: dated([1.0, 2.0], "a") if lowered or p[-4:] in ("int8", "bf16") else None for p in record.pieces}
        if name == "footprint":
            parts = {p: {"memory": {p: {}}, "installed": {}} for p in record.pieces}
        if name in pieces.WORKLOADS or name in pieces.PRECISIONS:
            parts = {p: dated([1.0, 2.0], "a") for p in record.pieces}
            parts.get("networks", {}).get("pyfeat", {})["networks"] = {}
        made |= set(record.join(parts))
    # two scripts write their own files
    made |= {f"before_after_{n}.json" for n in pieces.RECORDS if n.startswith("auto_over")}
    made |= {"profile_multitask-v28.json", "thread_pools.json", "gate.json"}
    assert made == report_script.REMADE & made
    shown = {f"{n}.json" for n in pieces.WORKLOADS} | {f"precision_{n}.json" for n in pieces.PRECISIONS}
    assert shown | {"peak.json", "footprint.json", "thread_pools.json", "gate_slowed.json"} <= made


def test_the_workloads_have_options_that_bench_has(scripts):
    from fexport.cli.bench import command

    pieces = scripts("pieces")
    known = {option for p in command.params for option in p.opts}
    for workload in (*pieces.WORKLOADS.values(), *pieces.PRECISIONS.values()):
        assert {o for o in workload.options if o.startswith("--")} <= known
        assert workload.bundle in pieces.BUNDLES

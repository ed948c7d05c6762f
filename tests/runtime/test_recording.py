"""Rows appended as they come: killed at any instant and gone on with, they are an uninterrupted run's."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import clips
import numpy as np
import pytest

from fexruntime import Detector
from fexruntime.errors import CutOffError, InputError, OutputError
from fexruntime.recording import Run, record
from fexruntime.sinks.appending import differences, merged

PROGRAM = """
import json, sys
from fexruntime import Detector
from fexruntime.recording import record
bundle, out, resume, options, *inputs = sys.argv[1:]
print("ready", flush=True)
record(Detector(bundle), inputs, out, resume=resume == "resume", commit_every_s=0.05, **json.loads(options))
"""


@pytest.fixture(scope="module")
def film(tmp_path_factory, photo):
    return clips.write(
        tmp_path_factory.mktemp("film") / "film.mp4", clips.pictures(photo, 90), options={"g": "12", "bf": "2"}
    )


def started(bundle, out, inputs, resume, **options):
    arguments = [bundle, out, "resume" if resume else "new", json.dumps(options), *inputs]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def table(path):
    import pandas as pd

    return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [(".csv", {}), (".parquet", {"batch_size": 3}), (".parquet", {"detect_every": 4, "bbox_smoothing_alpha": 0.5})],
)
def test_killed_at_random_and_gone_on_with_it_is_what_it_would_have_been(
    v1_edge_bundle, film, photo, tmp_path, suffix, options
):
    import pandas as pd

    inputs = [photo, film, photo]
    whole = tmp_path / f"whole{suffix}"
    start = time.monotonic()
    record(Detector(v1_edge_bundle), inputs, whole, **options)
    length = time.monotonic() - start
    out, dice, kills = tmp_path / f"out{suffix}", random.Random(7), 0
    for attempt in range(40):
        run = started(v1_edge_bundle, out, inputs, (tmp_path / f"out{suffix}.journal").exists(), **options)
        run.stdout.readline()
        try:
            run.wait(0.8 + dice.random() * length / 3 if attempt < 30 else None)
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGKILL)
            kills += 1
        _, said = run.communicate()
        if run.returncode == 0:
            break
        assert run.returncode == -signal.SIGKILL, said.decode()
        if out.exists() and not (tmp_path / f"out{suffix}.journal").exists():
            Path(f"{out}.part").unlink(missing_ok=True)
            break  # killed when all was done
    assert kills >= 2
    pd.testing.assert_frame_equal(table(out), table(whole), rtol=0, atol=0)
    if suffix == ".csv":
        assert out.read_bytes() == whole.read_bytes()
    beside = [] if suffix == ".parquet" else [f"{p.name}.meta.json" for p in (out, whole)]
    assert {p.name for p in tmp_path.iterdir()} - set(beside) == {out.name, whole.name}
    assert (tmp_path / f"{whole.name}.meta.json").exists() == bool(beside)


def stopped_after(frames, detector, inputs, out, **options):
    stop, seen = threading.Event(), []

    def on_batch(batch):
        seen.extend(batch)
        if len(seen) >= frames:
            stop.set()

    return record(detector, inputs, out, on_batch=on_batch, stop=stop, **options)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_a_run_that_was_stopped_has_its_rows_and_can_be_gone_on_with(film, tmp_path, suffix):
    detector = Detector()
    record(detector, film, tmp_path / f"whole{suffix}")
    out = tmp_path / f"out{suffix}"
    done = stopped_after(10, detector, film, out)
    assert done.stopped
    assert done.frames == 10
    with_rows = out.read_bytes()
    assert len(with_rows) > 200
    with pytest.raises(InputError, match=r"10 rows of a run that did not end: go on with --resume"):
        record(detector, film, out)
    again = record(detector, film, out, resume=True)
    assert (again.frames, again.resumed_frames) == (90, 10)
    assert out.read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
    assert not list(tmp_path.glob("*.part")) + list(tmp_path.glob("*.journal"))


def test_a_run_whose_place_beside_the_table_was_taken_can_be_gone_on_with(film, tmp_path):
    detector, out, beside = Detector(), tmp_path / "out.csv", tmp_path / "out.csv.meta.json"
    with pytest.raises(OutputError, match="fexport did not write it") as raised:
        record(detector, film, out, on_batch=lambda batch: beside.write_text("somebody's", encoding="utf-8"), end=0.5)
    assert beside.read_text(encoding="utf-8") == "somebody's"
    assert not out.exists()
    beside.unlink()
    # the error, which is held here, holds the run: its lock must be gone all the same
    assert record(detector, film, out, resume=True, end=0.5).rows > 0
    assert raised
    assert json.loads(beside.read_text(encoding="utf-8"))["stopped"] is False


def test_another_run_is_refused_and_the_difference_named(film, photo, tmp_path, v1_edge_bundle):
    detector, out = Detector(), tmp_path / "out.csv"
    mine = tmp_path / "mine.mp4"
    shutil.copy(film, mine)
    stopped_after(5, detector, mine, out)
    for change, says in (
        ({"skip_frames": 2}, "options skip_frames was 1, is 2"),
        ({"columns": ["facebox"]}, "options columns was None"),
    ):
        with pytest.raises(InputError, match=says):
            record(detector, mine, out, resume=True, **change)
    with pytest.raises(InputError, match="inputs"):
        record(detector, [mine, photo], out, resume=True)
    with pytest.raises(InputError, match="bundle was"):
        record(Detector(v1_edge_bundle), mine, out, resume=True)
    clips.write(mine, clips.pictures(photo, 80))
    with pytest.raises(InputError, match="is not the file that was read before"):
        record(detector, mine, out, resume=True)


def test_a_torn_line_of_the_journal_and_rows_behind_it_are_as_if_never_written(film, tmp_path):
    detector, out = Detector(), tmp_path / "out.csv"
    record(detector, film, tmp_path / "whole.csv")
    stopped_after(8, detector, film, out)
    with (tmp_path / "out.csv.journal").open("ab") as file:
        file.write(b'{"bytes": 99999, "rows": 55, "aft')
    with (tmp_path / "out.csv.part").open("ab") as file:
        file.write(b"1.0,2.0,hal")
    record(detector, film, out, resume=True)
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_part_that_lost_rows_is_told(film, tmp_path):
    detector, out = Detector(), tmp_path / "out.csv"
    stopped_after(8, detector, film, out)
    os.truncate(tmp_path / "out.csv.part", 100)
    with pytest.raises(InputError, match="is shorter"):
        record(detector, film, out, resume=True)


def test_a_bad_input_ends_the_run_and_the_rows_before_it_are_kept(film, tmp_path):
    bad = tmp_path / "in" / "text.mp4"
    bad.parent.mkdir()
    bad.write_text("hello", encoding="utf-8")
    for inputs in ([bad], [bad, film]):  # nothing was read before it
        with pytest.raises(InputError, match="is not a video"):
            record(Detector(), inputs, tmp_path / "out.csv")
        assert [p.name for p in tmp_path.iterdir()] == ["in"]
    with pytest.raises(InputError, match=r"is not a video.*; 90 rows are kept"):
        record(Detector(), [film, bad], tmp_path / "out.csv", commit_every_s=600)
    bad.unlink()
    shutil.copy(film, bad)  # mended: it had not been read before
    assert record(Detector(), [film, bad], tmp_path / "out.csv", resume=True).frames == 180


def test_a_full_disk_keeps_what_was_written_and_says_so(film, tmp_path):
    out = tmp_path / "out.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, hard))
    try:
        with pytest.raises(OutputError, match=r"the disk is full; \d+ rows are kept in .*\.part'; --resume goes on"):
            record(Detector(), film, out, commit_every_s=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert not out.exists()
    assert record(Detector(), film, out, resume=True).resumed_frames >= 5
    record(Detector(), film, tmp_path / "whole.jsonl")
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_cut_off_video_gives_its_rows_and_one_error(film, tmp_path):
    cut = clips.write(tmp_path / "whole.mkv", clips.pictures_of_noise(60))
    cut.write_bytes(cut.read_bytes()[: int(cut.stat().st_size * 0.6)])
    with pytest.raises(CutOffError, match=r"is cut off .* rows of \d+ frames are in"):
        record(Detector(), [cut, film], tmp_path / "out.csv")
    read = table(tmp_path / "out.csv")
    assert set(read["input"]) == {str(cut), str(film)}
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_run_that_ends_between_the_table_and_what_lies_beside_it_is_gone_on_with(film, tmp_path, monkeypatch, suffix):
    """It replaces a table of ours, which is still there: nobody has changed it."""
    from fexruntime.sinks.appending import Appending

    out = tmp_path / f"out{suffix}"
    record(Detector(), film, out, skip_frames=30)

    def killed(sink):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Appending, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            record(Detector(), film, out, skip_frames=20)
    assert record(Detector(), film, out, skip_frames=20, resume=True).rows == 5
    with out.open("a", encoding="utf-8") as file:
        file.write("a note of mine\n")
    with pytest.raises(OutputError, match="was changed since"):
        record(Detector(), film, out, skip_frames=20)


def test_an_input_that_is_gone_before_it_is_noted_costs_no_row(photo, tmp_path, monkeypatch):
    """As in a folder that is cleared while it is read: its rows are written, and only a run behind it cannot be gone on with."""
    for name in ("a.jpg", "b.jpg"):
        shutil.copy(photo, tmp_path / name)
    inputs, out = [tmp_path / "a.jpg", tmp_path / "b.jpg"], tmp_path / "out.csv"
    noted = Run._look_at

    def late(run, number):
        inputs[int(number)].unlink(missing_ok=True)
        noted(run, number)

    monkeypatch.setattr(Run, "_look_at", late)
    assert record(Detector(), inputs, out).rows == 2
    shutil.copy(photo, tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match="1 row is kept"):
        record(Detector(), inputs, tmp_path / "more.csv")
    shutil.copy(photo, tmp_path / "a.jpg")
    with pytest.raises(InputError, match="is not the file that was read before"):
        record(Detector(), inputs, tmp_path / "more.csv", resume=True)


def test_parquet_says_where_it_is_from_and_what_each_column_is(film, tmp_path):
    import pyarrow.parquet as parquet

    record(Detector(), film, tmp_path / "out.parquet", skip_frames=30)
    file = parquet.ParquetFile(tmp_path / "out.parquet")
    said = json.loads(file.schema_arrow.metadata[b"fexport"])
    assert said["options"]["skip_frames"] == 30
    assert said["contract"] == Detector().bundle.contract
    assert {"bundle", "weights", "versions", "inputs", "stand_ins"} <= set(said)
    types = {f.name: str(f.type) for f in file.schema_arrow}
    assert types["pts"] == "int64"
    assert types["time_s"] == "double"
    assert types["FaceScore"] == "float"
    read = file.read().to_pandas()
    assert read["pts"].tolist() == [0, 15360, 30720] or read["time_s"].tolist() == pytest.approx([0.0, 1.0, 2.0])


def test_only_the_columns_that_are_asked_for_are_in_the_file_times_too(film, tmp_path):
    import pyarrow.parquet as pq

    first = ["input", "frame"]
    for names, has in (
        (("FaceScore", "time"), ["FaceScore", *first, "pts", "time_base", "time_s"]),
        (("FaceScore", "pts"), ["FaceScore", *first, "pts"]),
        (("FaceScore", "approx_time"), ["FaceScore", *first, "approx_time"]),
        (("FaceScore",), ["FaceScore", *first]),
    ):
        out = tmp_path / f"{names[-1]}.parquet"
        record(Detector(), film, out, columns=names, skip_frames=30)
        assert pq.read_schema(out).names == has
    assert pq.read_table(tmp_path / "time.parquet")["time_s"].to_pylist() == [0.0, 1.0, 2.0]


def test_what_is_missing_is_missing_in_parquet_and_pandas_is_not_imported_for_it(film, tmp_path):
    import pyarrow.parquet as pq

    black = clips.write(tmp_path / "black.mp4", [np.zeros((160, 160, 3), np.uint8)] * 4)
    out = tmp_path / "out.parquet"
    program = (
        "import sys\nfrom fexruntime import Detector, record\n"
        "record(Detector(), sys.argv[2:], sys.argv[1], track=True, skip_frames=2)\n"
        # with pyarrow 25, on Python 3.10, pandas is there all the same
        "import pyarrow\nassert 'pandas' not in sys.modules or int(pyarrow.__version__.split('.')[0]) < 26"
    )
    subprocess.run([sys.executable, "-c", program, str(out), str(film), str(black)], check=True)
    table = pq.read_table(out)
    assert table.num_rows == 47
    missing = {name: table[name].null_count for name in table.column_names if table[name].null_count}
    assert missing == {**dict.fromkeys(("FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight", "track"), 2)}
    assert all(isinstance(t, int) for t in table["track"].to_pylist()[:45])
    assert table["input"].to_pylist() == [str(film)] * 45 + [str(black)] * 2
    assert table["FaceScore"].to_pylist()[45:] == [0.0, 0.0]
    assert min(table["FaceRectX"].to_pylist()[:45]) > 0


def test_names_that_need_all_faces_are_written_at_the_end(v1_edge_bundle, film, tmp_path):
    done = record(Detector(v1_edge_bundle), film, tmp_path / "out.csv", identity_method="connected", skip_frames=30)
    assert done.rows == 3
    with pytest.raises(InputError, match="needs all faces at once"):
        record(Detector(v1_edge_bundle), film, tmp_path / "out.csv", identity_method="connected", resume=True)


def test_only_one_process_writes(film, tmp_path):
    detector, out = Detector(), tmp_path / "out.csv"

    def on_batch(batch):
        with pytest.raises(OutputError, match="another process is writing"):
            record(detector, film, out)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(detector, film, out, on_batch=on_batch)


def test_commits_are_merged_and_differences_named():
    assert merged({"a": 1, "merged": {"x": {"1": 1}}}, {"a": 2, "merged": {"x": {"2": 2}}}) == {
        "a": 2,
        "merged": {"x": {"1": 1, "2": 2}},
    }
    assert differences({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}) == ["a b 1 was 2, is 3"]
    assert differences({"a": 1}, {"a": 1}) == []


def test_stopped_by_a_signal_the_command_says_how_many(film, tmp_path):
    FEXPORT = [sys.executable, "-c", "from fexport.cli import main; main()"]

    out = tmp_path / "out.csv"
    run = subprocess.Popen(
        [*FEXPORT, "run", *[str(film)] * 40, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    deadline = time.monotonic() + 60
    while not Path(f"{out}.part").exists() or Path(f"{out}.part").stat().st_size < 3000:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    said, wrong = run.communicate(timeout=60)
    assert run.returncode == 143, wrong
    assert "stopped before the end, --resume goes on" in said
    rows = len(table(out))
    assert f"{rows} rows" in said
    assert np.isfinite(table(out)["frame"]).all()

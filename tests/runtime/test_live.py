"""Live sources: the newest frame wins, the rest is counted; what is lost is opened again; a stop drains."""

from __future__ import annotations

import functools
import http.server
import json
import os
import subprocess
import threading
import time

import clips
import numpy as np
import pytest
from command import FEXPORT, watched_until_rows

from fexruntime import Detector
from fexruntime.errors import InputError
from fexruntime.options import Options
from fexruntime.recording_live import record_live
from fexruntime.sinks.appending import Appending


@pytest.fixture
def served(tmp_path):
    """(address of a folder, the folder)."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.log_message = lambda *a: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.RequestHandlerClass.log_message = lambda *a: None
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", tmp_path
    server.shutdown()


def test_the_newest_frame_wins_and_the_others_are_counted(photo):
    images = clips.pictures(photo, 5)
    first_is_read, all_given = threading.Event(), threading.Event()

    def camera():
        yield images[0]
        assert first_is_read.wait(20)
        yield from images[1:]
        all_given.set()

    live = Detector().live(camera())
    seen = []
    for one in live:
        seen.append(one)
        if len(seen) == 1:  # the network is busy with the first while four more come
            first_is_read.set()
            assert all_given.wait(20)
    assert [s.frame.index for s in seen] == [0, 4]
    assert (live.grabbed, live.dropped, live.reconnected) == (5, 3, 0)
    assert np.array_equal(seen[1].frame.rgb_u8, images[4])
    assert len(seen[1].result) == 1
    assert seen[1].latency_s >= 0
    assert seen[1].result.time_s >= seen[0].result.time_s == 0
    with pytest.raises(InputError, match="can be iterated once"):
        next(iter(live))


def test_a_stop_reads_the_frame_that_waits_and_no_other(photo):
    image = clips.pictures(photo, 1)[0]
    given = threading.Semaphore(0)

    def camera():
        while True:
            given.acquire()
            yield image

    live = Detector().live(camera())
    given.release()
    indices = []
    for one in live:
        indices.append(one.frame.index)
        if len(indices) == 1:
            given.release()
            while live.grabbed < 2:
                time.sleep(0.001)
            live.stop()
            given.release()
    assert indices == [0, 1]
    assert live.grabbed == 2


def test_a_source_that_gives_nothing_can_be_stopped():
    never = threading.Event()

    def camera():
        never.wait(60)
        yield np.zeros((8, 8, 3), np.uint8)

    live = Detector().live(camera())
    threading.Timer(0.1, live.stop).start()
    assert list(live) == []
    never.set()


def test_a_producer_may_refill_its_buffer_and_its_errors_are_raised(photo):
    buffer = clips.pictures(photo, 1)[0].copy()
    kept = buffer.copy()
    read = threading.Event()

    def camera():
        yield buffer
        assert read.wait(20)
        buffer[:] = 0
        raise OSError("unplugged")

    watching = iter(Detector().live(camera()))
    seen = next(watching)
    read.set()
    with pytest.raises(OSError, match="unplugged"):
        next(watching)
    assert np.array_equal(seen.frame.rgb_u8, kept)


def test_a_stream_that_ends_is_opened_again_and_given_up_after_so_many_tries(served, photo):
    address, folder = served
    film = clips.write(folder / "stream.ts", clips.pictures(photo, 20))
    live = Detector().live(f"{address}/stream.ts", reconnects=1, track=True)
    indices, tracks = [], []

    def watch():
        for one in live:
            indices.append(one.frame.index)
            tracks.extend(one.result.tracks.tolist())
            if live.reconnected:
                film.unlink(missing_ok=True)

    with pytest.raises(InputError, match=r"was lost .*and not found again in 1 tries"):
        watch()
    assert live.reconnected >= 1
    assert live.grabbed > 20
    assert indices == sorted(set(indices))
    assert len(indices) + live.dropped == live.grabbed
    assert len(set(tracks)) >= 2  # nobody knows who came back


def test_what_cannot_be_watched_is_said(served):
    address, folder = served
    (folder / "text.mp4").write_text("hello", encoding="utf-8")
    clips.sound_only(folder / "sound.mp4")
    detector = Detector()
    for source, says in (
        (f"{address}/none.mp4", "cannot watch"),
        (f"{address}/text.mp4", "cannot watch"),
        (f"{address}/sound.mp4", "no video in it"),
        (99, "there is no webcam 99"),
    ):
        with pytest.raises(InputError, match=says):
            list(detector.live(source))
    for options, says in (
        ({"start": 1}, "start is of files"),
        ({"batch_size": 2}, "must be 1"),
        ({"reconnects": -1}, "reconnects must be 0"),
    ):
        with pytest.raises(InputError, match=says):
            detector.live(0, **options)
    with pytest.raises(InputError, match="cannot watch a float"):
        detector.live(1.5)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_rows_of_a_live_source_are_kept_whatever_ends_it(photo, tmp_path, suffix):
    import pandas as pd

    def camera(fail):
        for image in clips.pictures(photo, 3):
            taken.clear()
            yield image
            assert taken.wait(20)
        if fail:
            raise RuntimeError("unplugged")

    detector, taken = Detector(), threading.Event()
    out = tmp_path / f"out{suffix}"
    options = Options(columns=("facebox", "time"))
    names = {"columns": options.columns}

    def record(fail):
        return record_live(detector, detector.live(camera(fail), **names), options, out, lambda seen: taken.set())

    done = record(False)
    assert (done.frames, done.faces, done.rows) == (3, 3, 3)
    out.unlink()
    with pytest.raises(RuntimeError, match="unplugged"):
        record(True)
    rows = pd.read_csv(out) if suffix == ".csv" else pd.read_parquet(out)
    assert rows["frame"].tolist() == [0, 1, 2]
    assert rows["FaceScore"].gt(0.5).all()
    beside = [] if out.suffix == ".parquet" else [f"{out.name}.meta.json"]  # where the rows come from, and how many
    assert sorted(p.name for p in tmp_path.iterdir()) == [out.name, *beside]


def test_rows_of_a_live_source_wait_for_so_many_at_most_however_seldom_they_are_committed(photo, tmp_path, monkeypatch):
    taken, blocks, write = threading.Event(), [], Appending.write

    def camera():
        for image in clips.pictures(photo, 5):
            taken.clear()
            yield image
            assert taken.wait(20)

    def written(sink, table):
        blocks.append(len(table))
        write(sink, table)

    monkeypatch.setattr("fexruntime.recording_live.AT_ONCE", 2)
    monkeypatch.setattr(Appending, "write", written)
    detector = Detector()
    record_live(detector, detector.live(camera()), Options(), tmp_path / "x.csv", lambda seen: taken.set(), 600)
    assert blocks == [2, 2, 1]


def test_the_command_watches_until_it_is_stopped(served, photo, tmp_path):
    address, folder = served
    clips.write(folder / "stream.ts", clips.pictures(photo, 200))
    out = tmp_path / "out.jsonl"
    said = watched_until_rows(f"{address}/stream.ts", out)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert f"{len(rows)} rows in" in said
    assert "frames dropped, latency" in said


@pytest.mark.skipif(bool(os.environ.get("DISPLAY")), reason="there is a display")
def test_without_a_display_show_is_refused_in_one_line(photo):
    done = subprocess.run([*FEXPORT, "run", str(photo), "--show"], capture_output=True, encoding="utf-8")
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "--show needs" in done.stderr

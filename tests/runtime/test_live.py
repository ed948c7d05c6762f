"""Live sources: the newest frame wins, the rest is counted; what is lost is opened again; a stop drains."""

from __future__ import annotations

import functools
import http.server
import json
import os
import resource
import shutil
import signal
import subprocess
import threading
import time

import clips
import numpy as np
import pytest
from command import FEXPORT, watched_until_rows

from fexruntime import Detector
from fexruntime.errors import InputError, OutputError
from fexruntime.options import Options
from fexruntime.recording_live import record_live
from fexruntime.sinks.appending import Appending


@pytest.fixture
def small_files():
    """A function that bounds every file that is written from then on, as a disk that is full does."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


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


def watched(photo, out, before_last, commit_every_s, frames=6):
    """The error of a live run into `out`, for which `before_last` is called when all but the last frame are dealt with; no thread is left."""
    detector, taken, journal = Detector(), threading.Semaphore(0), out.with_name(f"{out.name}.journal")

    def camera():
        for image in clips.pictures(photo, frames):
            yield image
            assert taken.acquire(timeout=20)
        while True:  # until it is told to stop
            yield image

    def on_seen(seen):
        if seen.frame.index == frames - 2:
            deadline = time.monotonic() + 60
            while commit_every_s == 0 and journal.read_bytes().count(b"\n") < frames:  # its head, and each frame
                assert time.monotonic() < deadline
                time.sleep(0.01)
            before_last()
        elif seen.frame.index == frames - 1:
            live.stop()
        taken.release()

    live = detector.live(camera())
    with pytest.raises(OutputError) as raised:
        record_live(detector, live, Options(), out, on_seen, commit_every_s)
    taken.release(frames)
    live._thread.join(timeout=20)
    assert not live._thread.is_alive()
    assert "fexport-behind" not in [thread.name for thread in threading.enumerate()]
    return raised.value


def rows_of_part(part):
    """Frames' numbers in the part of a run."""
    import pyarrow as pa

    if part.name.endswith(".parquet.part"):
        with pa.ipc.open_stream(part.read_bytes()) as stream:
            return stream.read_all()["frame"].to_pylist()
    return [json.loads(line)["frame"] for line in part.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("commit_every_s", [0, 600])
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_rows_of_a_live_source_are_in_the_part_where_the_file_cannot_be_made(photo, tmp_path, suffix, commit_every_s):
    out, part = tmp_path / f"out{suffix}", tmp_path / f"out{suffix}.part"
    error = watched(photo, out, out.mkdir, commit_every_s)
    assert str(error) == f"cannot write {str(out)!r}: Is a directory: 6 rows are kept in {str(part)!r}"
    assert rows_of_part(part) == [*range(6)]
    out.rmdir()
    with pytest.raises(InputError, match=r"has 6 rows of a run that did not end: move it elsewhere, or delete it, and"):
        record_live(Detector(), Detector().live(iter(())), Options(), out)
    part.rename(tmp_path / "kept")
    (tmp_path / f"out{suffix}.journal").unlink()
    record_live(Detector(), Detector().live(iter(())), Options(), out)  # nobody holds it any more


@pytest.mark.parametrize("commit_every_s", [0, 600])
def test_a_disk_that_is_full_when_a_live_source_ends(photo, tmp_path, small_files, commit_every_s):
    out, part = tmp_path / "out.jsonl", tmp_path / "out.jsonl.part"
    committed = commit_every_s == 0

    def full():
        # the journal has room for one line more, the part for less than a row
        small_files(part.stat().st_size + 10 if committed else 1000)

    error = watched(photo, out, full, commit_every_s, frames=12)
    kept = f"{{}} rows are kept in {str(part)!r}" if committed else f"what could be written is in {str(part)!r}"
    whole = [json.loads(line)["frame"] for line in part.read_text(encoding="utf-8").splitlines()[:-1]]
    assert str(error) == f"cannot write {str(out)!r}: the disk is full; {kept.format(len(whole))}"
    assert whole == [*range(11 if committed else 3)]
    assert not out.exists()


def test_a_folder_that_is_gone_when_a_live_source_ends_keeps_no_rows_and_that_is_said(photo, tmp_path):
    out = tmp_path / "folder" / "out.csv"
    for commit_every_s in (0, 600):
        error = watched(photo, out, lambda: shutil.rmtree(out.parent), commit_every_s)
        part = out.with_name("out.csv.part")
        says = f"cannot write {str(out)!r}: No such file or directory; {str(part)!r} with the rows so far is gone, too"
        assert str(error) == says


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


def test_the_command_says_in_one_line_what_is_kept_of_a_camera_on_a_full_disk(served, photo, tmp_path):
    address, folder = served
    clips.write(folder / "stream.ts", clips.pictures(photo, 200))
    out, part = tmp_path / "out.jsonl", tmp_path / "out.jsonl.part"
    done = subprocess.run(
        [*FEXPORT, "run", "--camera", f"{address}/stream.ts", "--out", str(out)],
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert (done.returncode, done.stdout) == (1, "")
    (said,) = done.stderr.strip().splitlines()
    assert "the disk is full; " in said
    assert str(part) in said
    assert "--resume" not in said
    assert len(part.read_text(encoding="utf-8").splitlines()) > 20
    assert not out.exists()


@pytest.mark.skipif(bool(os.environ.get("DISPLAY")), reason="there is a display")
def test_without_a_display_show_is_refused_in_one_line(photo):
    done = subprocess.run([*FEXPORT, "run", str(photo), "--show"], capture_output=True, encoding="utf-8")
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "--show needs" in done.stderr

"""A camera's protocol, from a real server: frames as they come, a server that goes away, falls silent, and comes back."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import clips
import numpy as np
import pytest
from command import watched_until_rows

from fexruntime import Detector, live
from fexruntime.errors import InputError

SERVER = Path(__file__).parent.parent / "rtsp_server.py"
NEEDS = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"


@pytest.fixture(scope="module")
def python():
    """A Python with GStreamer's RTSP server; where FEXPORT_NEED_RTSP is set (CI, which installs it), there must be one."""
    for found in (sys.executable, "/usr/bin/python3", shutil.which("python3")):
        if found and Path(found).exists() and not subprocess.run([found, "-c", NEEDS], capture_output=True).returncode:
            return found
    assert not os.environ.get("FEXPORT_NEED_RTSP"), "no GStreamer RTSP server"
    return pytest.skip("needs python3-gi and gir1.2-gst-rtsp-server-1.0")


@pytest.fixture(scope="module")
def images(photo):
    return clips.pictures(photo, 240)


@pytest.fixture(scope="module")
def film(images, tmp_path_factory):
    return clips.write(
        tmp_path_factory.mktemp("film") / "film.mp4", images, options={"g": "10", "bf": "0", "crf": "12"}
    )


class Camera:
    """A server at one address that can be taken away and brought back."""

    def __init__(self, python: str, film: Path) -> None:
        self._command = [python, str(SERVER)]
        self._film = film
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.address = f"rtsp://127.0.0.1:{self._port}/film"
        self._run = None

    def begin(self) -> None:
        self._run = subprocess.Popen(
            [*self._command, str(self._port), str(self._film)], stdout=subprocess.PIPE, encoding="utf-8"
        )
        assert self._run.stdout.readline() == "ready\n"

    def tell(self, number: signal.Signals) -> None:
        self._run.send_signal(number)

    def end(self) -> None:
        if self._run is not None:
            self._run.kill()
            self._run.communicate()
            self._run = None


@pytest.fixture
def camera(python, film):
    made = Camera(python, film)
    made.begin()
    yield made
    made.end()


@contextlib.contextmanager
def ended_by(watching, seconds=90):
    """Stop what would hang; the caller's assertions then fail."""
    timer = threading.Timer(seconds, watching.stop)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        watching.stop()


def test_a_server_that_goes_away_and_comes_back_is_watched_on(camera, images, monkeypatch):
    monkeypatch.setattr(live, "_FIRST_WAIT_S", 0.05)
    watching = Detector().live(camera.address, track=True)
    before, after, later = [], [], None
    with ended_by(watching):
        for seen in watching:
            if not watching.reconnected:
                before.append(seen)
                if len(before) == 5:
                    camera.end()  # as a cable that is pulled: the address refuses from now on
                    later = threading.Timer(0.5, camera.begin)
                    later.start()
            else:
                after.append(seen)
                if len(after) == 5:
                    break
    later.join()
    assert len(before) >= 5  # with those that were on their way
    assert len(after) == 5
    assert watching.reconnected >= 1
    seen = [*before, *after]
    assert {len(s.result) for s in seen} == {1}
    indices = [s.frame.index for s in seen]
    assert indices == sorted(set(indices))
    assert watching.grabbed >= 10
    times = [s.result.time_s for s in seen]
    assert times == sorted(times)
    assert any(s.frame.moment.pts is not None for s in seen)  # FFmpeg has none before the server said its clock
    # nobody knows whose face came back
    assert not {*np.concatenate([s.result.tracks for s in before])} & {
        *np.concatenate([s.result.tracks for s in after])
    }
    # what came is the film: each frame is near one of it, much nearer than the film's frames are to each other
    film_of = np.stack(images[:150]).astype(np.float32)
    for one in seen:
        assert np.abs(film_of - one.frame.rgb_u8).mean(axis=(1, 2, 3)).min() < 3


def test_a_server_that_falls_silent_is_taken_to_be_lost(camera, monkeypatch):
    monkeypatch.setattr(live, "_FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(live, "_SILENT_S", 1.0)
    watching = Detector().live(camera.address, reconnects=1)

    def watch():
        for n, _ in enumerate(watching):
            if n == 2:
                camera.tell(signal.SIGSTOP)  # its connections stay open, and say nothing any more

    with ended_by(watching), pytest.raises(InputError, match=r"was lost .*and not found again in 1 tries"):
        watch()
    assert watching.reconnected == 1


def test_an_address_that_the_server_does_not_have_is_said(camera):
    with pytest.raises(InputError, match=r"cannot watch 'rtsp://127\.0\.0\.1:\d+/none': .*404"):
        list(Detector().live(camera.address.replace("/film", "/none")))


def test_the_command_writes_rows_of_a_camera_until_it_is_stopped(camera, tmp_path):
    out = tmp_path / "out.jsonl"
    said = watched_until_rows(camera.address, out)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert rows
    assert {row["input"] for row in rows} == {camera.address}
    assert all(row["FaceScore"] > 0.5 for row in rows)
    assert f"{len(rows)} rows in" in said or f"{len(rows)} row in" in said

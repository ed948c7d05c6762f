"""`--show` on a display: the window's pixels are looked at, on a virtual one (Xvfb)."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import sys
import time

import clips
import cv2
import numpy as np
import pytest

FEXPORT = [sys.executable, "-c", "from fexport.cli import main; main()"]
WIDTH, HEIGHT = 1280, 1024
MOST_DRAWN = 0.1
KEYS = """
import sys
from fexport.cli import main, window
key, stay = sys.argv[1], window.Window.stay
def pressed(self, ended):
    self._root.after(300, lambda: (self._root.focus_force(), self._root.event_generate(key)))
    stay(self, ended)
window.Window.stay = pressed
sys.argv[1:] = ["run", sys.argv[2], "--show"]
main()
"""


class Display:
    """A virtual display, whose pixels are a file (XWD) in a folder."""

    def __init__(self, folder) -> None:
        reading, writing = os.pipe()
        self._file = folder / "Xvfb_screen0"
        self._run = subprocess.Popen(
            ["Xvfb", "-displayfd", str(writing), "-screen", "0", f"{WIDTH}x{HEIGHT}x24", "-fbdir", str(folder), "-nolisten", "tcp"],
            pass_fds=[writing], stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(writing)
        with os.fdopen(reading, encoding="ascii") as said:
            self.name = f":{said.readline().strip()}"

    def pixels(self) -> np.ndarray:
        """What is to be seen [H,W,3], uint8 RGB."""
        data = self._file.read_bytes()
        head = struct.unpack(">25I", data[:100])
        size, width, height, line, colours = head[0], head[4], head[5], head[12], head[19]
        start = size + colours * 12
        rows = np.frombuffer(data, np.uint8, height * line, start).reshape(height, line)
        return rows[:, : width * 4].reshape(height, width, 4)[..., 2::-1]

    def end(self) -> None:
        self._run.terminate()
        self._run.wait(20)


@pytest.fixture
def display(tmp_path_factory):
    """A display; where FEXPORT_NEED_DISPLAY is set (CI, which installs Xvfb and Tk), there must be one."""
    try:
        import tkinter  # noqa: F401
    except ImportError:
        assert not os.environ.get("FEXPORT_NEED_DISPLAY"), "no Tk"
        pytest.skip("needs Tk")
    if not shutil.which("Xvfb"):
        assert not os.environ.get("FEXPORT_NEED_DISPLAY"), "no Xvfb"
        pytest.skip("needs Xvfb")
    made = Display(tmp_path_factory.mktemp("display"))
    yield made
    made.end()


def shown(display, picture, seconds=30):
    """Where a picture stands on the screen, once it does: (left, top, share of it that looks otherwise, which is what was drawn)."""
    deadline = time.monotonic() + seconds
    while True:
        screen = display.pixels()
        _, _, (left, top), _ = cv2.minMaxLoc(cv2.matchTemplate(screen, picture, cv2.TM_SQDIFF))
        apart = boxed(screen, picture, left, top)
        if apart < MOST_DRAWN or time.monotonic() > deadline:
            return left, top, apart
        time.sleep(0.1)


def run(display, *arguments):
    return subprocess.Popen(
        [*FEXPORT, "run", *map(str, arguments), "--show"],
        env=os.environ | {"DISPLAY": display.name}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip


def boxed(screen, picture, left, top):
    """Share of a picture's pixels that the screen has otherwise: what was drawn over it."""
    height, width = picture.shape[:2]
    there = screen[top : top + height, left : left + width].astype(int)
    return float((np.abs(there - picture).max(axis=-1) > 16).mean())


def test_a_picture_stays_on_the_screen_with_its_faces_until_it_is_closed(display, photo, tmp_path):
    whole = cv2.cvtColor(cv2.imread(str(photo)), cv2.COLOR_BGR2RGB)
    out = tmp_path / "out.csv"
    done = run(display, photo, "--out", out)
    left, top, apart = shown(display, whole)
    assert 0 < apart < MOST_DRAWN
    while not out.exists():  # rows are there while the window still is
        assert done.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)
    assert done.poll() is None
    screen = display.pixels()
    assert boxed(screen, whole, left, top) > 0.0005
    done.send_signal(signal.SIGINT)
    assert done.wait(20) == 0, done.communicate()
    assert (display.pixels()[top : top + 50, left : left + 50] != screen[top : top + 50, left : left + 50]).any()


@pytest.mark.parametrize("key", ["<q>", "<Escape>"])
def test_a_key_closes_a_video(display, photo, tmp_path, key):
    images = clips.pictures(photo, 8)
    film = clips.write(tmp_path / "film.mp4", images, options={"crf": "10"})
    done = subprocess.Popen(
        [sys.executable, "-c", KEYS, key, str(film)],
        env=os.environ | {"DISPLAY": display.name}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip
    _, wrong = done.communicate(timeout=60)
    assert done.returncode == 0, wrong


def test_a_video_is_shown_frame_by_frame_and_its_last_stays(display, photo, tmp_path):
    images = clips.pictures(photo, 30, 512)  # smaller ones are shown larger
    film = clips.write(tmp_path / "film.mp4", images, options={"crf": "4"})
    done = run(display, film)
    _, _, apart = shown(display, images[-1])
    assert 0 < apart < MOST_DRAWN
    assert done.poll() is None
    done.send_signal(signal.SIGINT)
    said, wrong = done.communicate(timeout=20)
    assert done.returncode == 0, wrong
    assert said.count("film.mp4") == 30


def test_a_camera_is_shown_as_it_comes(display, photo, tmp_path):
    image = clips.pictures(photo, 1, 512)[0]
    film = clips.write(tmp_path / "stream.ts", [image] * 60, options={"crf": "4"})
    done = run(display, "--camera", film)
    _, _, apart = shown(display, image)
    assert 0 < apart < MOST_DRAWN
    done.send_signal(signal.SIGINT)
    said, wrong = done.communicate(timeout=20)
    assert done.returncode == 0, wrong
    assert "frames dropped, latency" in said

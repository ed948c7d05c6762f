"""Places that are full, read-only, shared, or hold what somebody forged: one sentence, nothing half-written, nothing believed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys

import hostile
import numpy as np
import pytest

from fexruntime import Detector
from fexruntime.backends.base import Place
from fexruntime.bundle import open_bundle, packaged_path
from fexruntime.errors import EnvironmentMissingError, InputError
from fexruntime.sources.video import Video
from fexruntime.tuning import _key

FEXPORT = [sys.executable, "-c", "from fexport.cli import main; main()"]


def fexport(*words):
    return subprocess.run([*FEXPORT, *map(str, words)], capture_output=True, encoding="utf-8", check=False)


@contextlib.contextmanager
def mounted(folder, options):
    """A small file system of its own; the test is skipped where that is not allowed."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        pytest.skip(
            f"mounting is not allowed here ({done.stderr.strip()[:80]}): not checked on a real file system of its own"
        )
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_broken_video_is_read_as_far_as_it_goes_or_refused(tmp_path):
    cases = hostile.videos(tmp_path)
    refused, said = 0, []
    for data in cases.values():
        path = tmp_path / "broken.mp4"
        path.write_bytes(data)
        try:
            video = Video(path)
            for picked in video.frames(range(video.timeline.frames)):
                assert picked.rgb_u8.dtype == np.uint8
        except InputError as error:
            refused += 1
            said.append(str(error))
    assert not any("\n" in text for text in said)
    assert len(cases) == 42
    assert refused >= 14


def test_a_full_disk_during_a_run_is_one_sentence_and_what_was_there_stays(photo, tmp_path):
    with mounted(tmp_path / "small", "size=64k") as small:
        assert fexport("run", photo, "--out", small / "out.csv").returncode == 0
        older = (small / "out.csv").read_bytes()
        (small / "filler").write_bytes(bytes(49152))
        done = fexport("run", *[photo] * 200, "--out", small / "out.csv")
        assert done.returncode != 0
        assert "the disk is full" in done.stderr or "No space left" in done.stderr
        assert "Traceback" not in done.stderr
        assert (small / "out.csv").read_bytes() == older


def test_a_full_disk_during_a_build_leaves_no_bundle(tmp_path):
    pytest.importorskip("torch", reason="builds a bundle")
    with mounted(tmp_path / "small", "size=1m") as small:
        done = fexport("build", small / "bundle", "--pipeline", "faces")
        assert done.returncode != 0
        assert "No space left" in done.stderr or "the disk is full" in done.stderr
        assert "Traceback" not in done.stderr
        assert not (small / "bundle").exists()


def test_a_read_only_target_is_one_sentence(photo, tmp_path):
    pytest.importorskip("torch", reason="builds a bundle")
    with mounted(tmp_path / "readonly", "size=1m") as folder:
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        for words in (["run", photo, "--out", folder / "out.csv"], ["build", folder / "bundle", "--pipeline", "faces"]):
            done = fexport(*words)
            assert done.returncode != 0
            assert "Read-only file system" in done.stderr
            assert "Traceback" not in done.stderr


def test_two_processes_share_a_bundle_on_a_read_only_file_system(photo, tmp_path):
    expected = Detector("edge", threads=1).detect(photo).values
    with mounted(tmp_path / "shared", "size=8m") as folder:
        shutil.copytree(packaged_path("edge"), folder / "bundle")
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        program = "import sys\nfrom fexruntime import Detector\nprint(Detector(sys.argv[1], threads=1).detect(sys.argv[2]).values.tobytes().hex())"
        runs = [
            subprocess.Popen(
                [sys.executable, "-c", program, str(folder / "bundle"), str(photo)],
                stdout=subprocess.PIPE,
                encoding="utf-8",
            )
            for _ in range(2)
        ]
        answers = [run.communicate(timeout=120)[0].strip() for run in runs]
    assert answers == [expected.tobytes().hex()] * 2


@pytest.mark.parametrize(
    "forged",
    [
        b"[1, 2]",
        b'{"faces": "os"}',
        b'{"faces": 7}',
        b"null",
        b"not json",
        b"[" * 100_000,
        b'{"faces": {"backend": "os", "threads": 1}}',
        b'{"faces": {"backend": "ncnn"}}',
        b'{"faces": {"backend": "ncnn", "threads": 0}}',
        b'{"faces": {"backend": "ncnn", "threads": true}}',
        b'{"faces": {"backend": ["ncnn"], "threads": 1}}',
    ],
)
def test_a_forged_choice_of_backends_is_not_believed(tmp_path, forged, monkeypatch):
    monkeypatch.setenv("FEXPORT_CACHE", str(tmp_path / "cache"))
    bundle, place = open_bundle(), Place(backend="auto")
    with place.store().writing(_key(bundle, place)) as path:
        path.write_bytes(forged)
    with pytest.raises(EnvironmentMissingError, match="not what `fexport tune` writes"):
        Detector(backend="auto")
    with place.store().writing(_key(bundle, place)) as path:
        path.write_text(json.dumps({"faces": {"backend": "onnxruntime", "threads": 1}}), encoding="utf-8")
    assert Detector(backend="auto").describe()["faces"]["backend"] == "onnxruntime"


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_closing_a_stream_stops_between_frames(photo):
    """A generator that was closed reads nothing more, and the detector answers as before."""
    read = []

    def frames():
        for number in range(100):
            read.append(number)
            yield str(photo)

    with Detector(threads=1) as detector:
        expected = detector.detect(photo).values
        stream = detector.stream(frames())
        next(stream)
        stream.close()
        assert len(read) < 10
        assert np.array_equal(detector.detect(photo).values, expected)

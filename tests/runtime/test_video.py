"""Videos: frame-exact numbers and times, whatever the container; seeks; what is not whole."""

from __future__ import annotations

import threading
import time
from fractions import Fraction

import clips
import numpy as np
import pytest

from fexruntime import Detector
from fexruntime.errors import CutOffError, InputError
from fexruntime.options import Options
from fexruntime.sources.ahead import Ahead
from fexruntime.sources.inputs import Frames, Position
from fexruntime.sources.video import Video


def read(path, numbers=None, **options):
    video = Video(path, **options)
    return list(video.frames(range(video.timeline.frames) if numbers is None else numbers))


CONTAINERS = {
    "b-frames.mp4": {"options": {"bf": "3", "g": "12"}},
    "b-frames.mov": {"options": {"bf": "2", "g": "20"}},
    "b-frames.mkv": {"options": {"bf": "3", "g": "12"}},
    "b-frames.ts": {"options": {"bf": "2", "g": "12"}},
    "no-times-b-frames.avi": {"options": {"bf": "2", "g": "12"}},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p", "options": {"q:v": "2"}},
    "vp8.webm": {"codec": "libvpx", "options": {"b:v": "2M"}},
    "open-gop.mp4": {"options": {"bf": "3", "g": "10", "x264-params": "open-gop=1:keyint=10"}},
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_numbers_are_exact_and_seeks_give_what_reading_on_gives(name, tmp_path):
    path = clips.write(tmp_path / name, clips.numbered(72), **CONTAINERS[name])
    frames = read(path)
    assert [f.index for f in frames] == list(range(72))
    assert [clips.number_of(f.rgb_u8) for f in frames] == list(range(72))
    assert [f.moment.approx for f in (frames[29], frames[30], frames[71])] == ["00:00", "00:01", "00:02"]
    times = [f.moment.time_s for f in frames]
    assert np.allclose(np.array(times) - times[0], np.arange(72) / 30, atol=1.1e-3)  # Matroska's clock ticks 1 ms
    for numbers in (range(50, 72), range(0, 72, 7), range(5, 72, 40), range(71, 72), range(33, 60, 3)):
        some = read(path, numbers)
        assert [f.index for f in some] == list(numbers)
        assert all(np.array_equal(s.rgb_u8, frames[s.index].rgb_u8) for s in some)


def test_a_seek_does_not_decode_from_the_beginning(tmp_path, monkeypatch):
    path = clips.write(tmp_path / "long.mp4", clips.numbered(30) * 20, options={"g": "30", "bf": "2"})
    decoded = []
    video = Video(path)
    from fexruntime.sources import video as module

    plain = module._Decoded._decode

    def counting(self, at):
        for pair in plain(self, at):
            decoded.append(pair[1])
            yield pair

    monkeypatch.setattr(module._Decoded, "_decode", counting)
    (last,) = video.frames(range(590, 591))
    assert last.index == 590
    assert len(decoded) <= 30, len(decoded)
    decoded.clear()
    assert len(list(video.frames(range(0, 600, 150)))) == 4
    assert len(decoded) <= 4 * 30, len(decoded)


def test_variable_rates_keep_their_times(tmp_path):
    times = [0, 20, 25, 100, 160, 161, 400, 900]
    path = clips.write(tmp_path / "vfr.mp4", clips.numbered(8), times=times)
    video = Video(path)
    frames = list(video.frames(range(8)))
    assert [f.moment.pts * f.moment.time_base for f in frames] == [Fraction(t, 600) for t in times]
    assert [f.moment.time_s for f in frames] == pytest.approx([t / 600 for t in times], abs=1e-12)
    assert video.timeline.numbers(1, 0.25, 0.7) == range(4, 7)
    assert video.timeline.numbers(2, None, 0.27) == range(0, 6, 2)
    assert video.timeline.numbers(3, 25 / 600, None) == range(3, 8, 3)


def test_repeated_times_are_counted(tmp_path):
    once = clips.write(tmp_path / "once.ts", clips.numbered(20), options={"bf": "0"})
    twice = tmp_path / "twice.ts"  # its clock goes back to the beginning in the middle
    twice.write_bytes(once.read_bytes() * 2)
    frames = read(twice)
    assert [f.index for f in frames] == list(range(40))
    assert [clips.number_of(f.rgb_u8) for f in frames] == [*range(20), *range(20)]
    assert [f.index for f in read(twice, range(25, 40, 5))] == [25, 30, 35]


def test_odd_sizes_ten_bits_full_range_and_aspect(tmp_path):
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(60, 200, (5, 7, 3)), np.ones((20, 20, 1))).astype(np.uint8)[:91, :133]
    for name, options in (
        ("odd.mkv", {"codec": "ffv1", "pix_fmt": "bgr0"}),
        ("odd444.mp4", {"pix_fmt": "yuv444p", "options": {"crf": "1"}}),
        ("ten.mkv", {"codec": "ffv1", "pix_fmt": "yuv444p10le"}),
        ("full.mkv", {"pix_fmt": "yuvj444p", "options": {"crf": "1"}}),
        ("aspect.mp4", {"pix_fmt": "yuv444p", "options": {"crf": "1"}, "sample_aspect_ratio": Fraction(4, 3)}),
    ):
        (frame, *_) = read(clips.write(tmp_path / name, [smooth] * 3, **options))
        assert frame.rgb_u8.shape == (91, 133, 3), name
        assert np.abs(frame.rgb_u8.astype(int) - smooth).mean() < 3, name


def test_bad_files_are_one_clear_line(tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("hello", encoding="utf-8")
    clips.sound_only(tmp_path / "sound.mp4")
    whole = clips.write(tmp_path / "whole.mp4", clips.pictures_of_noise(40), options={"bf": "2"})
    (tmp_path / "unfinished.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    for name, says in (
        ("empty.mp4", "is empty"),
        ("text.mp4", "is not a video"),
        ("sound.mp4", "has no video in it, only audio"),
        ("unfinished.mp4", "cut off"),
        ("missing.mp4", "No such file"),
    ):
        with pytest.raises(InputError, match=says):
            Video(tmp_path / name)


def test_what_a_cut_off_video_has_is_given_and_then_the_error(tmp_path):
    for suffix, options in ((".mkv", {}), (".mp4", {"movflags": "faststart"})):
        images = clips.pictures_of_noise(60)
        whole = clips.write(tmp_path / f"whole{suffix}", images, container=options)
        cut = tmp_path / f"cut{suffix}"
        cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.6)])
        given = []
        with pytest.raises(CutOffError, match="is cut off"):
            given.extend(frame.index for frame in Frames(str(cut)))
        assert 20 < len(given) < 50
        assert given == list(range(len(given)))


def test_inputs_are_kept_apart_and_gone_on_with(tmp_path, photo):
    one = clips.write(tmp_path / "a.mp4", clips.numbered(5))
    two = clips.write(tmp_path / "b.mkv", clips.numbered(4))
    inputs = [str(photo), str(one), str(two), str(photo)]
    frames = list(Frames(inputs, Options(skip_frames=2)))
    said = [(f.number, f.index, f.moment is not None) for f in frames]
    assert said == [(0, 0, False), (1, 0, True), (1, 2, True), (1, 4, True), (2, 0, True), (2, 2, True), (3, 3, False)]
    for k, (number, index, _) in enumerate(said):
        rest = list(Frames(inputs, Options(skip_frames=2), after=Position(number, index)))
        assert [(f.number, f.index, f.moment is not None) for f in rest] == said[k + 1 :]
    assert [f.name for f in Frames(str(tmp_path / "*.mp4"))] == [str(one)] * 5
    assert len(list(Frames(str(tmp_path)))) == 9
    with pytest.raises(InputError, match="no file matches"):
        list(Frames(str(tmp_path / "*.avi")))
    with pytest.raises(InputError, match=r"no frame of .* lies between"):
        list(Frames(str(one), Options(start=99)))


def test_times_of_options():
    assert Options(start="1:02.5").start_s == 62.5
    assert Options(end="1:00:01").end_s == 3601
    for bad in ("x", "-1", "1:2:3:4", -3, float("nan"), True):
        with pytest.raises(InputError, match="start must be seconds"):
            Options(start=bad)
    with pytest.raises(InputError, match="end must be later"):
        Options(start=5, end="0:05")


def test_a_table_of_a_video_has_pyfeats_columns_and_exact_times_beside(tmp_path, photo):
    path = clips.write(tmp_path / "a.mp4", clips.pictures(photo, 6))
    fex = Detector().detect(path)
    assert fex.columns[-3:] == ("input", "frame", "approx_time")
    assert fex.all_columns[-3:] == ("pts", "time_base", "time_s")
    assert fex["time_s"].tolist() == pytest.approx([n / 30 for n in range(6)])
    assert list(fex.frame) == list(range(6))
    (result, *_) = Detector().stream(str(path), start=0.1)
    assert (result.index, result.time_s) == (3, pytest.approx(0.1))
    for boxes_options in ({"output_size": 128}, {"output_size": (96, 128)}):
        assert Detector().detect(path, **boxes_options).frame.max() == 5


def test_reading_ahead_is_bounded_and_ends_with_its_reader():
    made = []

    def numbers():
        try:
            for n in range(100):
                made.append(n)
                yield n
        finally:
            made.append("closed")

    ahead = Ahead(numbers(), lambda n: 10, most_items=4, most_bytes=25)
    reading = iter(ahead)
    assert next(reading) == 0
    time.sleep(0.2)
    assert len(made) <= 5
    reading.close()
    assert made[-1] == "closed"
    assert not any(t.name == "fexport-ahead" for t in threading.enumerate())


def test_an_error_of_the_reading_thread_comes_after_what_was_read():
    def failing():
        yield 1
        raise ValueError("broken")

    reading = iter(Ahead(failing(), lambda n: 1))
    assert next(reading) == 1
    with pytest.raises(ValueError, match="broken"):
        next(reading)


def test_frames_are_turned_as_torchcodec_turns_them_unless_an_option_says_no(tmp_path):
    wide = np.zeros((48, 96, 3), np.uint8)
    wide[:, :48, 0] = 200
    wide[:24, :, 1] = 200
    path = clips.write(tmp_path / "wide.mp4", [wide] * 3, display_rotation=90)
    assert read(path, rotate=False)[0].rgb_u8.shape == (48, 96, 3)
    turned = read(path)[0].rgb_u8
    assert turned.shape == (96, 48, 3)
    # torchcodec 0.17's answer for this file: red above, green at the right
    corners = turned[::48, ::24] > 100
    np.testing.assert_array_equal(corners[..., 0], [[True, True], [False, False]])
    np.testing.assert_array_equal(corners[..., 1], [[False, True], [False, True]])

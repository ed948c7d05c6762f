from __future__ import annotations

import cv2
import numpy as np
import pytest

from fexruntime.errors import InputError
from fexruntime.frames import _scale, read_frames, read_image


def frames(*arguments, **options):
    return list(read_frames(*arguments, **options))


def test_paths_folders_arrays_and_iterables(tmp_path, photo, frame):
    for name in ("b.png", "a.jpg"):
        cv2.imwrite(str(tmp_path / name), frame[:40, :50, ::-1])
    (tmp_path / "notes.txt").write_text("not an image")
    assert [f.name for f in frames(tmp_path)] == [str(tmp_path / "a.jpg"), str(tmp_path / "b.png")]
    assert [f.name for f in frames(str(photo))] == [str(photo)]
    assert [f.name for f in frames(frame)] == ["tensor"]
    assert len(frames(np.stack([frame, frame]))) == 2
    mixed = frames([photo, frame[:100], tmp_path])
    assert [f.index for f in mixed] == [0, 1, 2, 3]
    assert [f.rgb_u8.shape for f in mixed] == [(512, 512, 3), (100, 512, 3), (40, 50, 3), (40, 50, 3)]


def test_grey_alpha_and_16_bit(tmp_path, frame):
    small = np.ascontiguousarray(frame[:32, :48])
    cv2.imwrite(str(tmp_path / "grey.png"), small[:, :, 0])
    cv2.imwrite(str(tmp_path / "alpha.png"), np.dstack([small[:, :, ::-1], small[:, :, :1]]))
    cv2.imwrite(str(tmp_path / "deep.png"), small[:, :, ::-1].astype(np.uint16) * 257)
    assert np.array_equal(read_image(tmp_path / "grey.png"), np.repeat(small[:, :, :1], 3, axis=2))
    assert np.array_equal(read_image(tmp_path / "alpha.png"), small)
    assert np.array_equal(read_image(tmp_path / "deep.png"), small)


def test_exif_orientation_is_ignored_unless_asked_for(tmp_path, frame):
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(frame[:40, :60, ::-1]))
    assert done
    # one IFD entry: orientation (0x0112) = 6, the camera was turned by 90°
    tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    segment = b"Exif\0\0" + tiff
    path = tmp_path / "turned.jpg"
    path.write_bytes(
        data.tobytes()[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + data.tobytes()[2:]
    )
    assert read_image(path).shape == (40, 60, 3)
    assert read_image(path, exif=True).shape == (60, 40, 3)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.jpg", None, "No such file"),
        ("empty.jpg", b"", "is empty"),
        ("text.jpg", b"this is not an image", "not an image"),
        ("film.mp4", b"....", "is a video"),
    ],
)
def test_bad_files(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says) as error:
        frames(tmp_path / name)
    assert name in str(error.value)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("part", [0.3, 0.9, 0.999])
def test_truncated_files(tmp_path, frame, suffix, part):
    data = cv2.imencode(suffix, frame)[1].tobytes()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(InputError, match="cut off"):
        read_image(path)


def test_bytes_after_a_jpeg_do_not_make_it_truncated(tmp_path, frame):
    data = cv2.imencode(".jpg", frame)[1].tobytes()
    (tmp_path / "motion.jpg").write_bytes(data + b"\xff\xda" + b"video" * 100)
    assert read_image(tmp_path / "motion.jpg").shape == frame.shape


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((0, 0, 3), np.uint8), "too small"),
        (np.zeros((1, 1, 3), np.uint8), "too small"),
        (np.zeros((20, 20, 3), np.float32), "must be uint8"),
        (np.zeros((20, 20, 4), np.uint8), "must be .height, width, 3."),
        (np.zeros((20, 20), np.uint8), "must be .height, width, 3."),
        (3.0, "cannot read frames"),
        ([None], "cannot read frames"),
    ],
)
def test_bad_arrays(array, says):
    with pytest.raises(InputError, match=says):
        frames(array)


@pytest.mark.parametrize("size", [0, -5, 1.5, True, (640,), (640, "a")])
def test_bad_output_size(frame, size):
    with pytest.raises(InputError, match="output_size"):
        frames(frame, output_size=size)


def test_output_size_pads_to_a_square_with_the_odd_pixel_last(frame):
    (f,) = frames(frame[:201, :300], output_size=100)
    assert f.rgb_u8.shape == (100, 100, 3)
    assert f.pad_xy == (0, 16)
    assert not f.rgb_u8[:16].any()
    assert not f.rgb_u8[83:].any()
    assert f.rgb_u8[16:83].any()
    assert f.reported_hw == (pytest.approx(67 / (1 / 3)), pytest.approx(300))


@pytest.mark.parametrize(
    ("size", "target", "expected"),
    [  # py-feat 2.1.5's Rescale, run for these sizes
        ((480, 640), (240, 320), (0.5, 240, 320)),
        ((640, 480), (240, 320), (0.375, 240, 180)),
        ((100, 50), (300, 300), (3.0, 300, 150)),
        ((100, 200), (120, 160), (0.8, 80, 160)),
        ((300, 200), (128, 96), (128 / 300, 128, 85)),
        ((90, 200), (100, 100), (0.5, 45, 100)),
    ],
)
def test_output_size_as_height_and_width(size, target, expected):
    scale, height, width = _scale(*size, target)
    assert (scale, height, width) == (pytest.approx(expected[0]), *expected[1:])

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fexruntime.errors import InputError, OutOfMemoryError
from fexruntime.options import Options
from fexruntime.sources.frame import rescaled_size
from fexruntime.sources.images import decode_image, read_image
from fexruntime.sources.inputs import Frames


def frames(inputs, **options):
    return list(Frames(inputs, Options(**options)))


def test_paths_folders_arrays_and_iterables(tmp_path, photo, frame):
    for name in ("b.png", "a.jpg"):
        cv2.imwrite(str(tmp_path / name), frame[:40, :50, ::-1])
    (tmp_path / "notes.txt").write_text("not an image", encoding="utf-8")
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


@pytest.mark.parametrize("big", [False, True], ids=["TIFF", "BigTIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_when_it_is_asked_for_alone(tmp_path, orientation, big):
    """OpenCV's TIFF decoder turns whatever it is told; py-feat's reading does not."""
    from PIL import Image, ImageOps

    image = np.random.RandomState(0).randint(0, 255, (6, 9, 3), np.uint8)
    tag = Image.Exif()
    tag[0x0112] = orientation
    path = tmp_path / "turned.tif"
    Image.fromarray(image).save(path, exif=tag, compression="tiff_lzw", big_tiff=big)
    assert np.array_equal(read_image(path), image)
    assert np.array_equal(read_image(path, exif=True), np.asarray(ImageOps.exif_transpose(Image.open(path))))


def test_a_damaged_tiff_stays_what_it_is(tmp_path):
    from fexruntime.sources.tiff import as_stored

    for data in (
        b"",
        b"II",
        b"II*\0" + b"\xff" * 40,
        b"MM\0*" + b"\xff" * 40,
        b"II+\0" + b"\xff" * 40,
        b"II*\0\x08\0\0\0\xff\xff" + b"\0" * 9,
    ):
        assert as_stored(data) == data


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.jpg", None, "No such file"),
        ("empty.jpg", b"", "is empty"),
        ("text.jpg", b"this is not an image", "not an image"),
        ("film.mp4", b"....", "is not a video that can be read"),
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
        (np.zeros((3, 20, 20), np.uint8), r"channels first.*transpose\(1, 2, 0\)"),
        (np.zeros((2, 20, 20), np.uint8), "must be .height, width, 3."),
        (np.zeros((20, 20), np.uint8), "must be .height, width, 3."),
        (3.0, "cannot read frames"),
        ([None], "cannot read frames"),
    ],
)
def test_bad_arrays(array, says):
    with pytest.raises(InputError, match=says):
        frames(array)


@pytest.mark.parametrize("size", [0, -5, 1.5, True, (640,), (640, "a")])
def test_bad_output_size(size):
    with pytest.raises(InputError, match="output_size"):
        Options(output_size=size)


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
    scale, height, width = rescaled_size(*size, target)
    assert (scale, height, width) == (pytest.approx(expected[0]), *expected[1:])


def test_encoded_bytes_and_file_objects(photo, frame, tmp_path):
    import io

    data = photo.read_bytes()
    with photo.open("rb") as opened:
        read = frames([data, bytearray(data), memoryview(data), io.BytesIO(data), opened])
    assert all(np.array_equal(f.rgb_u8, frame) for f in read)
    assert [f.name for f in read] == ["bytes", "bytes", "bytes", "file", str(photo)]
    for bad, says in (
        (b"", "is empty"),
        (b"text", "not an image"),
        (data[:9000], "cut off"),
        (io.StringIO("x"), "mode 'rb'"),
    ):
        with pytest.raises(InputError, match=says):
            frames(bad)


def test_pil_images(photo, frame):
    from PIL import Image

    opened = Image.open(photo)
    (read,) = frames(opened)
    assert np.abs(read.rgb_u8.astype(int) - frame).max() <= 2  # another JPEG decoder
    assert read.name == str(photo)
    small = Image.fromarray(frame[:40, :60])
    assert np.array_equal(frames(small)[0].rgb_u8, frame[:40, :60])
    assert frames(small)[0].name == "image"
    alpha = small.convert("RGBA")
    alpha.putalpha(7)
    assert np.array_equal(frames(alpha)[0].rgb_u8, frame[:40, :60])
    grey = Image.fromarray(frame[:40, :60, 0])
    assert np.array_equal(frames(grey)[0].rgb_u8, np.repeat(frame[:40, :60, :1], 3, 2))
    deep = Image.fromarray(frame[:40, :60, 0].astype(np.uint16) * 257)
    assert np.array_equal(frames(deep)[0].rgb_u8, frames(grey)[0].rgb_u8)
    exif = small.getexif()
    exif[0x0112] = 6
    import io

    buffer = io.BytesIO()
    small.save(buffer, "PNG", exif=exif)
    turned = Image.open(io.BytesIO(buffer.getvalue()))
    assert frames(turned)[0].rgb_u8.shape == (40, 60, 3)
    assert frames(turned, exif=True)[0].rgb_u8.shape == (60, 40, 3)


def test_torch_tensors_as_pyfeat_takes_them(frame):
    torch = pytest.importorskip("torch", reason="no torch in this environment: tensors were not checked")
    chw = torch.from_numpy(frame[:40, :60].copy()).permute(2, 0, 1)
    for tensor in (chw, chw[None], chw.float(), chw[None].double()):
        (read,) = frames(tensor)
        assert np.array_equal(read.rgb_u8, frame[:40, :60])
        assert read.name == "tensor"
    assert len(frames(torch.stack([chw, chw]))) == 2
    assert len(frames([chw, frame, chw[None]])) == 3
    for bad, says in (
        (chw.permute(1, 2, 0), r"from .height, width, 3. give .permute\(2, 0, 1\)"),
        (chw.float() / 255, r"0\.\.1 give \(255 \* tensor\)"),
        (chw[:1], "must be"),
        (torch.zeros(3), "must be"),
        (torch.full((3, 9, 9), float("nan")), "whole numbers"),
    ):
        with pytest.raises(InputError, match=says):
            frames(bad)


def test_torch_is_not_imported_for_a_tensor():
    import subprocess
    import sys

    program = (
        "import sys, numpy as np\nfrom fexruntime.sources.inputs import Frames\n"
        "class Tensor:\n    __module__ = 'torch'\n    def detach(self): return self\n    def cpu(self): return self\n"
        "    def numpy(self): return np.zeros((1, 3, 8, 9), np.uint8)\n"
        "print([f.rgb_u8.shape for f in Frames(Tensor())], 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=False)
    assert done.stdout.strip() == "[(8, 9, 3)] False", done.stderr


def test_path_likes_and_series_and_what_cannot_be_meant(tmp_path, photo, frame):
    import os

    import pandas as pd

    cv2.imwrite(str(tmp_path / "a.png"), frame[:40, :60, ::-1])
    with os.scandir(tmp_path) as entries:
        assert len(frames(list(entries))) == 1
    names = [str(tmp_path / "a.png"), str(photo)]
    assert [f.name for f in frames(np.array(names))] == names
    assert [f.name for f in frames(pd.Series(names))] == names
    for bad, says in (
        ("", "an empty path"),
        ("https://example.org/a.jpg", "is an address: download it first"),
        ({"a": 1}, "cannot read frames from a dict"),
        (np.zeros((9, 9, 3), bool), "must be uint8"),
    ):
        with pytest.raises(InputError, match=says):
            frames(bad)


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("byte_order", ["little", "big"])
def test_a_turned_picture_is_noted_once_where_it_is_read_as_stored(
    kind, byte_order, tmp_path, frame, caplog, monkeypatch
):
    from PIL import Image

    from fexruntime.sources import images, tiff

    monkeypatch.setattr(images, "_noted", [])
    picture = Image.fromarray(frame[:40, :60])
    exif = picture.getexif()
    exif.endian = "<" if byte_order == "little" else ">"
    exif[0x0112] = 6
    for name in ("a", "b"):
        picture.save(tmp_path / f"{name}.{kind}", exif=exif)
    picture.save(tmp_path / f"upright.{kind}")
    assert tiff.orientation((tmp_path / f"a.{kind}").read_bytes()) == 6
    assert tiff.orientation((tmp_path / f"upright.{kind}").read_bytes()) == 1
    frames([str(tmp_path / f"upright.{kind}")])
    assert not caplog.records
    assert frames([str(tmp_path / f"a.{kind}")], exif=True)[0].rgb_u8.shape[:2] == (60, 40)
    assert not caplog.records
    found = frames([str(tmp_path / f"{name}.{kind}") for name in ("a", "b")])
    assert [f.rgb_u8.shape[:2] for f in found] == [(40, 60)] * 2
    (said,) = caplog.messages
    assert f"a.{kind}' has an orientation tag" in said
    assert "--exif" in said


def test_every_input_that_gives_no_frame_goes_to_on_bad_and_keeps_its_number(tmp_path, photo, frame):
    (tmp_path / "empty").mkdir()
    given = [photo, tmp_path / "empty", None, "", "https://x/y.png", b"junk", 3, np.zeros((2, 2)), photo]
    bad = []
    reader = Frames(given, on_bad=bad.append)
    assert [f.index for f in reader] == [0, 8]
    assert len(bad) == 7
    assert all(isinstance(e, InputError) for e in bad)
    assert reader.count == 9


def test_an_error_of_a_file_names_it(tmp_path):
    cv2.imwrite(str(tmp_path / "dot.png"), np.zeros((1, 1, 3), np.uint8))
    with pytest.raises(InputError, match=r"dot\.png.* of 1 x 1 pixels is too small"):
        frames(tmp_path)


def test_inputs_that_fail_while_they_are_read_are_input_errors(photo, tmp_path):
    import io

    from PIL import Image

    torch = pytest.importorskip("torch", reason="no torch in this environment: tensors were not checked")
    cut = Image.open(io.BytesIO(photo.read_bytes()[:20000]))
    bad = []
    given = [cut, torch.zeros(3, 8, 8, dtype=torch.bfloat16), np.array(None), np.array(str(photo))]
    assert [f.index for f in Frames(given, on_bad=bad.append)] == [3]
    assert [type(e) for e in bad] == [InputError] * 3
    assert "bfloat16" in str(bad[1])


def test_a_producer_of_tensors_may_refill_its_memory_too():
    torch = pytest.importorskip("torch", reason="no torch in this environment: tensors were not checked")
    buffer = np.zeros((8, 9, 3), np.uint8)

    def camera():
        for value in (1, 2):
            buffer[:] = value
            yield torch.from_numpy(buffer).permute(2, 0, 1)

    assert [int(f.rgb_u8.max()) for f in list(Frames(camera(), own=True))] == [1, 2]


def test_an_image_that_there_is_no_memory_for_is_passed_over(photo, monkeypatch):
    def full(data, flags):
        raise cv2.error("OpenCV: Insufficient memory (Failed to allocate 3000000000 bytes)")

    monkeypatch.setattr(cv2, "imdecode", full)
    with pytest.raises(OutOfMemoryError, match="there is not enough memory to read the image"):
        decode_image(photo.read_bytes(), "the image")
    bad = []
    assert list(Frames([photo], on_bad=bad.append)) == []
    assert [type(error) for error in bad] == [OutOfMemoryError]


def test_an_array_of_paths_is_a_list_of_them_and_of_what_dlpack_does_not_say_nothing_is_read(photo):
    """NumPy's arrays have DLPack's methods, those of objects too."""
    assert [f.name for f in Frames(np.array([str(photo), photo], object))] == [str(photo)] * 2
    assert [f.name for f in Frames(np.array([str(photo)]))] == [str(photo)]

    class Silent:
        def __dlpack__(self, **options):
            raise BufferError

        def __dlpack_device__(self):
            raise BufferError("lost")

    for bad in (Silent(), np.full((4, 4, 3), None)):
        with pytest.raises(InputError):
            list(Frames(bad))

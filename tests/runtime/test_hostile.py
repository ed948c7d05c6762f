"""Broken and hostile input: every case is answered, or refused in one sentence; nothing is executed, nothing hangs on."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys

import hostile
import numpy as np
import pytest

from fexruntime import Detector
from fexruntime.bundle import open_bundle, packaged_path
from fexruntime.errors import BundleError, FexportError, InputError
from fexruntime.sources.images import decode_image, read_image

IMAGES = hostile.images()
MANIFESTS = hostile.manifests(packaged_path("edge"))
BOMBS = dict(hostile.bombs())
CUT = dict(hostile.truncated())
ARRAYS = hostile.ARRAYS


def one_sentence(error):
    text = str(error)
    assert text
    assert "\n" not in text, text
    assert len(text) < 1000, text


def test_the_corpus_is_large():
    assert len(IMAGES) + len(MANIFESTS) + len(ARRAYS) > 200


@pytest.mark.parametrize("case", IMAGES)
def test_an_image_is_read_or_refused(case):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        image = decode_image(IMAGES[case], "the image")
    except InputError as error:
        one_sentence(error)
    else:
        assert (image.ndim, image.shape[2], image.dtype) == (3, 3, np.uint8)
        assert image.flags.c_contiguous
        assert case not in BOMBS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # kB


@pytest.mark.parametrize("case", CUT)
def test_an_image_that_is_cut_off_is_an_error(case):
    with pytest.raises(InputError):
        decode_image(CUT[case], "the image")


def test_whole_images_of_every_format_are_read():
    for name, data in hostile.encoded().items():
        assert decode_image(data, name).shape == (96, 128, 3)
        if name in ("png", "tiff", "bmp"):
            assert np.array_equal(decode_image(data, name)[:, :, ::-1], hostile.picture())


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest_is_read_or_refused(tmp_path, case):
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "manifest.json").write_bytes(MANIFESTS[case])
    for path in packaged_path("edge").iterdir():
        if path.name != "manifest.json":
            shutil.copy(path, folder)
    try:
        bundle = open_bundle(folder)
        bundle.verify_files()
    except BundleError as error:
        one_sentence(error)
    else:  # a word that no number hangs on
        assert all((folder / f.file).resolve().is_relative_to(folder.resolve()) for f in bundle.manifest.files)


@pytest.fixture(scope="module")
def detector():
    with Detector("edge", threads=1) as made:
        yield made


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_that_are_no_images_are_refused(detector, case):
    with pytest.raises(InputError) as said:
        detector.detect(ARRAYS[case])
    one_sentence(said.value)


def test_arrays_in_any_layout_are_answered_alike_and_left_alone(detector, frame):
    expected = detector.detect(np.ascontiguousarray(frame)).values
    turned, strided = frame[:, ::-1], np.repeat(frame, 2, axis=1)[:, ::2]
    read_only = frame.copy()
    read_only.setflags(write=False)
    odd = np.frombuffer(b"x" + frame.tobytes(), np.uint8)[1:].reshape(frame.shape)
    for image in (np.asfortranarray(frame), strided, read_only, odd, np.ascontiguousarray(turned)[:, ::-1]):
        before = image.copy()
        assert np.array_equal(detector.detect(image).values, expected)
        assert np.array_equal(image, before)


@pytest.mark.parametrize("shape", [(2, 2), (2, 3000), (3000, 2), (7, 5), (1, 4096), (33, 4000)])
def test_extreme_sizes_are_answered_or_refused(detector, shape):
    try:
        assert len(detector.detect(np.full((*shape, 3), 90, np.uint8))) == 1
    except InputError as error:
        one_sentence(error)
        assert min(shape) < 2


def test_names_that_are_not_utf8_links_and_folders_that_look_like_images(detector, photo, tmp_path, caplog):
    odd = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    with open(odd, "wb") as file:
        file.write(photo.read_bytes())
    (tmp_path / "link.jpg").symlink_to(os.fsdecode(odd))
    (tmp_path / "dangling.jpg").symlink_to("nowhere")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / ("n" * 250 + ".jpg")).write_bytes(photo.read_bytes())
    errors = []
    results = list(detector.stream(tmp_path, on_bad=errors.append))
    assert [len(r) for r in results] == [1, 1, 1]
    assert len(errors) == 2  # the links that lead nowhere
    for error in errors:
        one_sentence(error)
    assert "1 subfolder" in caplog.text
    for bad in ("\0", "a\0b.jpg", "x" * 300, "file:///etc/passwd", "/dev/null", "/"):
        with pytest.raises(InputError) as said:
            list(detector.stream(bad))
        one_sentence(said.value)


def test_no_state_is_left_after_an_error(detector, frame):
    expected = detector.detect(frame).values
    for case in ("NaN", "alpha", "no height"):
        with pytest.raises(InputError):
            detector.detect([frame, ARRAYS[case]])
        assert np.array_equal(detector.detect(frame).values, expected)


def test_one_bad_input_among_good_ones_costs_nothing_else(detector, photo, tmp_path):
    inputs = []
    for number, data in enumerate(list(IMAGES.values())[::10]):
        (tmp_path / f"{number}.img").write_bytes(data)
        inputs += [tmp_path / f"{number}.img", photo]
    errors = []
    results = list(detector.stream(inputs, on_bad=errors.append, batch_size=4))
    good = [r for r in results if r.name == str(photo)]
    assert len(good) == len(inputs) // 2
    assert all(np.array_equal(r.boxes_xyxy_px, good[0].boxes_xyxy_px) for r in good)
    assert all(isinstance(e, FexportError) for e in errors)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_one_sentence(photo, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "from fexport.cli import main; main()", "run", str(photo), "--out", "/dev/full/x.csv"],
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "Traceback" not in done.stderr


def test_a_picture_whose_file_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="Is a directory"):
        read_image(tmp_path)

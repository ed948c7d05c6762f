from __future__ import annotations

import cv2
import numpy as np
import pytest

from fexruntime import crop
from fexruntime.contracts import LANDMARK_CROP, MULTITASK_CHIP

BOXES = np.array(
    [
        [40.3, 30.7, 120.9, 150.2],
        [-25.5, -10.25, 60.0, 95.5],
        [250.0, 180.0, 341.5, 262.75],
        [100.0, 100.0, 101.0, 100.5],
        [5.0, 200.0, 300.0, 239.0],
        [-900.0, -700.0, 1900.0, 1700.0],
        [700.0, 700.0, 760.0, 790.0],
    ],
    np.float32,
)
ROWS = pytest.mark.parametrize("row", [MULTITASK_CHIP, LANDMARK_CROP], ids=lambda row: row.kind)


def both(image, row):
    sample = crop.locate(BOXES, row).sample_xyxy_px
    shape = (len(BOXES), 3, row.size, row.size)
    return (
        crop.cut(image, sample, row, np.full(shape, np.nan, np.float32)),
        crop.cut_numpy(image, sample, row, np.full(shape, np.nan, np.float32)),
    )


@ROWS
@pytest.mark.parametrize("size", [(240, 320), (1080, 1920), (37, 21), (2, 2)])
def test_fast_path_equals_its_plain_twin(row, size):
    image = np.random.RandomState(0).randint(0, 256, (*size, 3), np.uint8)
    fast, plain = both(image, row)
    assert np.abs(fast - plain).max() < 1e-6
    assert np.isfinite(fast).all()


@ROWS
def test_without_exact_remap_the_twin_is_used(row, monkeypatch, frame):
    monkeypatch.setattr(crop, "remap_is_exact", lambda: False)
    fast, plain = both(frame, row)
    assert np.array_equal(fast, plain)


def test_the_probe_tells_opencv_4_from_5():
    assert crop.remap_is_exact() == (int(cv2.__version__.split(".")[0]) >= 5)


@ROWS
def test_a_crop_inside_the_frame_shows_what_is_there(row):
    ramp = np.zeros((300, 400, 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 255, 400).astype(np.uint8)
    box = np.array([[100, 100, 200, 200]], np.float32)
    region = crop.locate(box, row)
    chip = crop.cut(ramp, region.sample_xyxy_px, row, np.empty((1, 3, row.size, row.size), np.float32))
    x1, _, x2, _ = region.decode_xyxy_px[0]
    for place in (0.25, 0.5, 0.75):
        at = round(x1 + place * (x2 - x1))
        assert abs(chip[0, 0, row.size // 2, round(place * row.size)] * 255 - ramp[0, at, 0]) < 1.5


def test_outside_the_frame_square_pad_mirrors_and_anisotropic_is_black():
    image = np.full((50, 50, 3), 200, np.uint8)
    box = np.array([[-40, -40, 10, 10]], np.float32)
    for row, corner in ((MULTITASK_CHIP, 200 / 255), (LANDMARK_CROP, 0.0)):
        chip = crop.cut(
            image, crop.locate(box, row).sample_xyxy_px, row, np.empty((1, 3, row.size, row.size), np.float32)
        )
        assert chip[0, 0, 0, 0] == pytest.approx(corner)


def test_there_and_back():
    region = crop.locate(BOXES, MULTITASK_CHIP).decode_xyxy_px
    corners = np.tile(np.array([[0, 0], [1, 1]], np.float32), (len(BOXES), 1, 1))
    assert np.allclose(crop.to_frame(corners, region).reshape(-1, 4), region, atol=1e-4)


def test_anisotropic_boxes_round_half_to_even():
    # width 5 and height 10 around (10.5, 20.5): corners 7.5, 14.5, 13.5, 26.5
    region = crop.locate(np.array([[8.0, 15.5, 13.0, 25.5]], np.float32), LANDMARK_CROP)
    assert region.decode_xyxy_px.tolist() == [[8.0, 14.0, 14.0, 26.0]]

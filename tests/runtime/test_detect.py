from __future__ import annotations

import numpy as np
import pytest

from fexruntime import detect
from fexruntime.contracts import Preprocessing, network_row
from fexruntime.shrink import shrink_for_detector


def slow_anchors(height, width):
    """The table written as its definition: a loop over levels, rows, columns and sizes."""
    rows = []
    for step, sizes in ((8, (16, 32)), (16, (64, 128)), (32, (256, 512))):
        for i in range(-(-height // step)):
            for j in range(-(-width // step)):
                rows += [((j + 0.5) * step / width, (i + 0.5) * step / height, s / width, s / height) for s in sizes]
    return np.array(rows, np.float32)


@pytest.mark.parametrize("size", [(480, 640), (562, 572), (37, 101)])
def test_anchors(size):
    assert np.array_equal(detect.anchors(*size), slow_anchors(*size))


def test_anchor_counts_of_known_sizes():
    assert [len(detect.anchors(*s)) for s in ((640, 640), (572, 562), (1080, 1920))] == [16_800, 13_464, 85_200]


def test_input_fast_path_is_exact():
    image = np.random.RandomState(0).randint(0, 256, (33, 47, 3), np.uint8)
    fast, plain = np.empty((2, 3, 33, 47), np.float32)
    row = network_row("retinaface-r34").preprocessing
    detect.fill_input(image, row, fast)
    detect.fill_input_numpy(image, row, plain)
    assert np.array_equal(fast, plain)
    assert np.array_equal(plain[0], image[:, :, 0].astype(np.float32) - 123)
    scaled = Preprocessing((1.0, 2.0, 3.0), (2.0, 4.0, 8.0))
    detect.fill_input(image, scaled, fast)
    detect.fill_input_numpy(image, scaled, plain)
    assert np.array_equal(fast, plain)
    assert np.array_equal(plain[2], (image[:, :, 2].astype(np.float32) - 3) / 8)


def test_suppression_keeps_the_best_of_overlapping_boxes():
    boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30], [0, 0, 10, 4.1]], np.float32)
    # IoU of the first and the last is 0.41, of the first two 81/119
    assert detect.suppress(boxes, 0.4).tolist() == [0, 2]
    assert detect.suppress(boxes, 0.42).tolist() == [0, 2, 3]


def test_an_overlap_of_exactly_the_threshold_is_kept():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5]], np.float32)
    assert detect.suppress(boxes, 0.5).tolist() == [0, 1]


def _outputs(scores, height=64, width=96):
    count = len(detect.anchors(height, width))
    conf = np.zeros((len(scores), count, 2), np.float32)
    for frame, at in enumerate(scores):
        for place, score in at.items():
            conf[frame, place, 1] = score
    return np.zeros((len(scores), count, 4), np.float32), conf, np.zeros((len(scores), count, 10), np.float32)


def test_find_sorts_by_score_and_drops_below_the_threshold():
    loc, conf, points = _outputs([{0: 0.6, 40: 0.9, 80: 0.5, 120: 0.49}, {}])
    first, second = detect.find(loc, conf, points, (64, 96), 0.5)
    assert first.scores.tolist() == pytest.approx([0.9, 0.6, 0.5])
    assert len(second) == 0
    assert second.boxes_xyxy_px.shape == (0, 4)
    assert second.points_xy_px.shape == (0, 5, 2)


def test_a_threshold_below_one_half_changes_nothing():
    loc, conf, points = _outputs([{0: 0.6, 40: 0.3}])
    assert len(detect.find(loc, conf, points, (64, 96), 0.1)[0]) == 1
    assert len(detect.find(loc, conf, points, (64, 96), 0.7)[0]) == 0


def test_an_anchor_without_deltas_is_its_own_box():
    loc, conf, points = _outputs([{1: 0.9}])
    (faces,) = detect.find(loc, conf, points, (64, 96), 0.5)
    # second anchor of the first cell: 32 px round (4, 4)
    assert faces.boxes_xyxy_px[0].tolist() == pytest.approx([-12, -12, 20, 20])
    assert faces.points_xy_px[0, 0].tolist() == pytest.approx([4, 4])


def test_shrinking_maps_boxes_back(frame):
    view = shrink_for_detector(frame[:300], 256)
    assert view.rgb_u8.shape == (150, 256, 3)
    faces = detect.given(np.array([[10, 20, 30, 40]], np.float32))
    assert view.to_frame(faces).boxes_xyxy_px.tolist() == [[20, 40, 60, 80]]
    assert shrink_for_detector(frame, 512).rgb_u8 is frame
    assert shrink_for_detector(frame, None).rgb_u8 is frame

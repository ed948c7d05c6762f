"""Properties of the geometry on invented boxes and images: fast paths against the twins that say what is meant."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fexruntime import crop, detect
from fexruntime.contracts import LANDMARK_CROP, MULTITASK_CHIP
from fexruntime.contracts import detection as C

_HEIGHT, _WIDTH = 120, 160
_CORNER = st.floats(-80, 240, width=32)
_SIDE = st.floats(1, 200, width=32)
_BOXES = st.lists(st.tuples(_CORNER, _CORNER, _SIDE, _SIDE), min_size=1, max_size=24).map(
    lambda rows: np.array([[x, y, x + w, y + h] for x, y, w, h in rows], np.float32)
)
_QUICK = settings(max_examples=150, deadline=None, derandomize=True)
_FRAME = np.random.RandomState(0).randint(0, 256, (_HEIGHT, _WIDTH, 3)).astype(np.uint8)


def iou(a, b):
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    common = np.clip(high - low, 0, None).prod(dtype=np.float32)
    area = [np.float32((c[2] - c[0]) * (c[3] - c[1])) for c in (a, b)]
    return float(common / (area[0] + area[1] - common))


def plain_suppression(boxes, limit):
    """One box after another, each against those that are kept."""
    kept = []
    for i, box in enumerate(boxes):
        if all(not iou(boxes[k], box) > limit for k in kept):
            kept.append(i)
    return kept


@_QUICK
@given(_BOXES, st.sampled_from([0.0, 0.3, C.NMS_IOU, 0.9]))
def test_suppression_is_the_plain_one_and_is_done_once(boxes, limit):
    kept = detect.suppress(boxes, limit)
    assert kept.tolist() == plain_suppression(boxes, limit)
    assert kept[0] == 0
    assert detect.suppress(boxes[kept], limit).tolist() == list(range(len(kept)))


@_QUICK
@given(st.integers(0, 2**31 - 1), st.integers(16, 200), st.integers(16, 200))
def test_decoding_gives_the_boxes_that_were_encoded(seed, height, width):
    rng = np.random.RandomState(seed)
    prior = detect.anchors(height, width)
    prior = prior[rng.randint(0, len(prior), 8)].astype(np.float64)
    centre, size = rng.uniform(0, 1, (8, 2)), rng.uniform(0.05, 1, (8, 2))
    loc = np.concatenate(
        [(centre - prior[:, :2]) / prior[:, 2:] / C.VARIANCES[0], np.log(size / prior[:, 2:]) / C.VARIANCES[1]], 1
    )
    found = detect._decode(loc.astype(np.float32), prior.astype(np.float32))
    assert np.allclose(found, np.concatenate([centre - size / 2, centre + size / 2], 1), atol=2e-5)


@_QUICK
@given(st.integers(0, 2**31 - 1), st.integers(1, 3), st.sampled_from([0.0, 0.5, 0.9]))
def test_what_is_found_is_sorted_above_the_threshold_and_apart(seed, batch, threshold):
    rng = np.random.RandomState(seed)
    count = len(detect.anchors(64, 96))
    loc, landmarks = (rng.normal(size=(batch, count, n)).astype(np.float32) for n in (4, 10))
    conf = rng.uniform(0, 1, (batch, count, 2)).astype(np.float32)
    for k, found in enumerate(detect.find(loc, conf, landmarks, (64, 96), threshold)):
        assert (np.diff(found.scores) <= 0).all()
        assert len(found) <= C.KEEP_TOP_K
        assert (found.scores >= max(threshold, C.FINAL_SCORE)).all()
        assert found.scores[0] == conf[k, :, 1].max()
        assert plain_suppression(found.boxes_xyxy_px, C.NMS_IOU) == list(range(len(found)))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(_BOXES, st.sampled_from([MULTITASK_CHIP, LANDMARK_CROP]))
def test_fast_crops_are_those_of_the_numpy_twin(boxes, kind):
    sample = crop.locate(boxes[:4], kind).sample_xyxy_px
    fast, plain = (np.empty((len(sample), 3, kind.size, kind.size), np.float32) for _ in range(2))
    fast, plain = crop.cut(_FRAME, sample, kind, fast), crop.cut_numpy(_FRAME, sample, kind, plain)
    assert np.isfinite(plain).all()
    assert plain.min() >= 0
    assert plain.max() <= 1
    assert np.abs(fast - plain).max() < 2e-6


@_QUICK
@given(_BOXES)
def test_crops_hold_what_their_region_says(boxes):
    """The corners of the unit square, in the frame, are the corners of the region."""
    region = crop.locate(boxes, MULTITASK_CHIP).decode_xyxy_px
    corners = np.tile(np.array([[[0.0, 0.0], [1.0, 1.0]]], np.float32), (len(boxes), 1, 1))
    assert np.allclose(crop.to_frame(corners, region).reshape(-1, 4), region, atol=1e-3)

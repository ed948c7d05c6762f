"""Properties of the geometry on invented boxes and images: fast paths against the twins that say what is meant."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from fexruntime import blazeface, boxes, crop, detect, img2pose, warp
from fexruntime.contracts import LANDMARK_CROP, MULTITASK_CHIP, Crop
from fexruntime.contracts import detection as C
from fexruntime.contracts import facemesh as M
from fexruntime.contracts import img2pose as I

_HEIGHT, _WIDTH = 120, 160
_CORNER = st.floats(-80, 240, width=32)
_SIDE = st.floats(1, 200, width=32)
_BOXES = st.lists(st.tuples(_CORNER, _CORNER, _SIDE, _SIDE), min_size=1, max_size=24).map(
    lambda rows: np.array([[x, y, x + w, y + h] for x, y, w, h in rows], np.float32)
)
_GRID = st.integers(0, 6)
_TIED = st.lists(st.tuples(_GRID, _GRID, _GRID, _GRID), max_size=24).map(
    lambda rows: np.array([[x, y, x + w, y + h] for x, y, w, h in rows], np.float32).reshape(-1, 4)
)
"""Boxes on a coarse grid: many are equal, touch, have no area, or overlap by exactly a limit."""
_ANY_BOXES = st.one_of(_BOXES, _TIED)
_LIMITS = st.sampled_from([0.0, 0.25, 0.3, 1 / 3, C.NMS_IOU, 0.5, 0.7, 0.9])
_QUICK = settings(max_examples=150, deadline=None, derandomize=True)
_FRAME = np.random.RandomState(0).randint(0, 256, (_HEIGHT, _WIDTH, 3)).astype(np.uint8)


def iou(a, b):
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    common = np.clip(high - low, 0, None).prod(dtype=np.float32)
    area = [np.float32((c[2] - c[0]) * (c[3] - c[1])) for c in (a, b)]
    union = area[0] + area[1] - common
    return float(common / union) if union else 0.0


def plain_suppression(boxes, limit):
    """One box after another, each against those that are kept."""
    kept = []
    for i, box in enumerate(boxes):
        if all(not iou(boxes[k], box) > limit for k in kept):
            kept.append(i)
    return kept


@_QUICK
@given(_ANY_BOXES, _LIMITS)
def test_suppression_is_the_plain_one_and_is_done_once(given_boxes, limit):
    kept = detect.suppress(given_boxes, limit)
    assert kept.tolist() == plain_suppression(given_boxes, limit)
    assert kept.tolist()[:1] == [0][: len(given_boxes)]
    assert detect.suppress(given_boxes[kept], limit).tolist() == list(range(len(kept)))


@_QUICK
@given(_ANY_BOXES, _LIMITS, st.data())
def test_suppression_within_groups_is_the_plain_one_of_each(given_boxes, limit, data):
    """img2pose's, with blocks so small that most are compared with earlier ones."""
    group = np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(given_boxes), max_size=len(given_boxes))), int)
    most = data.draw(st.integers(1, 30))
    plain = [np.flatnonzero(group == one) for one in range(3)]
    plain = sorted(int(i) for at in plain for i in at[plain_suppression(given_boxes[at], limit)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(img2pose, "_BLOCK", data.draw(st.sampled_from([1, 3, 256])))
        assert img2pose.suppress_within(given_boxes, group, limit, most).tolist() == plain[:most]


@_QUICK
@given(_ANY_BOXES, st.integers(0, 2**31 - 1))
def test_merging_is_the_plain_weighted_mean(given_boxes, seed):
    """BlazeFace's: a box, and those that overlap it, become their mean; each box is in one of them."""
    rng, n = np.random.RandomState(seed), len(given_boxes)
    found = np.concatenate([given_boxes[:, :2], given_boxes[:, 2:] - given_boxes[:, :2]], axis=1) / np.float32(_WIDTH)
    points = rng.rand(n, 6, 2).astype(np.float32)
    scores = np.sort(rng.choice(np.float32([0.5, 0.7, 0.9]), n))[::-1]
    whole, merged_points, best = blazeface._merged(found, points, scores)
    left, expected = list(range(n)), []
    while left:
        corners = [np.concatenate([found[k, :2], found[k, :2] + found[k, 2:]]) for k in left]
        overlaps = [iou(corners[0], c) for c in corners]
        assume(all(abs(v - M.NMS_IOU) > 1e-6 for v in overlaps))  # a tie is either's
        near = [k for k, v in zip(left, overlaps, strict=True) if k == left[0] or v > M.NMS_IOU]
        weights = scores[near].astype(np.float64)
        expected.append((np.average(found[near], 0, weights), np.average(points[near], 0, weights), scores[left[0]]))
        left = [k for k in left if k not in near]
    assert len(whole) == len(merged_points) == len(best) == len(expected)
    for mine, plain in zip(zip(whole, merged_points, best, strict=True), expected, strict=True):
        for a, b in zip(mine, plain, strict=True):
            assert np.allclose(a, b, atol=2e-6)


@_QUICK
@given(_ANY_BOXES)
def test_a_region_takes_the_place_of_those_it_overlaps(given_boxes):
    size = given_boxes[:, 2:] - given_boxes[:, :2]
    kept = blazeface.apart(list(zip((given_boxes[:, :2] + given_boxes[:, 2:]) / np.float32(2), size, strict=True)))
    plain = []
    for n, box in enumerate(given_boxes):
        plain = [*(k for k in plain if not iou(given_boxes[k], box) > M.SAME_REGION_IOU), n]
    close = any(abs(iou(a, b) - M.SAME_REGION_IOU) < 1e-5 for a in given_boxes for b in given_boxes)
    assert close or kept == plain  # centres and sizes round: at the limit itself either is right


@_QUICK
@given(_ANY_BOXES, _ANY_BOXES, _LIMITS)
def test_pairs_are_the_greatest_overlaps_and_nobody_is_in_two(first, second, limit):
    overlap = boxes.iou(first, second)
    assert overlap.shape == (len(first), len(second))
    for i, a in enumerate(first):
        assert np.allclose(overlap[i], [iou(a, b) for b in second], atol=1e-6)
    found = boxes.pairs(overlap, overlap > limit)
    assert len({i for i, _ in found}) == len({j for _, j in found}) == len(found)
    taken = [overlap[i, j] for i, j in found]
    assert taken == sorted(taken, reverse=True)
    free = [
        (i, j)
        for i in range(len(first))
        for j in range(len(second))
        if overlap[i, j] > limit and i not in {i for i, _ in found} and j not in {j for _, j in found}
    ]
    assert not free


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
@given(st.integers(0, 2**31 - 1), st.integers(16, 200), st.integers(16, 200))
def test_decoding_gives_the_points_that_were_encoded(seed, height, width):
    rng, count = np.random.RandomState(seed), len(detect.anchors(height, width))
    chosen = rng.choice(count, min(8, count), replace=False)
    prior, points = detect.anchors(height, width)[chosen].astype(np.float64), rng.uniform(0, 1, (len(chosen), 5, 2))
    landmarks = np.full((count, 10), np.nan, np.float32)
    landmarks[chosen] = ((points - prior[:, None, :2]) / prior[:, None, 2:] / C.VARIANCES[0]).reshape(-1, 10)
    loc, scores = np.zeros((count, 4), np.float32), rng.rand(count).astype(np.float32)
    found = detect.at(loc, scores, landmarks, chosen, (height, width))
    assert np.allclose(found.points_xy_px, points * [width, height], atol=5e-3)
    assert np.array_equal(found.scores, scores[chosen])
    assert detect.at(loc, scores, None, chosen, (height, width)).points_xy_px is None


@_QUICK
@given(st.integers(0, 2**31 - 1), st.integers(2, 6), st.integers(2, 6))
def test_img2pose_decodes_the_boxes_that_were_encoded(seed, rows, columns):
    rng, size = np.random.RandomState(seed), (32 * rows, 32 * columns)
    prior = img2pose.anchors(*size)
    prior = prior[rng.randint(0, len(prior), 8)].astype(np.float64)
    sides = prior[:, 2:] - prior[:, :2]
    centre, extent = rng.uniform(0, 300, (8, 2)), rng.uniform(2, 300, (8, 2))
    deltas = np.concatenate([(centre - prior[:, :2] - sides / 2) / sides, np.log(extent / sides)], 1)
    found = img2pose._decode(deltas.astype(np.float32), prior.astype(np.float32))
    assert np.allclose(found, np.concatenate([centre - extent / 2, centre + extent / 2], 1), atol=2e-3)
    deltas[:, 2:] = 1e4  # what a network may say: the largest growth holds
    found = img2pose._decode(deltas.astype(np.float32), prior.astype(np.float32))
    assert np.allclose(found[:, 2:] - found[:, :2], sides * I.LARGEST_GROWTH, rtol=1e-4)


@_QUICK
@given(st.integers(0, 2**31 - 1), st.integers(0, 8), st.integers(64, 400), st.integers(64, 400))
def test_blazeface_finds_what_was_encoded(seed, faces, height, width):
    """Far boxes of one anchor each, from the letterbox to the frame and back; none where nothing was said."""
    rng, near = np.random.RandomState(seed), blazeface.anchors().astype(np.float64)
    cells = rng.choice(9, faces, replace=False)
    centre = (np.stack([cells % 3, cells // 3], 1) + 0.5) / 3  # of a raster, so far apart that nothing is merged
    size, points = np.tile(rng.uniform(0.05, 0.2, (faces, 1)), 2), rng.uniform(0, 1, (faces, 6, 2))
    at = rng.choice(len(near), faces, replace=False)
    regressors, logits = np.zeros((len(near), 16)), np.full((len(near), 1), -20.0)
    regressors[at, :2], regressors[at, 2:4] = centre - near[at], size
    regressors[at, 4:] = (points - near[at][:, None]).reshape(-1, 12)
    logits[at, 0] = np.sort(rng.uniform(2, 9, faces))[::-1]
    found = blazeface.find(
        (regressors * M.DETECTOR_SIDE).astype(np.float32), logits.astype(np.float32), (height, width), 0.5
    )
    side, middle = max(height, width), np.array([width, height]) / 2
    assert np.allclose(found.scores, 1 / (1 + np.exp(-logits[at, 0])), atol=1e-6)
    low, high = ((centre + s * size / 2 - 0.5) * side + middle for s in (-1, 1))
    assert np.allclose(found.boxes_xyxy_px, np.concatenate([low, high], 1), atol=2e-2)
    assert np.allclose(found.keypoints_xy_px, (points - 0.5) * side + middle, atol=2e-2)
    sides = np.linalg.norm(np.diff(found.region_xy_px, axis=1), axis=2)
    assert np.allclose(sides, M.REGION_SCALE * side * size[:, :1], rtol=1e-3)
    assert np.allclose(found.region_xy_px.mean(axis=1), (low + high) / 2, atol=2e-2)


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
    assert [len(f) for f in detect.find(loc, conf * 0, landmarks, (64, 96), threshold)] == [0] * batch


CROPS = {
    "square-pad": 2e-6,
    "anisotropic": 2e-6,
    "anisotropic-imagenet": 1e-5,  # over a deviation of 0.22
    "centre": 0.0,
    "letterbox": 0.0,
    "rotated": 0.0,
}
"""How far each kind's fast path may be from its twin; those in whole numbers not at all."""


def test_every_kind_of_crop_is_here():
    assert set(CROPS) == set(crop.KINDS)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    given_boxes=_ANY_BOXES,
    size=st.tuples(st.integers(2, 90), st.integers(2, 90)),
    side=st.sampled_from([1, 7, 64, 65]),
    expand=st.sampled_from([1.0, 1.2, 1.7]),
    angles=st.lists(st.floats(-4, 4), min_size=4, max_size=4),
    data=st.data(),
)
@pytest.mark.parametrize("kind", CROPS)
def test_fast_crops_are_those_of_the_numpy_twin(kind, given_boxes, size, side, expand, angles, data):
    """Of frames down to the smallest that are taken, of boxes anywhere and of no size, of squares turned by any angle."""
    frame, row, given_boxes = _FRAME[: size[0], : size[1]], Crop(kind, side, expand, resize=side + 7), given_boxes[:4]
    found = {}
    if kind == "rotated" and data.draw(st.booleans()):  # else the finder said nothing of them
        extent = np.maximum((given_boxes[:, 2:] - given_boxes[:, :2]).max(axis=1, initial=0), 1)
        centres = (given_boxes[:, :2] + given_boxes[:, 2:]) / np.float32(2)
        turned = [warp.corners_of(c, np.repeat(e, 2), a) for c, e, a in zip(centres, extent, angles, strict=False)]
        found["region_xy_px"] = np.array(turned, np.float32).reshape(-1, 4, 2)
        found["region_xy_px"][1:2] = np.nan  # of one of them
    elif kind in ("letterbox", "rotated"):  # a finder's box has a size
        given_boxes[:, 2:] = np.maximum(given_boxes[:, 2:], given_boxes[:, :2] + 1)
    sample = crop.locate(given_boxes, row, found).sample_xyxy_px
    assert len(sample) == len(given_boxes)
    fast, plain = (np.full((len(sample), 3, side, side), np.nan, np.float32) for _ in range(2))
    fast, plain = crop.cut(frame, sample, row, fast), crop.cut_numpy(frame, sample, row, plain)
    assert np.isfinite(plain).all()
    if kind != "anisotropic-imagenet":
        assert plain.min(initial=0) >= 0
        assert plain.max(initial=0) <= 1 + 1e-6
    assert np.abs(fast - plain).max(initial=0) <= CROPS[kind]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(_ANY_BOXES, st.tuples(st.integers(1, 120), st.integers(1, 160)), st.sampled_from([8, 33]))
def test_the_centre_of_a_box_is_what_pillow_gives(given_boxes, size, side):
    """torchvision's Resize and CenterCrop of a Pillow image, written with Pillow."""
    frame, row = _FRAME[: size[0], : size[1]], Crop("centre", side, 1.7, resize=side + 7)
    sample = crop.locate(given_boxes[:4], row).sample_xyxy_px
    out = crop.cut(frame, sample, row, np.empty((len(sample), 3, side, side), np.float32))
    for chip, (left, top, right, bottom) in zip(out, sample.astype(int), strict=True):
        part = frame[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
        if not part.size:
            assert not chip.any()
            continue
        height, width = part.shape[:2]
        long = int((side + 7) * max(height, width) / min(height, width))
        new_w, new_h = (long, side + 7) if width > height else (side + 7, long)
        x, y = round((new_w - side) / 2), round((new_h - side) / 2)
        whole = Image.fromarray(part).resize((new_w, new_h), Image.Resampling.BILINEAR)
        assert np.array_equal(np.rint(chip.transpose(1, 2, 0) * 255), np.array(whole)[y : y + side, x : x + side])


@_QUICK
@given(st.tuples(_CORNER, _CORNER), _SIDE, st.floats(-4, 4))
def test_a_turned_square_keeps_its_centre_and_its_sides(centre, side, angle):
    corners = warp.corners_of(np.array(centre, np.float32), np.repeat(np.float32(side), 2), angle)
    assert np.allclose(corners.mean(axis=0), centre, atol=1e-3)
    assert np.allclose(np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1), side, atol=1e-3)
    up = corners[1] - corners[0]  # from the bottom left to the top left
    assert np.allclose(up, [side * math.sin(angle), -side * math.cos(angle)], atol=1e-3)


@_QUICK
@given(_BOXES, st.sampled_from([MULTITASK_CHIP, LANDMARK_CROP]), st.integers(0, 2**31 - 1))
def test_crops_hold_what_their_region_says(given_boxes, row, seed):
    """The corners of the unit square, in the frame, are the corners of the region; and points go there and back."""
    region = crop.locate(given_boxes, row).decode_xyxy_px
    corners = np.tile(np.array([[[0.0, 0.0], [1.0, 1.0]]], np.float32), (len(given_boxes), 1, 1))
    assert np.allclose(crop.to_frame(corners, region).reshape(-1, 4), region, atol=1e-3)
    extent = np.maximum(region[:, None, 2:] - region[:, None, :2], 1)
    fractions = np.random.RandomState(seed).uniform(-1, 2, (len(given_boxes), 5, 2)).astype(np.float32)
    whole = np.concatenate([region[:, :2], region[:, :2] + extent[:, 0]], axis=1)
    assert np.allclose((crop.to_frame(fractions, whole) - region[:, None, :2]) / extent, fractions, atol=1e-3)

"""Calibration: the sampler of somebody's pictures, and the ways to cut a range."""

from __future__ import annotations

import numpy as np
import pytest

from fexcalibration import METHODS, chips, ranges
from fexport import samples
from fexruntime.bundle import open_bundle
from fexruntime.contracts import facemesh
from fexruntime.errors import InputError


def test_ways_to_cut_a_range():
    values = np.random.RandomState(1).standard_normal(200_000)
    values[0] = 40.0  # one that nothing else is near
    whole = (float(values.min()), float(values.max()))
    counts = np.histogram(values, ranges.BINS, whole)[0].astype(float)
    found = ranges.cut(counts, whole)
    assert set(found) == set(METHODS)
    assert found["minmax"] == whole
    for name in ("percentile", "mse", "entropy"):
        assert 2.0 < found[name][1] < 0.9 * whole[1], name
        assert -6.0 < found[name][0] < -1.5, name
    assert ranges.cut(np.zeros(ranges.BINS), (0.0, 0.0)) == dict.fromkeys(METHODS, (0.0, 0.0))


def test_the_sampler_is_balanced_and_gives_the_same_again(pictures, tmp_path):
    from PIL import Image

    crowd = np.concatenate([samples.photograph()] * 3, axis=1)
    for path in pictures.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "again.png").write_bytes((pictures / "0.png").read_bytes())  # the same pixels count once
    Image.fromarray(crowd).save(tmp_path / "crowd.png")
    (tmp_path / "torn.png").write_bytes(b"no picture")
    one = chips.sample(open_bundle("edge"), [tmp_path])
    two = chips.sample(open_bundle("edge"), [tmp_path])
    assert one.sha256 == two.sha256
    assert one.pictures == 7
    assert len(one.passed_over) == 1
    assert "torn.png" in one.passed_over[0]
    assert one.held_out["faces"]  # the fifth
    assert len(one.calibration["faces"]) == 6
    for a, b in zip(one.calibration["faces"], two.calibration["faces"], strict=True):
        assert np.array_equal(a[0], b[0])


def test_pictures_that_say_nothing_are_refused_in_a_sentence(tmp_path):
    from PIL import Image

    with pytest.raises(InputError, match="no picture could be read"):
        chips.sample(open_bundle("edge"), [tmp_path])
    Image.new("RGB", (200, 200), "navy").save(tmp_path / "blank.png")
    with pytest.raises(InputError, match="no face was found in the 1 pictures"):
        chips.sample(open_bundle("edge"), [tmp_path])


def test_finds_that_a_later_stage_drops_are_no_faces_to_calibrate_on(photo, monkeypatch):
    """FaceMesh's finder sees faces where its network says that none is: here it says so of every one."""
    bundle = open_bundle("facemesh")
    assert chips.sample(bundle, [photo]).faces == 1
    monkeypatch.setattr(facemesh, "PRESENCE", 2.0)
    with pytest.raises(InputError, match="no face was found in the 1 pictures"):
        chips.sample(bundle, [photo])


def test_crowds_take_no_more_memory_and_every_picture_gives_its_best_face_first():
    held = chips._Held(20)
    for k in range(50):
        frame = (np.zeros((1, 3, 2, 2), np.float32),)
        faces = [{"chips": (np.full((1, 1), 10 * k + n, np.float32),)} for n in range(8)]
        held.add(chips._Picture(f"{k}.png", str(k), {"faces": frame}, faces))
        assert held.faces <= max(2 * held.most, len(held.pictures))
        assert sum(bool(p.frame) for p in held.pictures) <= chips.FRAMES
    assert [k for k, p in enumerate(held.pictures) if p.frame] == list(range(0, 50, 2))  # evenly
    held.halve()
    assert [k for k, p in enumerate(held.pictures) if p.frame] == list(range(25))
    found, names, taken = chips._balanced(held)
    assert taken == len(found["chips"]) == 20
    assert {float(value[0, 0]) % 10 for (value,) in found["chips"]} == {0.0}  # the best of twenty pictures
    assert names["chips"][0] == "0.png, face 1"
    few = chips._Held(12)
    for k in range(4):
        few.add(
            chips._Picture(f"{k}.png", str(k), {}, [{"chips": (np.full((1, 1), n, np.float32),)} for n in range(8)])
        )
    found, _, taken = chips._balanced(few)
    assert taken == 12
    assert [float(value[0, 0]) for (value,) in found["chips"]] == [0.0] * 4 + [1.0] * 4 + [2.0] * 4

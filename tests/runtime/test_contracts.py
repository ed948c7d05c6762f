"""The tables hold together: what a stage reads was given, what a column shows is computed, nothing stands twice."""

from __future__ import annotations

import math

import pytest

from fexruntime import crop, finders, heads
from fexruntime.columns import OWN_VALUES
from fexruntime.contracts import GATES, NETWORKS, PIPELINES, REFERENCES, VALUES, Crop
from fexruntime.contracts import labels as L
from fexruntime.contracts.schema import without_defaults
from fexruntime.errors import InputError
from fexruntime.fex import NO_FACE

ROWS = pytest.mark.parametrize("row", PIPELINES, ids=lambda row: f"{row.name} {row.contracts[0]}")


@ROWS
def test_a_row_holds_together(row):
    assert row.finder.decode in finders.FINDERS
    assert {"boxes_xyxy_px", "scores"} <= set(row.finder.gives)
    given = set(row.finder.gives)
    for stage in row.stages:
        assert stage.decode in heads.DECODERS
        for choice in stage.choices:
            assert choice.network is None or choice.network in NETWORKS
            assert choice.network is None or len(choice.reads) == len(NETWORKS[choice.network].inputs)
            for read in choice.reads:
                assert read.kind in crop.KINDS if isinstance(read, Crop) else read in given, (stage.role, read)
        assert {a.value for a in stage.axes} <= set(stage.gives)
        assert set(stage.gives) <= set(VALUES)
        given.update(stage.gives)
    assert len({s.role for s in (row.finder, *row.stages)}) == len(row.stages) + 1
    assert set(row.contracts) <= set(REFERENCES)


@ROWS
def test_columns_show_values_that_are_there_and_as_wide(row):
    """A value that no stage of the row gives is one that py-feat has and fexport has not: its columns are NaN."""
    for group in row.groups:
        if group.dtype == "float32" and group.value not in OWN_VALUES:
            numbers = math.prod(VALUES[group.value].shape)
            # of a pose without a place the first three are shown
            assert len(group.columns) == (3 if group.columns == L.POSE[:3] else numbers), group.name
        else:
            assert group.value in OWN_VALUES or group.value in VALUES, group.name
    columns = row.columns
    assert len(set(columns)) == len(columns)
    names = [g.name for g in row.groups]
    assert len(set(names)) == len(names)
    assert not set(names) & set(columns) - {"input", "frame"}
    assert set(NO_FACE) <= set(columns)
    assert row.rect is None or row.rect.kind in crop.KINDS


def test_every_network_can_be_verified_and_is_used():
    stages = [s for row in PIPELINES for s in (row.finder, *row.stages)]
    used = {n for s in stages for name in s.networks for n in (name, *(h.networks[0] for h in s.helpers(name)))}
    assert used == set(NETWORKS)
    for name, network in NETWORKS.items():
        gated = {g.output for g in GATES["fp32"][name]}
        assert gated == {t.name for t in network.outputs}, name
        assert network.licence
        assert all(f.sha256 is None or len(f.sha256) == 64 for f in network.files)
        assert all(f.revision is None or len(f.revision) == 40 for f in network.files)


def test_the_columns_are_pyfeats():
    counts = {(r.name, r.contracts): len(r.columns) for r in PIPELINES}
    assert counts == {
        ("detectorv2", ("pyfeat-2.0",)): 2182,
        ("detectorv2", ("pyfeat-2.1",)): 2182,
        ("detectorv1", ("pyfeat-2.1", "pyfeat-2.0")): 694,
        ("detectorv1", ("pyfeat-2.1-bugs",)): 694,
        ("faces", ("pyfeat-2.1", "pyfeat-2.0")): 9,
        ("tokenhpe", ("tokenhpe-1",)): 21,
        ("facemesh", ("mediapipe-0.10",)): 5 + 136 + 3 * 478 + 3 + 4,
        ("nlml_hpe", ("nlml-1",)): 15,
    }


def test_a_crop_kind_that_is_not_there_is_an_error():
    with pytest.raises(
        InputError, match="no crop kind 'square_pad': there are square-pad, anisotropic, anisotropic-imagenet, centre"
    ):
        crop.locate([[0, 0, 10, 20]], Crop("square_pad", 256, 1.2))


def test_a_field_with_its_default_changes_no_digest():
    plain = without_defaults(NETWORKS["mobilefacenet"])
    assert "resize" not in plain
    assert "preprocessing" not in plain
    assert without_defaults(NETWORKS["arcface"])["resize"] == {"size": 112, "kind": "bilinear"}

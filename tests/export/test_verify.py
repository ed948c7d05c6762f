"""The gate: it fails on what is beyond, on what is not finite, on ties of everything, and on nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fexport import modules, samples, sense, verify
from fexport.cli.tables import report_table
from fexport.networks import RECIPES, multitask_recipes
from fexruntime import open_bundle
from fexruntime.contracts import MULTITASK_CHIP, Choice, Gate, network_row
from fexruntime.differences import difference
from fexruntime.errors import VerificationError

EDGE = "retinaface-mobilenet025"


@pytest.fixture(scope="module")
def detector():
    return modules.load(network_row(EDGE), None)


@pytest.fixture(scope="module")
def multitask():
    return modules.load(network_row("multitask-v2"), MULTITASK_CHIP, stand_in_seed=0)


def frames(detector):
    return {"faces": samples.cases(detector.network, Choice(EDGE))["faces"][2:3]}


def itself(loaded, change=None):
    """The torch module as an artefact, its outputs changed."""

    def run(case):
        with torch.inference_mode():
            outputs = loaded.module(*(torch.from_numpy(a) for a in case))
        found = {n: o.numpy().copy() for n, o in zip(loaded.outputs, outputs, strict=True)}
        if change:
            change(found)
        return found

    return run


def compare(loaded, cases, change=None, size=1):
    return verify.compare(loaded, itself(loaded, change), cases, size, "fp32", "itself")


def test_the_network_itself_passes(detector):
    report = compare(detector, frames(detector))
    assert report.passed
    assert report.outputs == ("loc", "conf", "landmarks")
    assert verify.Report.from_json(report.as_json()) == report


def test_values_that_are_not_finite_fail(detector):
    report = compare(detector, frames(detector), lambda found: found["landmarks"].__setitem__((0, 0, 0), np.nan))
    assert report.not_finite == {"landmarks": 1}
    assert not report.passed


def test_nothing_compared_is_no_pass(detector):
    assert not verify.Report("x", "fp32", "y", ()).passed
    assert not verify.Report("x", "fp32", "y", ("loc",)).passed
    report = compare(detector, {})
    assert report.not_compared == ["loc", "conf", "landmarks"]
    assert not report.passed
    # noise alone decides nothing
    report = compare(detector, {"noise": frames(detector)["faces"]})
    assert all(d.passed for d in report.differences)
    assert not report.passed


def test_a_module_with_fewer_outputs_than_its_row_is_an_error(detector):
    class Lazy(torch.nn.Module):
        def forward(self, x):
            return detector.module(x)[:1]

    lazy = dataclasses.replace(detector, module=Lazy())
    with pytest.raises(VerificationError, match="gives 1 outputs; its row and checkpoint have 3"):
        verify.compare(lazy, itself(detector), frames(detector), 1, "fp32", "x")


def test_an_artefact_with_fewer_outputs_is_an_error(detector):
    with pytest.raises(VerificationError, match="answers conf, loc; torch answers conf, landmarks, loc"):
        compare(detector, frames(detector), lambda found: found.pop("landmarks"))


def test_an_output_without_a_gate_fails(detector, monkeypatch):
    from fexruntime.contracts import GATES

    monkeypatch.setitem(GATES["fp32"], EDGE, tuple(g for g in GATES["fp32"][EDGE] if g.output != "conf"))
    report = compare(detector, frames(detector))
    assert report.not_compared == ["conf"]
    assert not report.passed


def test_near_ties_are_left_out_of_what_depends_on_them_and_counted(multitask, monkeypatch):
    chips = samples.cases(multitask.network, Choice("multitask-v2", (MULTITASK_CHIP,)))["faces"][0][0][:2]
    margin = multitask_recipes.neighbour_margin

    def with_a_tie(v, k):
        gaps = margin(v, k).clone()
        gaps[0] = 0.0
        return gaps

    def flip(found):
        found["au"][0] += 0.01

    with monkeypatch.context() as patch:
        patch.setattr(multitask_recipes, "neighbour_margin", with_a_tie)
        report = compare(multitask, {"faces": [(chips,)]}, flip, 256)
    assert report.near_ties == 1
    assert report.passed
    assert not compare(multitask, {"faces": [(chips,)]}, flip, 256).passed


def test_every_face_at_a_tie_is_no_pass_and_shown_as_not_compared(multitask, monkeypatch):
    chips = samples.cases(multitask.network, Choice("multitask-v2", (MULTITASK_CHIP,)))["faces"][0][0][:1]
    monkeypatch.setattr(multitask_recipes, "neighbour_margin", lambda v, k: torch.zeros(len(v)))
    report = compare(multitask, {"faces": [(chips,)]}, None, 256)
    assert set(report.not_compared) == {"au", "emotion", "valence_arousal"}
    assert not report.passed
    table = report_table([report.as_json()])
    verdicts = table.cells(7)
    assert verdicts.count("none compared") == 3
    assert "ok" in verdicts


def test_numbers_of_different_size_are_judged_each_by_its_own():
    """X and Y of a pose are a tenth of Z: a share of the common range would let them be off tenfold."""
    expected = np.array([[0, 0, 0, 0.4, -0.6, 12.0]], np.float32)
    found = expected + np.array([[0, 0, 0, 1e-3, 0, 0]], np.float32)
    gate = Gate("pose", "scaled", 1e-4, columns=(3, 4, 5))
    assert difference(gate, expected, found, 1).max() == pytest.approx(1e-3, rel=1e-3)
    with pytest.raises(ValueError, match="has shape"):
        difference(gate, expected, found[:, :5], 1)


def test_published_weights_must_see_the_photographs_face(tmp_path):
    seen = sense.check(open_bundle())
    assert seen["checked"]
    assert seen["iou"] > 0.9


def test_a_network_that_verifies_but_sees_nonsense_is_no_bundle(tmp_path, monkeypatch):
    """Both sides wrong in the same way agree with each other: here a mean that turns every frame black."""
    from fexport import build, plan
    from fexruntime.contracts import NETWORKS, Preprocessing

    row = dataclasses.replace(
        network_row(EDGE), preprocessing=Preprocessing(mean=(255.0, 255.0, 255.0), std=(50.0,) * 3)
    )
    monkeypatch.setitem(NETWORKS, EDGE, row)
    with pytest.raises(VerificationError, match=r"finds no face in a photograph|of score"):
        build.build(plan.plan("faces"), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_modules_are_built_from_their_rows():
    """A mean, a deviation or a size that is written in the code instead would not notice another row."""
    from fexruntime.contracts import Preprocessing, Resize

    chips = np.random.RandomState(0).rand(1, 3, 256, 256).astype(np.float32)
    for name, changes in (
        ("arcface", {"preprocessing": Preprocessing(mean=(9.0, 9.0, 9.0), std=(7.0, 7.0, 7.0))}),
        ("arcface", {"resize": Resize(112, "antialias")}),
        ("facenet", {"preprocessing": Preprocessing(mean=(0.5, 0.5, 0.5))}),
        ("multitask-v28", {"preprocessing": Preprocessing()}),
    ):
        row = network_row(name)
        answers = []
        for now in (row, dataclasses.replace(row, **changes)):
            module = modules.load(now, MULTITASK_CHIP, stand_in_seed=0).module
            with torch.inference_mode():
                outputs = module(torch.from_numpy(chips))
            answers.append((outputs if isinstance(outputs, torch.Tensor) else outputs[0]).numpy())
        assert not np.allclose(*answers), (name, changes)


def test_every_network_has_a_recipe():
    from fexruntime.contracts import NETWORKS

    assert set(RECIPES) == set(NETWORKS)

"""Sensitivities: near-ties are left out as the gate of a build leaves them out."""

from __future__ import annotations

import types

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from fexport import modules, samples, verify
from fexport.networks import multitask_recipes
from fexport.precision import sensitivity
from fexruntime.contracts import MULTITASK_CHIP, Choice, Gate, network_row
from fexruntime.errors import InputError


def test_sensitivities_leave_near_ties_out_of_what_jumps_at_them():
    x, y, z = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 1]) for n in ("x", "au", "pose"))
    nodes = [helper.make_node("Neg", ["x"], ["au"]), helper.make_node("Neg", ["x"], ["pose"])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y, z]), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    network = types.SimpleNamespace(inputs=[types.SimpleNamespace(name="x")])
    case = (np.array([[0.25], [8.0]], np.float32),)
    truth = {"au": np.zeros((2, 1), np.float32), "pose": np.zeros((2, 1), np.float32)}
    au, pose = Gate("au", "probability", 0.5), Gate("pose", "value", 16.0)

    def cost(steady):
        return sensitivity._cost(("part",), 1.0, model, network, 1, {au: steady, pose: None}, [case], [truth])

    free = cost([np.array([True, False])])
    assert free.differences == {"au probability": 0.25, "pose value": 8.0}
    assert free.over_budget == 0.5
    assert cost([np.array([True, True])]).over_budget == 16.0


def test_ties_are_those_of_the_gate(monkeypatch):
    loaded = modules.load(network_row("multitask-v2"), MULTITASK_CHIP, stand_in_seed=1)
    chips = samples.cases(loaded.network, Choice("multitask-v2", (MULTITASK_CHIP,)))["faces"][0][0][:2]
    margin = multitask_recipes.neighbour_margin
    monkeypatch.setattr(
        multitask_recipes,
        "neighbour_margin",
        lambda v, k: margin(v, k) * torch.tensor([0.0, 1.0]) + torch.tensor([0, 1]),
    )
    (steady,), tied = verify.ties(loaded, [(chips,)])
    assert steady.tolist() == [False, True]
    assert "au" in tied


def test_nothing_to_compare_is_no_cheap_part(monkeypatch):
    loaded = types.SimpleNamespace(network=network_row("multitask-v2"))
    monkeypatch.setattr(verify, "ties", lambda loaded, cases: ([np.zeros(1, bool)], ("au",)))
    for name in ("plan_of", "_multiplications", "_parts"):
        monkeypatch.setattr(sensitivity, name, lambda *args: {})
    monkeypatch.setattr(sensitivity.magnitudes, "magnitudes", lambda model, cases: {})
    monkeypatch.setattr(sensitivity.onnx_export, "serialise", lambda model: b"")
    monkeypatch.setattr(sensitivity.session, "onnx_runner", lambda data: lambda case: {})
    chip = (np.zeros((1, 3, 8, 8), np.float32),)
    model = types.SimpleNamespace(graph=types.SimpleNamespace(output=[]))
    with pytest.raises(InputError, match="near a tie, where au cannot be compared: give more pictures"):
        sensitivity.analyse(model, loaded, 8, "fp16", [chip], {})

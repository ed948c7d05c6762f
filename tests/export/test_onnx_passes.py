"""Every pass against the graph it rewrote: same function, fewer or cheaper nodes."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from fexport import modules, onnx_export, onnx_passes, samples, session
from fexport.networks.convnextv2 import GRN, Block
from fexport.networks.multitask import AFG
from fexruntime.contracts import LANDMARK_CROP, MULTITASK_CHIP, Choice, Tensor, network_row
from fexruntime.errors import VerificationError


def randomise(module):
    generator = torch.Generator().manual_seed(0)
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if value.is_floating_point():
            low, high = (0.5, 1.5) if "running_var" in name else (-0.5, 0.5)
            value.data = torch.empty_like(value).uniform_(low, high, generator=generator)
    return module.eval()


def exported(module, shape):
    axes = ("items", *shape)
    example = torch.from_numpy(np.random.RandomState(0).standard_normal((3, *shape)).astype(np.float32))
    out = module(example)
    return onnx_export.export(
        module, (example,), [Tensor("x", axes, "")], [Tensor("y", ("items", *out.shape[1:]), "")]
    ), example


class PReLUs(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.Conv2d(8, 4, 1), nn.PReLU(4))


class LinearNorm(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(5 * 36, 7), nn.BatchNorm1d(7))


class Normalised(nn.Module):
    def __init__(self):
        super().__init__()
        self.grn = GRN(16)

    def forward(self, x):
        return self.grn(x)


class ShiftedLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.grn, self.fc = GRN(16), nn.Linear(16, 8)

    def forward(self, x):
        return self.fc(self.grn(x))


class PadsAtTheEnd(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2)

    def forward(self, x):
        return self.conv(nn.functional.pad(x, (0, 1, 0, 1)))


class Halves(nn.Module):
    """Weights that are float16 numbers, whatever they are filled with."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 3)

    def forward(self, x):
        weight, bias = (p.half().float() for p in (self.conv.weight, self.conv.bias))
        return nn.functional.conv2d(x, weight, bias).reshape(-1, 32, 36)


class MoreChannels(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 9, 3, padding=1)

    def forward(self, x):
        pad = nn.functional.pad
        y = torch.relu(self.a(x) + pad(x, (0, 0, 0, 0, 0, 2)))
        return self.b(y) + pad(y, (0, 0, 0, 0, 0, 4))


class FewChannels(nn.Module):
    """5 to 7 channels is within a block of 16, 7 to 18 is into the next one."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1, groups=5)
        self.c, self.d, self.e = nn.Conv2d(5, 7, 1), nn.Conv2d(7, 18, 1), nn.Conv2d(18, 4, 1)

    def forward(self, x):
        pad = nn.functional.pad
        y = torch.relu(self.a(x))
        y = nn.functional.max_pool2d(torch.relu(self.c(self.b(y)) + pad(y, (0, 0, 0, 0, 0, 2))), 2)
        return self.e(torch.relu(self.d(y) + pad(y, (0, 0, 0, 0, 0, 11))))


class ChannelsLast(nn.Module):
    """A block whose maps are [B,H,W,C] between two convolutions, and which something reads in that form."""

    def __init__(self):
        super().__init__()
        self.first, self.block, self.last = nn.Conv2d(3, 8, 3), Block(8), nn.Conv2d(8, 4, 2)

    def forward(self, x):
        y = self.block(self.first(x).permute(0, 2, 3, 1))
        rows = torch.softmax(y, dim=2).flatten(1)  # the pass knows neither
        return self.last(y.permute(0, 3, 1, 2)).flatten(1) + rows[:, :100]


CASES = {
    "channels-first": (ChannelsLast, (3, 8, 8), "MatMul", 2),
    "pad-in-conv": (PadsAtTheEnd, (3, 8, 8), "Pad", 2),  # its amounts, and the padding itself
    "float16-constants": (Halves, (3, 8, 8), "Constant", 2),
    "channels-in-blocks": (FewChannels, (3, 8, 8), "Pad", 1),
    "channels-in-conv": (MoreChannels, (3, 8, 8), "Pad", 2),
    "prelu-as-sum": (PReLUs, (3, 8, 8), "PRelu", 2),
    "prelu-as-depthwise": (PReLUs, (3, 8, 8), "PRelu", 2),
    "fold-batch-norm": (LinearNorm, (3, 8, 8), "BatchNormalization", 1),
    "fold-shift": (ShiftedLinear, (6, 6, 16), "Add", 1),
    "grn-as-matmul": (Normalised, (6, 6, 16), "ReduceL2", 1),
    "fuse-parallel-convs": (lambda: AFG(12, 5), (12, 4, 4), "Concat", 1),
}
LEFT = {"fold-shift": 3, "channels-in-blocks": 1 + 9}
"""Operations of that kind that are something else: GRN's two other additions, the layer's bias; the Pad into the next block, and
those of five layers' weights and biases (the last has channels more to read alone)."""
FIRST = {"channels-in-blocks": "pad-in-conv", "channels-in-conv": "pad-in-conv"}
"""By pass: the one before it, which makes plain constants of what the exporter computes in the graph."""


def test_every_pass_has_a_case():
    assert set(CASES) == set(onnx_passes.PASSES)


@pytest.mark.parametrize("name", CASES)
def test_a_pass_keeps_the_function_and_rewrites_every_place(name):
    make, shape, gone, places = CASES[name]
    model, example = exported(randomise(make()), shape)
    onnx_passes.apply(model, [FIRST[name]] if name in FIRST else [])
    assert gone in Counter(n.op_type for n in model.graph.node)
    rewritten = copy.deepcopy(model)
    assert onnx_passes.apply(rewritten, [name]) == {name: places}
    assert Counter(n.op_type for n in rewritten.graph.node)[gone] == LEFT.get(name, 0)
    before, after = (session.onnx_runner(m.SerializeToString())((example.numpy(),))["y"] for m in (model, rewritten))
    assert np.abs(before - after).max() <= 2e-6 * np.ptp(before)
    one = session.onnx_runner(rewritten.SerializeToString())((example.numpy()[:1],))["y"]
    assert np.abs(before[:1] - one).max() <= 2e-6 * np.ptp(before)


@pytest.mark.parametrize("name", CASES)
def test_a_second_run_finds_nothing(name):
    make, shape, _, _ = CASES[name]
    model, _ = exported(randomise(make()), shape)
    onnx_passes.apply(model, [*([FIRST[name]] if name in FIRST else []), name])
    assert onnx_passes.apply(model, [name]) == {}


@pytest.mark.parametrize("counted", ["mean", "constant"])
def test_channels_that_somebody_counts_are_not_widened(counted):
    """A mean over channels, a constant that is added to each: zeros would change them, or no longer be zeros."""

    class Counted(FewChannels):
        def forward(self, x):
            y = self.a(x)
            y = torch.relu(self.c(y) + nn.functional.pad(y, (0, 0, 0, 0, 0, 2)))
            if counted == "constant":
                return self.d(y + torch.ones(y.shape[1], 1, 1))
            return self.d(y) + y.mean(1, keepdim=True)

    model, _ = exported(randomise(Counted()), (3, 8, 8))
    onnx_passes.apply(model, ["pad-in-conv"])
    assert onnx_passes.apply(model, ["channels-in-blocks"]) == {}


def test_convolutions_of_different_inputs_are_left_alone():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return torch.stack([torch.relu(self.a(x)).mean((2, 3)), torch.relu(self.b(x * 2)).mean((2, 3))], 1)

    model, _ = exported(Two(), (4, 3, 3))
    assert onnx_passes.apply(model, ["fuse-parallel-convs"]) == {}


@pytest.mark.parametrize("options", [{"stride": 2}, {"padding": 1}, {"groups": 2}])
def test_convolutions_that_are_no_plain_product_are_left_alone(options):
    """A fused convolution has no strides, padding or groups: these would become another function."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (nn.Conv2d(4, 4, 1, **options) for _ in range(2))

        def forward(self, x):
            return torch.stack([torch.relu(conv(x)).mean((2, 3)) for conv in (self.a, self.b)], 1)

    model, _ = exported(randomise(Two()), (4, 6, 6))
    assert onnx_passes.apply(model, ["fuse-parallel-convs"]) == {}


def test_prelus_that_share_their_slopes_are_all_rewritten():
    """The exporter gives one of two equal constants an Identity of the other."""
    module = randomise(nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.Conv2d(8, 8, 1), nn.PReLU(8)))
    module[3].weight.data = module[1].weight.data.clone()
    model, example = exported(module, (3, 8, 8))
    before = session.onnx_runner(model.SerializeToString())((example.numpy(),))["y"]
    assert onnx_passes.apply(model, ["prelu-as-depthwise"]) == {"prelu-as-depthwise": 2}
    after = session.onnx_runner(model.SerializeToString())((example.numpy(),))["y"]
    assert np.abs(before - after).max() <= 2e-6 * np.ptp(before)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("multitask-v28", {"fold-shift": 18, "fuse-parallel-convs": 1, "grn-as-matmul": 18}),
        ("multitask-v28 in OpenVINO", {"fold-shift": 18, "fuse-parallel-convs": 1, "channels-first": 36}),
        ("arcface", {"fold-batch-norm": 1, "prelu-as-sum": 25}),
        ("mobilefacenet", {"prelu-as-sum": 33}),
    ],
)
def test_whole_networks_keep_their_function(name, expected):
    name, _, own = name.partition(" in ")
    row = network_row(name)
    crop = LANDMARK_CROP if name == "mobilefacenet" else MULTITASK_CHIP
    module = modules.load(row, crop, stand_in_seed=0).module
    chips = samples.cases(row, Choice(name, (crop,)))["faces"][0][0][:2]
    inputs = [replace(t, shape=tuple(crop.size if a == "chip" else a for a in t.shape)) for t in row.inputs]
    model = onnx_export.export(module, (torch.from_numpy(chips),), inputs, row.outputs)
    plain = session.onnx_runner(onnx_export.serialise(model))((chips,))
    done = onnx_passes.apply(model, onnx_passes.FOR_OPENVINO if own else onnx_passes.FOR_ANY)
    assert expected.items() <= done.items()
    rewritten = session.onnx_runner(onnx_export.serialise(model))((chips,))
    for output, value in plain.items():
        assert np.abs(value - rewritten[output]).max() <= 5e-6 * max(np.ptp(value), 1e-3), output


def test_a_custom_operator_is_refused():
    model, _ = exported(randomise(PReLUs()), (3, 8, 8))
    model.graph.node[0].domain = "com.microsoft"
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(VerificationError, match=r"com\.microsoft"):
        onnx_passes.apply(model, [])


def test_a_map_at_the_graphs_edge_stays_as_it_was():
    """Channels last at the edge: rewritten inside, transposed on the way out."""

    class Edge(ChannelsLast):
        def forward(self, x):
            y = self.block(self.first(x).permute(0, 2, 3, 1))
            return y - y.mean((-2, 1), keepdim=True)  # axes counted from either end

    model, example = exported(randomise(Edge()), (3, 8, 8))
    before = session.onnx_runner(model.SerializeToString())((example.numpy(),))["y"]
    assert onnx_passes.apply(model, ["channels-first"]) == {"channels-first": 2}
    after = session.onnx_runner(model.SerializeToString())((example.numpy(),))["y"]
    assert after.shape == before.shape
    assert np.abs(before - after).max() <= 2e-6 * np.ptp(before)

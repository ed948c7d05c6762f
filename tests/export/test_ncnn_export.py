"""Each operator of the ncnn writer against torch, and what ncnn cannot hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fexport import modules, ncnn_export, onnx_export
from fexruntime.contracts import LANDMARK_CROP, Tensor, network_row

ncnn = pytest.importorskip("ncnn", reason="no ncnn here: its artefacts were not checked")


class Pyramid(nn.Module):
    """The finder's shapes: odd maps, an up-sampling to another map's size, heads joined by anchors."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        fine = F.leaky_relu(self.a(x), 0.1)
        coarse = torch.relu(self.b(fine))
        fine = fine + F.interpolate(coarse, size=fine.shape[2:], mode="nearest")
        heads = [self.head(m).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 2) for m in (fine, coarse)]
        return F.softmax(torch.cat(heads, 1), -1)


class Normed(nn.Module):
    """A batch norm before a padded convolution, PReLU, grouped convolution, pooling, a branch."""

    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 6, 3, 1, 1)
        self.prelu = nn.PReLU(6)
        self.depthwise = nn.Conv2d(6, 6, 3, 1, 1, groups=6, bias=False)
        self.out = nn.Linear(6 * 4 * 5, 7)

    def forward(self, x):
        y = self.prelu(self.conv(self.bn(x)))
        y = F.max_pool2d(self.depthwise(y) + y, 3, 2, 1)
        return self.out(y.flatten(1))


class Resized(nn.Module):
    """Resizing as products from both sides, a mean and a deviation a channel."""

    def __init__(self):
        super().__init__()
        self.register_buffer("m", torch.rand(5, 9))
        self.register_buffer("mean", torch.rand(1, 3, 1, 1))
        self.register_buffer("std", torch.rand(1, 3, 1, 1) + 0.5)
        self.conv = nn.Conv2d(3, 4, (3, 1), (2, 1), (0, 0), (1, 1), bias=False)

    def forward(self, x):
        return self.conv((self.m.matmul(x).matmul(self.m.t()) - self.mean) / self.std)


class Masked(nn.Module):
    """A transposed convolution joined with what it skips, a softmax over the channels, an expectation over a vector."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 6, 3, 1, 1), nn.ConvTranspose2d(6, 4, 2, 2)
        self.join, self.out = nn.Conv2d(10, 6, 1), nn.Linear(6, 5)
        self.register_buffer("steps", torch.arange(5.0)[:, None])

    def forward(self, x):
        x = torch.relu(self.down(x))
        mask = F.softmax(self.join(torch.cat([self.up(F.max_pool2d(x, 2)), x], 1)), 1)
        return F.softmax(self.out((x * (mask + 1.0)).mean((2, 3))), 1) @ self.steps


def run(model, value, names=("y",)):
    param, weights = ncnn_export.convert(model)
    assert (param, weights) == ncnn_export.convert(model)
    folder = pytest.folder
    (folder / "x.param").write_bytes(param)
    (folder / "x.bin").write_bytes(weights)
    net = ncnn.Net()
    for option in ("use_fp16_storage", "use_fp16_arithmetic", "use_fp16_packed", "use_bf16_storage"):
        setattr(net.opt, option, False)
    assert net.load_param(str(folder / "x.param")) == 0
    assert net.load_model(str(folder / "x.bin")) == 0
    found = []
    for item in value:
        extractor = net.create_extractor()
        extractor.input("x", ncnn.Mat(np.ascontiguousarray(item)).clone())
        found.append({name: np.array(extractor.extract(name)[1]) for name in names})
    return [np.stack([f[name] for f in found]) for name in names]


@pytest.fixture(autouse=True)
def _folder(tmp_path):
    pytest.folder = tmp_path
    yield
    del pytest.folder


def exported(module, shape, dynamic=()):
    torch.manual_seed(0)
    for value in (*module.parameters(), *module.buffers()):
        if value.is_floating_point():
            value.data = torch.rand_like(value) + 0.2 if value.ndim == 1 else torch.randn_like(value) * 0.4
    example = torch.randn(2, *shape)
    axes = ("n", *(f"d{k}" if k in dynamic else size for k, size in enumerate(shape)))
    out = module.eval()(example)
    outputs = [Tensor("y", ("n", *(f"o{k}" if dynamic else size for k, size in enumerate(out.shape[1:]))), "")]
    return onnx_export.export(module, (example,), [Tensor("x", axes, "")], outputs)


@pytest.mark.parametrize("size", [(17, 23), (16, 16), (9, 40)])
def test_a_pyramid_of_any_size(size):
    module = Pyramid()
    model = exported(module, (3, 32, 24), dynamic=(1, 2))
    value = np.random.RandomState(1).randn(2, 3, *size).astype(np.float32)
    with torch.inference_mode():
        expected = module(torch.from_numpy(value)).numpy()
    (found,) = run(model, value)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize(("make", "shape"), [(Normed, (3, 8, 10)), (Resized, (3, 9, 9)), (Masked, (3, 8, 12))])
def test_operators(make, shape):
    module = make()
    model = exported(module, shape)
    value = np.random.RandomState(1).randn(3, *shape).astype(np.float32)
    with torch.inference_mode():
        expected = module(torch.from_numpy(value)).numpy()
    (found,) = run(model, value)
    assert np.abs(found - expected).max() <= 1e-5 * np.ptp(expected)


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.GELU()), "no layer for Erf|no layer for Div|wants"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2, 2, ceil_mode=True)), "rounds up"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2, mode="bilinear")), "nearest pixel"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softmax(3)), "over the last axis"),
    ],
)
def test_what_ncnn_has_no_layer_for_is_said(module, says):
    model = exported(module, (3, 8, 8))
    with pytest.raises(ncnn_export.NotHeldError, match=says):
        ncnn_export.convert(model)


@pytest.mark.parametrize(("name", "output"), [("mobilefacenet", "landmarks"), ("facenet", "embedding")])
def test_whole_networks(name, output):
    row = network_row(name)
    loaded = modules.load(row, LANDMARK_CROP, stand_in_seed=0)
    chips = np.random.RandomState(0).rand(2, 3, 112, 112).astype(np.float32)
    inputs = [Tensor("x", ("faces", 3, 112, 112), "")]
    model = onnx_export.export(loaded.module, (torch.from_numpy(chips),), inputs, row.outputs)
    with torch.inference_mode():
        expected = loaded.module(torch.from_numpy(chips)).numpy()
    (found,) = run(model, chips, (output,))
    assert np.abs(found - expected).max() <= 2e-6 * np.ptp(expected)


def test_a_network_that_cannot_be_held_names_the_operator():
    row = network_row("pose-mlp")
    loaded = modules.load(row, LANDMARK_CROP, stand_in_seed=0)
    model = onnx_export.export(loaded.module, (torch.randn(2, 68, 2),), row.inputs, row.outputs)
    with pytest.raises(ncnn_export.NotHeldError, match="ReduceMean"):
        ncnn_export.convert(model)


@pytest.mark.parametrize("size", [(17, 23), (16, 16), (9, 40), (31, 8)])
@pytest.mark.parametrize("kernel", [3, 7])
@pytest.mark.parametrize("pad", [0, 1, 3])
def test_stems_are_convolved_on_quarters(kernel, pad, size):
    module = nn.Sequential(nn.Conv2d(3, 8, kernel, stride=2, padding=pad), nn.ReLU())
    model = exported(module, (3, 32, 24), dynamic=(1, 2))
    kinds = [line.split()[0] for line in ncnn_export.convert(model)[0].decode().splitlines()[2:]]
    assert kinds[:4] == ["Input", "Padding", "Reorg", "Convolution"]
    value = np.random.RandomState(1).randn(2, 3, *size).astype(np.float32)
    with torch.inference_mode():
        expected = module(torch.from_numpy(value)).numpy()
    (found,) = run(model, value)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-5 * np.ptp(expected)

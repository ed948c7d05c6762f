"""Each rule of the TensorRT lint on a graph that breaks it and on one that does not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from command import fexport, refused
from onnx import TensorProto, helper, numpy_helper

from fexport.tensorrt_lint import lint
from fexruntime.bundle import PACKAGED, packaged_path
from fexruntime.errors import InputError

F = TensorProto.FLOAT


def model(nodes, constants=None, opset=17, kind=F, shape=(1, 8)):
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()]
    edges = [helper.make_tensor_value_info(n, kind, shape) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", edges[:1], edges[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def node(kind, *inputs, **attributes):
    return helper.make_node(kind, ["x", *inputs], ["y"], name="n", **attributes)


ZERO = np.int8(0)


def qdq(scale=0.1, zero=ZERO, scale_type=np.float32, **more):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q", **more),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], name="d", **more),
    ]
    return model(nodes, {"s": np.asarray(scale, scale_type), "z": np.asarray(zero)})


AXES = {"a": np.array([1], np.int64)}
BROKEN = [
    ("opset", "8.6", model([node("Relu")], opset=18)),
    ("opset", "10.3", model([node("Relu")], opset=21)),
    ("opset", "11.4", model([node("Relu")], opset=26)),
    ("axes", "8.6", model([node("ReduceL2", "a")], AXES, opset=18)),
    ("operator", "8.6", model([helper.make_node("Relu", ["x"], ["y"], domain="com.microsoft")])),
    ("operator", "10.16", model([node("RoiAlign", "r", "b")])),
    ("operator", "11.4", model([node("NonZero")])),
    ("operator", "10.3", model([node("ScatterElements", "i", "u", reduction="add")])),
    ("resize", "11.4", model([node("Resize", "", "s", antialias=1)], opset=18)),
    ("einsum", "8.6", model([node("Einsum", equation="ii->i")])),
    ("einsum", "8.6", model([node("Einsum", equation="...i->...")])),
    ("topk", "8.6", model([helper.make_node("TopK", ["x", "k"], ["y", "i"])], {"k": np.array([3841], np.int64)})),
    ("topk", "8.6", model([helper.make_node("TopK", ["x", "x"], ["y", "i"])])),
    ("edge", "8.6", model([node("Relu")], kind=TensorProto.INT64)),
    ("edge", "11.4", model([node("Relu")], kind=TensorProto.UINT8)),
    ("qdq", "8.6", qdq(zero=np.uint8(0))),
    ("qdq", "8.6", qdq(zero=np.int32(0))),
    ("qdq", "11.4", qdq(zero=np.int8(3))),
    ("qdq", "8.6", qdq(scale=0.0)),
    ("qdq", "8.6", qdq(scale_type=np.float16)),
    ("qdq", "10.3", qdq(scale=[0.1] * 8, zero=np.zeros(8, np.int8), axis=1)),
    ("qdq", "8.6", model([node("QuantizeLinear", "s")], {"s": np.float32(1)})),
    ("qdq", "8.6", model([node("QuantizeLinear", "x", "x")])),
]
SOUND = [
    ("8.6", model([node("ReduceMean", axes=[1])])),
    ("10.3", model([node("ReduceL2", "a")], AXES, opset=18)),
    ("8.6", model([node("ReduceSum", "a")], AXES)),
    ("10.3", qdq(scale_type=np.float16)),
    ("8.6", qdq()),
    ("8.6", model([helper.make_node("TopK", ["x", "k"], ["y", "i"])], {"k": np.array([3840], np.int64)})),
    ("8.6", model([node("Einsum", equation="ij->ji")])),
    ("8.6", model([node("ScatterElements", "i", "u")])),
]


@pytest.mark.parametrize(
    ("rule", "version", "graph"), BROKEN, ids=[f"{r}-{v}-{k}" for k, (r, v, _) in enumerate(BROKEN)]
)
def test_a_broken_rule_is_found_and_named(rule, version, graph):
    assert rule in {finding.rule for finding in lint(graph, version)}


@pytest.mark.parametrize(("version", "graph"), SOUND)
def test_what_is_sound_passes(version, graph):
    assert lint(graph, version) == []


def test_weights_may_be_quantised_by_channel():
    nodes = [
        helper.make_node("QuantizeLinear", ["w", "s", "z"], ["q"], axis=0),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], axis=0),
        node("MatMul", "d"),
    ]
    constants = {"w": np.ones((8, 8), np.float32), "s": np.full(8, 0.1, np.float32), "z": np.zeros(8, np.int8)}
    assert lint(model(nodes, constants)) == []


def test_nodes_inside_of_branches_are_looked_at():
    branch = helper.make_graph(
        [helper.make_node("NonZero", ["x"], ["b"])], "t", [], [helper.make_tensor_value_info("b", F, None)]
    )
    assert [f.rule for f in lint(model([node("If", then_branch=branch, else_branch=branch)]))] == ["operator"] * 2


@pytest.mark.parametrize("name", PACKAGED)
@pytest.mark.parametrize("version", ["8.6", "10.3", "10.16", "11.4"])
def test_packaged_graphs_pass(name, version):
    graphs = sorted(packaged_path(name).glob("*.onnx"))
    assert graphs
    for path in graphs:
        assert lint(onnx.load(path), version) == []


@pytest.mark.parametrize("text", ["8.5", "9.1", "10.0", "12.0", "new", ""])
def test_versions_without_rules_are_refused(text):
    with pytest.raises(InputError, match="no rules for TensorRT"):
        lint(model([node("Relu")]), text)


def test_the_command_says_what_it_found(tmp_path):
    good, bad = tmp_path / "good.onnx", tmp_path / "bad.onnx"
    onnx.save(model([node("Relu")]), good)
    onnx.save(model([node("ReduceL2", "a")], AXES, opset=18), bad)
    done = fexport("lint", good)
    assert (done.returncode, "0 findings" in done.stdout) == (0, True), done.stderr
    done = fexport("lint", bad, "--tensorrt", "8.6")
    assert done.returncode == 1
    assert "reduce over every axis" in done.stdout
    assert "2 findings" in done.stdout
    assert fexport("lint", bad, "--tensorrt", "10.16").returncode == 0
    (tmp_path / "text.onnx").write_text("no model", encoding="utf-8")
    refused(fexport("lint", tmp_path / "text.onnx"), "is not an ONNX model")
    refused(fexport("lint", tmp_path / "none.onnx"), "cannot read")
    refused(fexport("lint", good, "--tensorrt", "7"), "no rules for TensorRT '7'")

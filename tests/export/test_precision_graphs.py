"""Graphs in lower precisions: plans, casts, what float16 can hold, int8 graphs; on the packaged detector, whose weights are real."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from fexcalibration import ranges
from fexport import modules, onnx_graph, samples, session, steps
from fexport.plan import plan
from fexport.precision import cast, lower, magnitudes, quantise, smooth
from fexport.precision.plan import PrecisionPlan, plan_of
from fexruntime.contracts.precision import FULL, PRECISIONS
from fexruntime.errors import VerificationError

NETWORK = "retinaface-mobilenet025"
CASES = samples.cases


@pytest.fixture(scope="module")
def detector():
    """(part, loaded, {precision: prepared graph}) of the packaged detector."""
    part = plan("faces").parts["faces"]
    loaded = modules.load(part.network, None)
    plain = steps.exported(loaded, part.choice)
    return part, loaded, {p: lower.prepared(plain, p)[0] for p in PRECISIONS[1:]}


def _types(model):
    inferred = onnx.shape_inference.infer_shapes(model)
    values = (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input)
    return {v.name: v.type.tensor_type.elem_type for v in values}


def test_every_node_has_a_type_and_a_reason(detector):
    _, _, graphs = detector
    for precision, model in graphs.items():
        found = plan_of(model, NETWORK, precision)
        assert set(found.types) == {n.name for n in model.graph.node}
        assert set(found.types.values()) == {FULL, precision}
        assert all(found.why[name] for name in found.types)
        softmax = next(n.name for n in model.graph.node if n.op_type == "Softmax")
        assert found.types[softmax] == FULL
        said = json.loads(found.as_json())
        assert sum(len(names) for by in said["nodes"].values() for names in by.values()) == len(found.types)


def test_float16_is_where_the_plan_says_and_nowhere_else(detector):
    part, loaded, graphs = detector
    found = plan_of(graphs["fp16"], NETWORK, "fp16")
    model = cast.lowered(graphs["fp16"], found)
    types = _types(model)
    assert all(types[v.name] == TensorProto.FLOAT for v in (*model.graph.input, *model.graph.output))
    computed = {
        n.name: types.get(n.output[0]) for n in model.graph.node if n.name in found.types and n.op_type == "Conv"
    }
    assert computed
    for name, kind in computed.items():
        assert kind == (TensorProto.FLOAT16 if found.types[name] == "fp16" else TensorProto.FLOAT), name
    assert model.opset_import[0].version == 17
    ours = session.onnx_runner(model.SerializeToString())
    whole = session.onnx_runner(graphs["fp16"].SerializeToString())
    for case in CASES(loaded.network, part.choice)["faces"][:2]:
        exact, low = whole(case), ours(case)
        assert np.abs(exact["conf"] - low["conf"]).max() < 0.01
        assert max(np.abs(exact[n] - low[n]).max() for n in exact) < 0.2  # box deltas, of a scale of 10
        assert any(not np.array_equal(exact[n], low[n]) for n in exact)


def test_our_casts_err_no_more_than_onnxruntimes_converter(detector):
    from onnxruntime.transformers.float16 import convert_float_to_float16

    part, loaded, graphs = detector
    model = graphs["fp16"]
    ours = cast.lowered(model, plan_of(model, NETWORK, "fp16"))
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    theirs = convert_float_to_float16(copy, keep_io_types=True)
    case = CASES(loaded.network, part.choice)["faces"][0]
    exact, a, b = (session.onnx_runner(m.SerializeToString())(case) for m in (model, ours, theirs))
    for name in exact:
        error, other = (float(np.abs(exact[name] - low[name]).mean()) for low in (a, b))
        assert error <= 1.2 * other, name
        assert np.abs(a[name] - b[name]).max() < 0.05


def test_bfloat16_weights_are_rounded_as_torch_rounds_them():
    values = np.random.RandomState(0).standard_normal(5000).astype(np.float32)
    weights = numpy_helper.from_array(values, "w")
    node = helper.make_node("Add", ["x", "w"], ["y"], name="add")
    io = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [5000]) for n in "xy"]
    model = helper.make_model(
        helper.make_graph([node], "g", io[:1], io[1:], [weights]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    lowered = cast.lowered(model, cast.PrecisionPlan("bf16", {"add": "bf16"}, {"add": "test"}))
    (kept,) = lowered.graph.initializer
    assert kept.data_type == TensorProto.BFLOAT16
    found = session.onnx_runner(lowered.SerializeToString())((np.zeros(5000, np.float32),))["y"]
    assert np.array_equal(found, torch.from_numpy(values).bfloat16().float().numpy())


def test_what_would_overflow_float16_stays_in_fp32_or_fails_the_build(detector):
    part, loaded, graphs = detector
    model = graphs["fp16"]
    case = CASES(loaded.network, part.choice)["faces"][0]
    loud = (case[0] * np.float32(1e5),)
    # seen while calibrating: kept out
    reached = magnitudes.magnitudes(model, [loud])
    assert max(reached.values()) > 65504
    found = plan_of(model, NETWORK, "fp16", reached)
    magnitudes.check_range(model, found, reached)
    assert any("float16 ends at 65504" in why for why in found.why.values())
    # seen only on faces that nothing was measured on: no bundle
    with pytest.raises(VerificationError, match="would overflow in float16"):
        lower.Lowering(part, loaded, model, "fp16", lower.Faces((), [loud])).plan_of(model, "fp16")


def test_hidden_sums_of_squares_are_looked_at():
    node = helper.make_node("ReduceL2", ["x"], ["y"], name="norm", axes=[1], keepdims=1)
    io = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1]),
    ]
    model = helper.make_model(
        helper.make_graph([node], "g", io[:1], io[1:]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    reached = magnitudes.magnitudes(model, [(np.full((1, 64), 100.0, np.float32),)])
    assert reached["y"] < 65504 < reached["y" + magnitudes.SQUARES]
    with pytest.raises(VerificationError, match=r"reaches 6.4e\+05"):
        magnitudes.check_range(model, cast.PrecisionPlan("fp16", {"norm": "fp16"}, {"norm": "test"}), reached)


def test_evening_out_changes_nothing_in_fp32(detector):
    part, loaded, graphs = detector
    model = onnx.ModelProto()
    model.CopyFrom(graphs["int8"])
    found = plan_of(model, NETWORK, "int8")
    case = CASES(loaded.network, part.choice)["faces"][0]
    before = session.onnx_runner(model.SerializeToString())(case)
    layers = {n.input[0]: axis for n, axis, _ in smooth._layers(model, found)}
    reach = {name: list(v) for name, v in ranges.channel_maxima(model, [case], layers).items()}
    assert smooth.smooth(model, found, reach) > 10
    onnx_graph.check(model)
    after = session.onnx_runner(model.SerializeToString())(case)
    for name in before:
        assert np.abs(before[name] - after[name]).max() < 1e-3 * max(1.0, np.abs(before[name]).max())


@pytest.mark.parametrize("readers", [1, 2])
def test_a_factor_of_each_channel_takes_the_evening_in(readers):
    """GRN's product is one with a number a channel already: no pass over the map for another, unless others read the product."""
    weights = numpy_helper.from_array(np.random.RandomState(0).randn(5, 4, 1, 1).astype(np.float32), "w")
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], name="mean", axes=[2, 3]),
        helper.make_node("Mul", ["x", "mean"], ["y"], name="factor"),
        helper.make_node("Conv", ["y", "w"], ["z"], name="layer"),
        helper.make_node("Tanh", ["y"], ["other"], name="other"),
    ][: 2 + readers]
    x, *outputs = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, "h", "w"])
        for name, channels in (("x", 4), ("z", 5), ("other", 4))[: 1 + readers]
    )
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], outputs, [weights]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    given = (np.random.RandomState(1).rand(2, 4, 3, 5).astype(np.float32),)
    before = session.onnx_runner(model.SerializeToString())(given)
    kinds = {n.name: "int8" if n.name == "layer" else FULL for n in nodes}
    assert smooth.smooth(model, PrecisionPlan("int8", kinds, {}), {"y": [0.1, 1.0, 10.0, 100.0]}) == 1
    onnx_graph.check(model)
    after = session.onnx_runner(model.SerializeToString())(given)
    for name, value in before.items():
        assert np.allclose(value, after[name], rtol=1e-5, atol=1e-6)
    graph = onnx_graph.Graph(model)
    (layer,) = graph.consumers["y.evened.0"]
    assert layer.name == "layer"
    made_by = graph.producer["y.evened.0"]
    assert (made_by.name, *made_by.input) == (
        ("factor", "x", "y.evened.0.by.all") if readers == 1 else ("layer/even", "y", "y.evened.0.by")
    )


def test_int8_graphs_hold_their_plan(detector):
    part, loaded, graphs = detector
    model = graphs["int8"]
    found = plan_of(model, NETWORK, "int8")
    case = CASES(loaded.network, part.choice)["faces"][0]
    measured = {
        n: by["minmax"] for n, by in ranges.measure(model, [case], quantise.tensors_to_calibrate(model, found)).items()
    }
    for symmetric in (False, True):
        lowered = quantise.quantised(model, found, measured, symmetric)
        graph = onnx_graph.Graph(lowered)
        for node in graph.proto.node:
            if node.op_type != "Conv":
                continue
            source = graph.producer.get(node.input[0])
            low = source is not None and source.op_type == "DequantizeLinear"
            if node.name in found.lowered:
                assert low, node.name
            elif low:  # only what an int8 node gave is rounded for it
                rounded = graph.producer[graph.producer[source.input[0]].input[0]]
                assert rounded.name in found.lowered, node.name
        zeros = [t for t in lowered.graph.initializer if "zero_point" in t.name]
        kinds = {t.data_type for t in zeros}
        if symmetric:
            assert TensorProto.UINT8 not in kinds
            assert all(not numpy_helper.to_array(t).any() for t in zeros)
        else:
            assert TensorProto.UINT8 in kinds
    with pytest.raises(VerificationError, match="has no calibrated range"):
        quantise.quantised(model, found, {})


def test_int8_products_answer_floats_on_cpus():
    """What fp32 nodes read of a product is not rounded to int8 first; ONNX Runtime fuses it all the same."""
    rng = np.random.RandomState(0)
    weights = numpy_helper.from_array(rng.randn(16, 32).astype(np.float32), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"], name="fc"),
        helper.make_node("Tanh", ["y"], ["z"], name="act"),
    ]
    edge = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 8, c]) for n, c in (("x", 16), ("z", 32))]
    model = helper.make_model(
        helper.make_graph(nodes, "product", edge[:1], edge[1:], [weights]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    plan_ = PrecisionPlan("int8", {"fc": "int8", "act": FULL}, {"fc": "", "act": ""})
    measured = {"x": (-1.0, 1.0), "y": (-8.0, 8.0)}
    for symmetric, rounded in ((False, 0), (True, 1)):
        graph = onnx_graph.Graph(quantise.quantised(model, plan_, measured, symmetric))
        (product,) = (n for n in graph.proto.node if n.op_type == "MatMul")
        readers = [n.op_type for n in graph.consumers[product.output[0]]]
        assert readers.count("QuantizeLinear") == rounded
    x = rng.rand(1, 8, 16).astype(np.float32) * 2 - 1
    low = session.onnx_runner(quantise.quantised(model, plan_, measured).SerializeToString())((x,))["z"]
    assert np.abs(low - np.tanh(x @ numpy_helper.to_array(weights))).max() < 0.05


def test_facemesh_in_int8_keeps_its_stem_depthwise_layers_and_heads_in_fp32():
    todo = plan("facemesh")
    part = todo.parts["mesh"]
    loaded = modules.load(part.network, part.choice.crop, todo.weights)
    model, _ = lower.prepared(steps.exported(loaded, part.choice), "int8")
    graph = onnx_graph.Graph(model)
    found = plan_of(model, part.network.name, "int8")
    low = [n for n in model.graph.node if n.name in found.lowered]
    assert {n.op_type for n in low} == {"Conv"}
    kernels = [graph.value(n.input[1]).shape for n in low]
    assert len(kernels) == 12
    assert all(shape[2:] == (1, 1) and min(shape[:2]) >= 16 and shape[0] >= 32 for shape in kernels)


def test_int8_weights_have_a_scale_for_each_output_wherever_an_operator_has_its_outputs():
    """And fp32 arithmetic: the answer is that of weights rounded by hand; small and grouped ones are left alone."""
    rng = np.random.RandomState(0)
    reach = np.geomspace(0.01, 10, 64)

    def weights(name, shape, outputs):
        value = rng.randn(*shape) * np.expand_dims(reach, tuple(a for a in range(len(shape)) if a != outputs))
        return numpy_helper.from_array(value.astype(np.float32), name)

    given = {
        "conv": weights("conv", (64, 64, 1, 1), 0),
        "depthwise": weights("depthwise", (64, 1, 9, 9), 0),
        "rows": weights("rows", (64, 64), 0),
        "columns": weights("columns", (64, 64), 1),
        "product": weights("product", (64, 64), 1),
        "small": weights("small", (64, 4), 0),
    }
    nodes = [
        helper.make_node("Conv", ["x", "conv"], ["a"], "conv"),
        helper.make_node("Conv", ["a", "depthwise"], ["b"], "depthwise", group=64),
        helper.make_node("Flatten", ["b"], ["c"], "flat"),
        helper.make_node("Gemm", ["c", "rows"], ["d"], "rows", transB=1),
        helper.make_node("Gemm", ["d", "columns"], ["e"], "columns"),
        helper.make_node("MatMul", ["e", "product"], ["f"], "product"),
        helper.make_node("MatMul", ["f", "small"], ["y"], "small"),
    ]
    edge = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 64, 9, 9]), ("y", [1, 4]))]
    model = helper.make_model(
        helper.make_graph(nodes, "net", edge[:1], edge[1:], list(given.values())),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    low, stored = quantise.with_int8_weights(model)
    assert stored == ["conv", "rows", "columns", "product"]
    kinds = {t.name: t.data_type for t in low.graph.initializer}
    assert [n for n, kind in kinds.items() if kind == TensorProto.INT8] == [f"{n}.int8" for n in stored]
    by_hand = onnx.ModelProto()
    by_hand.CopyFrom(model)
    for tensor in by_hand.graph.initializer:
        if tensor.name in stored:
            value, outputs = numpy_helper.to_array(tensor), 1 if tensor.name in ("columns", "product") else 0
            step = np.abs(value).max(axis=tuple(a for a in range(value.ndim) if a != outputs), keepdims=True) / 127
            tensor.CopyFrom(numpy_helper.from_array((np.rint(value / step) * step).astype(np.float32), tensor.name))
    x = rng.rand(1, 64, 9, 9).astype(np.float32)
    (ours,), (theirs,) = (session.onnx_runner(m.SerializeToString())((x,)).values() for m in (low, by_hand))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_mobilefacenet_in_int8_keeps_depthwise_layers_and_its_last_ones_in_fp32():
    part = plan("detectorv1").parts["landmarks"]
    loaded = modules.load(part.network, part.choice.crop, (), 0)
    model, _ = lower.prepared(steps.exported(loaded, part.choice), "int8", "openvino")
    graph = onnx_graph.Graph(model)
    found = plan_of(model, part.network.name, "int8")
    low = [n for n in model.graph.node if n.name in found.lowered]
    assert {n.op_type for n in low} == {"Conv"}
    assert all(onnx_graph.attribute(n, "group", 1) == 1 for n in low)
    assert {graph.value(n.input[1]).shape[2:] for n in low} == {(1, 1)}
    assert not any("conv_6" in n.name for n in low)

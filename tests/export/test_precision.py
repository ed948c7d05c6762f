"""Lower precisions: plans, casts, ranges, int8 graphs, budgets, losses; on the packaged detector, whose weights are real."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
import pytest
import torch
from command import fexport
from onnx import TensorProto, helper, numpy_helper

from fexcalibration import ranges
from fexport import build as building
from fexport import modules, onnx_graph, samples, session, steps
from fexport.plan import plan
from fexport.precision import cast, lower, magnitudes, quantise, smooth
from fexport.precision.plan import PrecisionPlan, plan_of
from fexruntime import Detector, differences
from fexruntime.boxes import iou
from fexruntime.bundle import open_bundle
from fexruntime.canonical import check_canonical
from fexruntime.contracts import GATES, Gate
from fexruntime.contracts.precision import FULL, PRECISIONS
from fexruntime.detections import difference
from fexruntime.errors import InputError, VerificationError
from fexruntime.sources.images import read_image

NETWORK = "retinaface-mobilenet025"
CASES = samples.cases


@pytest.fixture(scope="module")
def detector():
    """(part, loaded, {precision: prepared graph}) of the packaged detector."""
    part = plan("faces").parts["faces"]
    loaded = modules.load(part.network, None)
    plain = steps.exported(loaded, part.choice)
    return part, loaded, {p: lower.prepared(plain, p)[0] for p in PRECISIONS[1:]}


@pytest.fixture(scope="module")
def int8(tmp_path_factory, pictures):
    """The packaged detector in int8."""
    out = tmp_path_factory.mktemp("int8") / "bundle"
    building.build(plan("faces", precision="int8", calibration=[pictures]), out)
    return out


def _refused(*words):
    done = fexport(*words)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr.replace("\n", " ")


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
        lower._plan(model, part, loaded, "fp16", lower.Faces((), [loud]))


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


def test_int8_finds_the_same_faces(int8, pictures):
    with Detector(int8, cache=False) as low, Detector("edge", cache=False) as full:
        assert low.describe()["faces"]["precision"] == "int8"
        for path in (pictures / "1.png", pictures / "4.png"):
            a, b = (next(d.stream(read_image(path))) for d in (full, low))
            assert len(a) == len(b) >= 1
            overlap = iou(a.boxes_xyxy_px, b.boxes_xyxy_px)
            assert (overlap.max(axis=1) >= 0.95).all()
            assert np.abs(a.scores - b.scores).max() <= 0.03
    assert all(c.passed for c in check_canonical(open_bundle(int8)))
    with pytest.raises(Exception, match="no fp32 artefact"):
        Detector(int8, precision="fp32", cache=False)


def test_openvino_runs_int8_within_the_same_budgets(int8):
    pytest.importorskip("openvino")
    from fexruntime.backends.base import Place

    assert all(c.passed for c in check_canonical(open_bundle(int8), Place(backend="openvino", cache=False)))


def test_ranges_are_an_artefact_of_their_own(pictures, tmp_path, int8):
    out = tmp_path / "mine.ranges.json"
    done = fexport("calibrate", out, pictures)
    assert done.returncode == 0, done.stderr
    text = out.read_text(encoding="utf-8")
    assert str(pictures) not in text
    again = tmp_path / "again"
    done = fexport("build", again, "--pipeline", "faces", "--int8", "--ranges", out)
    assert done.returncode == 0, done.stderr
    first, second = ((path / "faces.int8.onnx").read_bytes() for path in (int8, again))
    assert first == second
    value = json.loads(text)
    value["networks"][0]["weights"] = ["0" * 64]
    out.write_text(json.dumps(value), encoding="utf-8")
    said = _refused("build", tmp_path / "other", "--pipeline", "faces", "--int8", "--ranges", out)
    assert "measured on other weights" in said
    out.write_text("{}", encoding="utf-8")
    assert "holds no ranges" in _refused("build", tmp_path / "other", "--pipeline", "faces", "--int8", "--ranges", out)
    assert not (tmp_path / "other").exists()


def test_what_is_out_of_budget_is_not_published_unless_it_is_allowed(tmp_path, monkeypatch):
    tight = tuple(dataclasses.replace(g, limit=0.0) for g in GATES["fp16"][NETWORK])
    monkeypatch.setitem(GATES["fp16"], NETWORK, tight)
    out = tmp_path / "bundle"
    with pytest.raises(VerificationError, match="--allow-loss"):
        building.build(plan("faces", precision="fp16"), out)
    assert not out.exists()
    assert (tmp_path / "bundle.verification.json").exists()
    building.build(plan("faces", precision="fp16", allow_loss=True), out)
    bundle = open_bundle(out)
    (variant,) = bundle.networks["faces"].record.variants
    assert variant.loss
    assert all(value > 0 for value in variant.loss.values())
    assert all(c.passed for c in check_canonical(bundle))
    with Detector(out, cache=False) as found:
        assert found.describe()["faces"]["loss"] == variant.loss
    report = json.loads((out / "verification.json").read_text(encoding="utf-8"))["networks"]["faces"]
    assert not report["passed"]  # what was allowed is no pass
    assert {d["limit"] for d in report["differences"]} == {0.0}
    done = fexport("inspect", out)
    assert "LOSS ALLOWED" in done.stdout


def test_fp16_halves_the_bundle(tmp_path):
    out = tmp_path / "bundle"
    building.build(plan("faces", precision="fp16"), out)
    for _ in range(2):  # from the bundle, and from the device's store
        with Detector(out, cache=tmp_path / "store") as found:
            assert found.describe()["faces"]["precision"] == "fp16"
    full = next(v for v in open_bundle("edge").networks["faces"].record.variants if v.kind == "onnx")
    assert (out / "faces.fp16.onnx").stat().st_size < 0.6 * full.model.size_bytes
    assert not (out / "faces.onnx").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precision": "int8"}, "int8 needs faces"),
        ({"precision": "fp8"}, "no precision 'fp8'"),
        ({"precision": {"faces": "fp8"}}, "no precision 'fp8'"),
        ({"allow_loss": True}, "of lower precisions"),
        ({"precision": {"noses": "fp16"}}, "precision names noses"),
    ],
)
def test_what_cannot_be_lowered_is_said_before_any_work(options, said):
    with pytest.raises(InputError, match=said):
        plan("faces", **options)


def test_a_network_without_a_row_stays_in_fp32_or_is_refused_by_name():
    chosen = plan("detectorv1", precision="fp16", stand_in_seed=0)
    assert "pose" not in chosen.precision
    assert chosen.precision["faces"] == "fp16"
    with pytest.raises(InputError, match="runs in fp32 alone"):
        plan("detectorv1", precision={"pose": "fp16"}, stand_in_seed=0)


def test_flags_exclude_each_other(tmp_path):
    said = _refused("build", tmp_path / "b", "--pipeline", "faces", "--fp16", "--bf16")
    assert "give one of" in said


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


def test_a_logit_is_compared_as_the_probability_that_it_means():
    gate = Gate("presence", "logit", 0.04)
    said, found = np.array([[0.0], [35.0], [-800.0]], np.float32), np.array([[0.4], [34.0], [800.0]], np.float32)
    assert differences.difference(gate, said, found, 192) == pytest.approx(
        [1 / (1 + np.exp(-0.4)) - 0.5, 0.0, 1.0], abs=1e-7
    )


def test_differences_of_detections():
    rng = np.random.RandomState(3)
    height = width = 64
    from fexruntime.detect import anchors

    count = len(anchors(height, width))
    answer = {
        "loc": rng.standard_normal((1, count, 4)).astype(np.float32) * 0.1,
        "conf": np.tile(np.array([0.99, 0.01], np.float32), (1, count, 1)),
        "landmarks": rng.standard_normal((1, count, 10)).astype(np.float32) * 0.1,
    }
    answer["conf"][0, 40] = [0.1, 0.9]
    for task in ("box", "score", "faces", "keypoints"):
        assert difference(task, answer, answer, (height, width)).max() < 1e-9
    lost = {**answer, "conf": answer["conf"].copy()}
    lost["conf"][0, 40] = [0.9, 0.1]
    assert difference("faces", answer, lost, (height, width)).max() == 1.0
    assert difference("faces", lost, answer, (height, width)).max() == 1.0
    moved = {**answer, "loc": answer["loc"].copy()}
    moved["loc"][0, 40, 0] += 0.5
    assert 0.01 < difference("box", answer, moved, (height, width)).max() < 0.5
    assert Gate("conf", "faces", 0.0).by == "max"


def test_openvino_keeps_the_plans_nodes_in_fp32(tmp_path):
    openvino = pytest.importorskip("openvino")
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bfloat16")
    from fexruntime.backends import open_backend
    from fexruntime.backends.base import Place

    out = tmp_path / "bundle"
    building.build(plan("faces", precision="bf16", targets=["openvino"]), out)
    network = open_bundle(out).networks["faces"]
    backend = open_backend(network, Place(backend="openvino", cache=False))
    assert backend.describe()["arithmetic"].startswith("bf16 and fp32 (")
    ran = {}
    for op in backend._compiled.get_runtime_model().get_ops():
        info = op.get_rt_info()
        for name in str(info["originalLayersNames"].value).split(","):
            ran[name.removesuffix("/WithoutBiases")] = str(info["runtimePrecision"].value)
    (variant,) = network.record.variants
    said = json.loads(network.read(variant.plan))["nodes"]
    last = [name for why, names in said["fp32"].items() if "last layer" in why for name in names if "Conv" in name]
    assert len(last) == 9
    assert {ran[name] for name in last} == {"f32"}
    low = [name for names in said["bf16"].values() for name in names if name.endswith("Conv")]
    assert "bf16" in {ran[name] for name in low}


def test_int8_for_tensorrt_is_a_graph_of_its_own(pictures, tmp_path):
    """From the same ranges: signed and symmetric, biases left alone, which passes the lint; the CPU's does not."""
    from fexport import tensorrt_lint

    out = tmp_path / "bundle"
    building.build(plan("faces", precision="int8", calibration=[pictures], targets=["tensorrt"]), out)
    network = open_bundle(out).networks["faces"]
    assert not network.record.not_held
    ours, theirs = network.variant("int8", ("onnx",)), network.variant("int8", ("onnx",), "tensorrt")
    assert (ours.target, theirs.target) == ("any", "tensorrt")
    assert tensorrt_lint.lint(onnx.load(out / ours.model.file), "10.3")
    for version in ("10.3", "11.4"):  # 8.6 has another: see test_tensorrt_precision
        assert tensorrt_lint.lint(onnx.load(out / theirs.model.file), version) == []
    assert all(c.passed for c in check_canonical(open_bundle(out)))


def test_a_networks_weights_are_read_once_though_it_is_lowered(tmp_path, monkeypatch):
    read = []
    load = modules.load

    def counted(network, *words):
        read.append(network.name)
        return load(network, *words)

    monkeypatch.setattr(modules, "load", counted)
    building.build(plan("faces", precision="fp16"), tmp_path / "bundle")
    assert read == [NETWORK]

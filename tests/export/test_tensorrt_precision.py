"""Graphs for TensorRT in lower precisions: each answers torch's numbers in ONNX Runtime, and 8.6 is told what stays fp32."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from tensorrt_standin import VERSIONS, HostMemory, standin

from fexport import build as building
from fexport import tensorrt_lint
from fexport.plan import plan
from fexport.tensorrt_build import EngineOptions
from fexport.tensorrt_engines import make_with, pins_of
from fexruntime import Detector
from fexruntime.backends.base import Place
from fexruntime.backends.tensorrt import TensorRT
from fexruntime.bundle import open_bundle
from fexruntime.canonical import check_canonical
from fexruntime.driver import Gpu
from fexruntime.engines import FLAGGED, TYPED
from fexruntime.errors import InputError

GPU = Gpu("Orin", "8.7", "12.2")
SIZES = ((512, 512),)


class Bundles(dict):
    """The packaged detector for TensorRT, by precision, each built when it is first asked for; its weights are real."""

    def __init__(self, folder, pictures):
        self._folder, self._pictures = folder, pictures

    def __missing__(self, precision):
        given = {"calibration": [self._pictures]} if precision == "int8" else {}
        building.build(plan("faces", precision=precision, targets=["tensorrt"], **given), self._folder / precision)
        self[precision] = open_bundle(self._folder / precision)
        return self[precision]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory, pictures):
    return Bundles(tmp_path_factory.mktemp("typed"), pictures)


def graph(bundle, target):
    network = bundle.networks["faces"]
    precision = network.record.precision
    (variant,) = [v for v in network.record.variants if v.target == target] or [network.variant(precision, ("onnx",))]
    return variant, onnx.load_from_string(network.read(variant.model))


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_every_file_answers_what_torch_does(bundles, precision):
    """The build compared each with torch, within the precision's budgets; its recorded answer is given again."""
    bundle = bundles[precision]
    targets = {"fp16": {"any", FLAGGED}, "int8": {"any", TYPED, FLAGGED}}[precision]
    assert {v.target for v in bundle.networks["faces"].record.variants} == targets
    checks = check_canonical(bundle)
    assert checks
    assert all(c.passed for c in checks)
    reports = json.loads(bundle.networks["faces"].read(bundle.manifest.verification))
    assert "tensorrt-flags" in json.dumps(reports)


@pytest.mark.parametrize(("target", "version"), [(TYPED, "10.3"), (TYPED, "11.4"), (FLAGGED, "8.6")])
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_every_file_passes_its_versions_lint(bundles, precision, target, version):
    assert tensorrt_lint.lint(graph(bundles[precision], target)[1], version) == []


def test_int8_for_a_typed_tensorrt_has_float16_scales_and_float16_between(bundles):
    variant, model = graph(bundles["int8"], TYPED)
    assert model.opset_import[0].version == 19
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    scales = [n.input[1] for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert scales
    assert {kinds[s] for s in scales} == {TensorProto.FLOAT16}
    types = json.loads(bundles["int8"].networks["faces"].read(variant.plan))["nodes"]
    assert {"int8", "fp16", "fp32"} == set(types)
    inferred = onnx.shape_inference.infer_shapes(model)
    of = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    half = {name for names in types["fp16"].values() for name in names} | {n for v in types["int8"].values() for n in v}
    convolutions = [n for n in model.graph.node if n.op_type == "Conv"]
    assert len(convolutions) > 20
    for node in convolutions:
        assert of[node.output[0]] == (TensorProto.FLOAT16 if node.name in half else TensorProto.FLOAT), node.name


def test_int8_for_a_tensorrt_with_flags_quantises_its_weights_in_the_graph(bundles):
    _, model = graph(bundles["int8"], FLAGGED)
    assert model.opset_import[0].version == 17
    assert not [t.name for t in model.graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) > 1]
    weights = {t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) == 4}
    read = {n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    assert weights & read


def test_both_files_of_int8_see_the_same_face(bundles, frame):
    network = bundles["int8"].networks["faces"]
    image = np.ascontiguousarray(frame.transpose(2, 0, 1)[None], np.float32)
    answers = []
    import onnxruntime

    for target in (TYPED, FLAGGED):
        variant, _ = graph(bundles["int8"], target)
        session = onnxruntime.InferenceSession(network.read(variant.model), providers=["CPUExecutionProvider"])
        answers.append(session.run(["conf"], {session.get_inputs()[0].name: image})[0])
    # each was held to torch when it was built; candidates at a face's edge may be anything, the best ones may not
    first, second = (a[0, :, 1] for a in answers)
    for one, other in ((first, second), (second, first)):
        assert one.max() > 0.8
        assert abs(other[one.argmax()] - one.max()) < 0.05


@pytest.fixture
def here(monkeypatch, tmp_path):
    monkeypatch.setenv("FEXPORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("fexruntime.backends.tensorrt.gpu", lambda index: GPU)
    monkeypatch.setattr(TensorRT, "memory", lambda self: HostMemory())


def made(trt, bundle, options=None):
    return make_with(trt, GPU, bundle, options or EngineOptions(), SIZES, False, lambda text: None)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_pins_of_the_plan_arrive_where_precision_is_a_flag(bundles, here, precision):
    trt, calls = standin("8.6.0")
    said = made(trt, bundles[precision])
    assert precision in said["faces"]
    flags = {c[1] for c in calls if c[0] == "set_flag"}
    assert flags == {"FP16", "OBEY_PRECISION_CONSTRAINTS"} | ({"INT8"} if precision == "int8" else set())
    variant, model = graph(bundles[precision], FLAGGED)
    pinned = {c[1].removeprefix("[ONNX Layer: ").partition(" |")[0] for c in calls if c[0] == "set_output_type"}
    plan_file = json.loads(bundles[precision].networks["faces"].read(variant.plan))
    assert plan_file["pins"]
    assert set(plan_file["pins"]) <= pinned
    low = {
        n for kind, groups in plan_file["nodes"].items() if kind != "fp32" for names in groups.values() for n in names
    }
    assert not pinned & low
    heads = [n.name for n in model.graph.node if n.op_type == "Conv" and n.name in plan_file["pins"]]
    assert heads  # the last layers of heads, among others
    (item,) = Place().store().items()
    assert item.key["model_sha256"] == variant.model.sha256
    assert item.key["precision"] == precision
    assert len(item.key["options"]) < 300


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_engine_of_each_version_is_found_and_runs(bundles, here, monkeypatch, frame, version, precision):
    trt, calls = standin(version)
    made(trt, bundles[precision])
    typed = not version.startswith("8")
    assert any(c[0] == "set_output_type" for c in calls) is not typed
    assert any(c[0] == "set_flag" for c in calls) is not typed
    monkeypatch.setattr("fexruntime.backends.tensorrt.import_tensorrt", lambda: trt)
    with Detector(bundles[precision], backend="tensorrt", device="cuda") as detector, Detector("edge") as plain:
        assert detector.describe()["faces"]["precision"] == precision
        found, expected = detector.detect(frame), plain.detect(frame)
    assert len(found) == len(expected) == 1
    for side in ("FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight"):
        assert np.allclose(found[side], expected[side], atol=6)


def test_a_bundle_without_such_a_graph_is_refused(bundles, here, tmp_path):
    building.build(plan("faces", precision="fp16"), tmp_path / "bundle")
    with pytest.raises(InputError, match=r"no fp16 graph .* --target tensorrt"):
        made(standin("8.6.0")[0], open_bundle(tmp_path / "bundle"))
    network = bundles["fp16"].networks["faces"]
    without = replace(network.record.variants[0], plan=None)
    with pytest.raises(InputError, match="has no plan of what stays fp32"):
        pins_of(network, without)


def test_bfloat16_is_not_for_a_tensorrt_with_flags(here, tmp_path):
    building.build(plan("faces", precision="bf16", targets=["tensorrt"]), tmp_path / "bundle")
    bundle = open_bundle(tmp_path / "bundle")
    assert "8.6 has no bf16" in made(standin("8.6.0")[0], bundle)["faces"]
    assert "bf16" in made(standin("10.3.0")[0], bundle)["faces"]


def test_scales_that_float16_has_not_are_fitted_with_their_weights():
    from fexport.precision import tensorrt

    weight = np.array([[[[127]]], [[[-127]]], [[[100]]]], np.int8)
    scale = np.array([1e-9, 3.3e-7, 0.02], np.float32)
    node = onnx.helper.make_node("DequantizeLinear", ["w", "s", "z"], ["y"], axis=0)
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [node],
            "g",
            [],
            [onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, weight.shape)],
            [onnx.numpy_helper.from_array(a, n) for n, a in (("w", weight), ("s", scale), ("z", np.zeros(3, np.int8)))],
        )
    )
    tensorrt._fit_scales(model)
    kept = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    assert (kept["s"] > 0).all()
    assert np.array_equal(kept["s"], kept["s"].astype(np.float16).astype(np.float32))
    far = np.abs(kept["w"][:, 0, 0, 0] * kept["s"] - weight[:, 0, 0, 0] * scale)
    assert (far <= 0.51 * kept["s"]).all()  # no further than rounding to int8 is

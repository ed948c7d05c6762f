"""Bundles in lower precisions: ranges, budgets, losses, flags; on the packaged detector, whose weights are real."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
import pytest
from command import fexport

from fexport import build as building
from fexport import modules, onnx_graph, tensorrt_engines
from fexport.plan import plan
from fexport.samples import PHOTOGRAPH
from fexruntime import Detector, backends, differences
from fexruntime.backends.base import Place
from fexruntime.boxes import iou
from fexruntime.bundle import open_bundle
from fexruntime.canonical import check_canonical
from fexruntime.contracts import GATES, Gate
from fexruntime.detections import difference
from fexruntime.errors import InputError, VerificationError
from fexruntime.sources.images import read_image

NETWORK = "retinaface-mobilenet025"
ROUNDING = ("QuantizeLinear", "DequantizeLinear")


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


def test_a_logit_is_compared_as_the_probability_that_it_means():
    gate = Gate("presence", "logit", 0.04)
    said, found = np.array([[0.0], [35.0], [-800.0]], np.float32), np.array([[0.4], [34.0], [800.0]], np.float32)
    assert differences.difference(gate, said, found, 192) == pytest.approx(
        [1 / (1 + np.exp(-0.4)) - 0.5, 0.0, 1.0], abs=1e-7
    )


def test_a_probability_is_compared_as_it_is():
    said, found = np.array([[0.0, 0.2, 1.0]], np.float32), np.array([[0.1, 0.3, 0.9]], np.float32)
    assert differences.difference(Gate("au", "probability", 1e-4), said, found, 224) == pytest.approx([0.1] * 3)


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


def test_openvino_has_an_int8_graph_of_its_own_of_mobilefacenet(tmp_path):
    """PReLU stays one operator there, and what a convolution gives it is not rounded first: both are done in its kernel."""
    pytest.importorskip("openvino")
    out = tmp_path / "bundle"
    alone = dict.fromkeys(("pose", "au", "emotion", "gaze", "identity"), "none")
    choices = {"faces": NETWORK, "landmarks": "mobilefacenet"} | alone
    lowered = {"precision": {"landmarks": "int8"}, "calibration": [PHOTOGRAPH], "allow_loss": True}
    building.build(plan("detectorv1", choices=choices, stand_in_seed=0, targets=["openvino"], **lowered), out)
    network = open_bundle(out).networks["landmarks"]
    for_any, own = network.record.variants
    assert (for_any.target, for_any.verified_on) == ("any", ("onnxruntime",))
    assert (own.target, own.verified_on) == ("openvino", ("openvino",))
    assert (for_any.form, own.form) == ("onnx", "onnx for openvino")
    kind, chosen = backends.chosen(network, Place(backend="openvino"))
    assert (kind.__name__, chosen) == ("OpenVino", own)
    assert backends.chosen(network, Place())[1] == for_any
    graph = onnx_graph.Graph(onnx.load_from_string(network.read(own.model)))
    slopes = [n for n in graph.proto.node if n.op_type == "PRelu"]
    assert slopes
    assert not set(ROUNDING).intersection(graph.producer[n.input[0]].op_type for n in slopes)
    # what it answered is recorded as OpenVINO answers it: ONNX Runtime rounds before the slopes
    (of_own,) = (
        max(
            c.max
            for c in check_canonical(open_bundle(out), Place(backend="openvino", cache=False))
            if c.network == "mobilefacenet" and "openvino" in c.artefact
        ),
    )
    assert of_own < 1e-3
    # which ONNX Runtime does no faster in int8: it is given int8 weights
    operators = {n.op_type for n in onnx.load_from_string(network.read(for_any.model)).graph.node}
    assert not operators.intersection(("PRelu", *ROUNDING))
    said = {
        b: backends.open_backend(network, Place(backend=b, cache=False)).describe() for b in for_any_and_own(network)
    }
    assert (said["onnxruntime"]["precision"], said["onnxruntime"]["weights"]) == ("fp32", "int8")
    assert (said["openvino"]["precision"], said["openvino"].get("weights")) == ("int8", None)


def for_any_and_own(network):
    return [b for v in network.record.variants for b in v.verified_on]


def test_facemesh_in_int8_has_int8_weights_and_stays_within_its_budgets(tmp_path):
    """Its layers are too small for int8 to be faster on either backend."""
    pytest.importorskip("openvino")
    out = tmp_path / "bundle"
    building.build(plan("facemesh", precision="int8", calibration=[PHOTOGRAPH], targets=["openvino"]), out)
    network = open_bundle(out).networks["mesh"]
    (variant,) = network.record.variants
    assert (variant.target, variant.verified_on, variant.loss) == ("any", ("onnxruntime", "openvino"), {})
    full = open_bundle("facemesh").networks["mesh"]
    sizes = [len(n.read(n.variant(p, ("onnx",)).model)) for n, p in ((network, "int8"), (full, "fp32"))]
    assert sizes[0] < 0.75 * sizes[1]  # the packaged one's weights are float16
    said = json.loads(network.read(variant.plan))
    (kept,) = said["nodes"].values()
    (stored,) = (names for why, names in kept.items() if "int8" in why)
    assert set(kept) - {"no weights"} == {
        next(why for why in kept if word in why) for word in ("int8", "few", "constants")
    }
    assert said["fp32_tensors"]
    graph = onnx_graph.Graph(onnx.load_from_string(network.read(variant.model)))
    behind = {n.name: graph.producer.get(n.input[1]) for n in graph.proto.node if n.op_type == "Conv"}
    assert sorted(stored) == sorted(name for name, made in behind.items() if made is not None and made.op_type == "Mul")
    cases = [np.random.RandomState(0).rand(1, 3, 192, 192).astype(np.float32)]
    answers = []
    for of in (network, full):
        backend = backends.open_backend(of, Place(cache=False))
        (tensor,) = backend.spec.inputs
        answers.append([backend.infer({tensor.name: case})["mesh"] for case in cases])
    gap = np.abs(np.stack(answers[0]) - np.stack(answers[1])).max()
    assert 0 < gap < 1.5
    assert "fp32 (weights int8) onnx" in " ".join(fexport("inspect", out).stdout.split())
    # an engine of this graph would be called int8, and be fp32
    with pytest.raises(InputError, match="no int8 graph for TensorRT here: build the bundle with --target tensorrt"):
        tensorrt_engines._typed(network, "int8")

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
import torch

from fexport import build, modules, samples, verify
from fexruntime import Detector, open_bundle
from fexruntime.bundle import edge_bundle_path
from fexruntime.contracts import network_row
from fexruntime.errors import CheckpointError, InputError, OutputError, VerificationError

EDGE = "retinaface-mobilenet025"


def edge_plan(**options):
    return build.plan("faces", "pyfeat-2.0", EDGE, **options)


def test_the_packaged_bundle_is_what_a_build_makes(tmp_path):
    build.build(edge_plan(), tmp_path / "edge")
    packaged = open_bundle("edge").manifest
    built, here = (v["torch"].split("+")[0] for v in (packaged["built_with"], build.tools()))
    if built != here:
        pytest.skip(f"packaged with torch {packaged['built_with']['torch']}: bytes not compared with this one's")
    for name in ("faces.onnx", "NOTICES.md"):
        assert (tmp_path / "edge" / name).read_bytes() == (edge_bundle_path() / name).read_bytes(), name


def test_building_twice_gives_the_same_bytes(v1_edge_bundle, tmp_path):
    plan = build.plan("detectorv1", "pyfeat-2.0", EDGE, "facenet", None, 0)
    build.build(plan, tmp_path / "again")
    files = sorted(p.name for p in v1_edge_bundle.iterdir())
    assert files == sorted(p.name for p in (tmp_path / "again").iterdir())
    for name in files:
        assert (v1_edge_bundle / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


@pytest.mark.parametrize("fixture", ["v2_bundle", "v28_bundle", "v1_bundle"])
def test_graphs_are_plain_opset_17_with_fixed_names_and_dynamic_axes(fixture, request):
    bundle = open_bundle(request.getfixturevalue(fixture))
    for network in bundle.networks.values():
        model = onnx.load(network.model.path)
        assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
        assert model.ir_version == 8
        assert {n.domain for n in model.graph.node} == {""}
        edge = [*model.graph.input, *model.graph.output]
        assert [v.name for v in edge] == [network.row.inputs[0].name, *(t.name for t in network.row.outputs)]
        assert {v.type.tensor_type.elem_type for v in edge} == {onnx.TensorProto.FLOAT}
        shape = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
        assert shape == network.input_shape
        assert isinstance(shape[0], str)
        if network.role == "faces":
            assert shape[2:] == ["height", "width"]


def test_the_manifest_says_where_everything_comes_from(v28_bundle):
    manifest = json.loads((v28_bundle / "manifest.json").read_text())
    multitask = manifest["networks"]["multitask"]
    assert multitask["licence"] == "non-commercial"
    assert multitask["config"]["gaze_bins"] == 180
    assert multitask["passes"]["grn-as-matmul"] == 18
    assert multitask["weights"][0]["source"] == "stand-in"
    assert open_bundle(v28_bundle).stand_ins == ["retinaface-r34", "multitask-v28", "arcface"]
    assert "arcface" in (v28_bundle / "NOTICES.md").read_text()
    report = json.loads((v28_bundle / "verification.json").read_text())
    assert all(r["passed"] for r in report.values())
    kinds = {(d["kind"], d["output"]) for d in report["multitask"]["differences"]}
    assert {("faces", "au"), ("noise", "au"), ("faces", "gaze")} <= kinds


def test_a_network_beyond_its_tolerance_leaves_its_report_and_no_bundle(tmp_path, monkeypatch):
    from fexport import onnx_passes

    def spoil(model):
        weight = max(model.graph.initializer, key=lambda t: len(t.raw_data))
        values = onnx.numpy_helper.to_array(weight) * np.float32(1.02)
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        return 1

    monkeypatch.setitem(onnx_passes.PASSES, "spoil", spoil)
    monkeypatch.setattr(build.onnx_passes, "apply", lambda model: {"spoil": spoil(model)})
    with pytest.raises(VerificationError, match=r"beyond its tolerance.*bundle\.verification\.json"):
        build.build(edge_plan(), tmp_path / "bundle")
    assert [p.name for p in tmp_path.iterdir()] == ["bundle.verification.json"]
    report = json.loads((tmp_path / "bundle.verification.json").read_text())
    assert not report["faces"]["passed"]


def test_values_that_are_not_finite_fail():
    row = network_row(EDGE)
    module = modules.load(row, None, 112).module
    cases = {"faces": samples.cases(row, None)["faces"][2:3]}

    def run(value):
        with torch.inference_mode():
            outputs = dict(
                zip(
                    ("loc", "conf", "landmarks"),
                    (o.numpy().copy() for o in module(torch.from_numpy(value))),
                    strict=True,
                )
            )
        outputs["landmarks"][0, 0, 0] = np.nan
        return outputs

    report = verify.compare(row, module, run, cases, 112, "itself with a NaN")
    assert report.not_finite == {"landmarks": 1}
    assert not report.passed


def test_near_ties_of_au_neighbours_are_left_out_and_counted():
    row = network_row("multitask-v2")
    module = modules.load(row, None, 256, 0).module
    chips = samples.cases(row, build.plan("detectorv2", "pyfeat-2.0").pipeline.crop)["faces"][0][:2]
    margin = verify.neighbour_margin
    calls = []

    def with_a_tie(v, k):
        gaps = margin(v, k).clone()
        gaps[0] = 0.0
        calls.append(len(gaps))
        return gaps

    def run(value):
        with torch.inference_mode():
            names = [t.name for t in row.outputs]
            outputs = {n: o.numpy().copy() for n, o in zip(names, module(torch.from_numpy(value)), strict=True)}
        outputs["au"][0] += 0.01  # what a flip looks like
        return outputs

    verify.neighbour_margin = with_a_tie
    try:
        report = verify.compare(row, module, run, {"faces": [chips]}, 256, "itself with a flip")
    finally:
        verify.neighbour_margin = margin
    assert report.near_ties == 1
    assert report.passed
    assert not verify.compare(row, module, run, {"faces": [chips]}, 256, "itself").passed


def test_an_interrupted_build_goes_on_where_it_was(tmp_path, monkeypatch):
    plan = build.plan("detectorv1", "pyfeat-2.0", EDGE, "none", None, 0)
    steps = []

    def stop(role, step):
        steps.append((role, step.split()[0]))
        if (role, step.split()[0]) == ("pose", "exporting"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build.build(plan, tmp_path / "bundle", stop)
    assert not (tmp_path / "bundle").exists()
    again = []
    build.build(plan, tmp_path / "bundle", lambda role, step: again.append((role, step)))
    assert ("landmarks", "mobilefacenet was already made") in again
    assert ("pose", "exporting pose-mlp") in again
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_a_missing_weight_costs_no_export_and_leaves_nothing(tmp_path):
    (tmp_path / "weights").mkdir()
    with pytest.raises(CheckpointError, match=r"face_multitask_v2\.safetensors"):
        build.build(build.plan("detectorv2", "pyfeat-2.0", EDGE, weights=tmp_path / "weights"), tmp_path / "bundle")
    assert [p.name for p in tmp_path.iterdir()] == ["weights"]


def test_an_older_bundle_is_replaced_and_other_folders_are_not(tmp_path):
    target = tmp_path / "bundle"
    build.build(edge_plan(), target)
    (target / "faces.onnx").unlink()
    build.build(edge_plan(), target)
    assert open_bundle(target).verify_files() == 4
    other = tmp_path / "photos"
    other.mkdir()
    (other / "keep.txt").write_text("mine")
    with pytest.raises(OutputError, match="other things"):
        build.build(edge_plan(), other)
    assert (other / "keep.txt").read_text() == "mine"
    with pytest.raises(OutputError, match="it is a file"):
        build.build(edge_plan(), other / "keep.txt")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("detectorv3", "pyfeat-2.0"), "no pipeline"),
        (("detectorv2", "pyfeat-3"), "no pipeline"),
        (("detectorv2", "pyfeat-2.0", "mtcnn"), "no face detector 'mtcnn'"),
        (("detectorv2", "pyfeat-2.0", None, "sface"), "no identity network 'sface'"),
    ],
)
def test_names_that_are_not_there(arguments, says):
    with pytest.raises(InputError, match=says):
        build.plan(*arguments)


def test_without_identity(tmp_path, frame):
    build.build(build.plan("detectorv1", "pyfeat-2.1", EDGE, "none", None, 0), tmp_path / "bundle")
    fex = Detector(tmp_path / "bundle").detect(frame)
    assert len(fex.columns) == 694
    assert np.isnan(fex["Identity_1"]).all()
    assert fex.identities == [None]


def test_every_published_combination_of_flags_is_exported_and_equal_to_torch(tmp_path):
    """v2.4 (no blendshapes), and the gaze flags of v2.6 that no other test has."""
    import dataclasses

    from fexport import onnx_export, onnx_passes, session, standin
    from fexport.networks.multitask import Multitask, MultitaskConfig
    from fexruntime.contracts import MULTITASK_CHIP

    row = network_row("multitask-v28")
    base = standin.MULTITASK_CONFIG
    for flags in (
        {"emotion_use_au_prob": True, "n_blendshape": 0, "mesh_normalized": False},
        {"gaze_eye_roi": True, "gaze_head_frame": True, "gaze_hidden": 64, "gaze_eye_box_frac": 0.4},
        {"gaze_hidden": 32, "gaze_bins": 90, "bs_use_mesh": False},
    ):
        module = Multitask(MultitaskConfig.from_metadata(base | flags))
        shapes = {k: tuple(v.shape) for k, v in module.state_dict().items()}
        module.load_state_dict({k: torch.from_numpy(v) for k, v in standin.tensors(shapes, 5).items()})
        module = module.eval().requires_grad_(False)
        outputs = row.outputs if base | flags != base | flags | {"n_blendshape": 0} else row.outputs[:-1]
        cases = {"faces": samples.cases(row, MULTITASK_CHIP)["faces"][:1]}
        model = onnx_export.export(module, torch.from_numpy(cases["faces"][0]), row.inputs, outputs)
        onnx_passes.apply(model)
        run = session.onnx_runner(onnx_export.serialise(model))
        report = verify.compare(dataclasses.replace(row, outputs=outputs), module, run, cases, 256, "onnxruntime")
        assert report.passed, (flags, report)


def test_the_face_in_the_photograph_is_where_the_samples_say(frame):
    (result,) = Detector().stream(frame)
    assert np.abs(result.boxes_xyxy_px[0] - np.array(samples.FACE_XYXY_PX)).max() < 3


def test_verification_is_repeated_from_a_bundle(v1_edge_bundle, tmp_path):
    bundle = open_bundle(v1_edge_bundle)
    for network in bundle.networks.values():
        assert build.repeat_verification(network, bundle.pipeline, None).passed
    copy = tmp_path / "copy"
    shutil.copytree(v1_edge_bundle, copy)
    path = copy / "manifest.json"
    path.write_text(path.read_text().replace(bundle.networks["faces"].entry["weights"][0]["sha256"], "0" * 64))
    changed = open_bundle(copy)
    with pytest.raises(VerificationError, match="not those that the bundle was built from"):
        build.repeat_verification(changed.networks["faces"], changed.pipeline, None)


def test_a_folder_that_only_looks_like_a_bundle_is_left_alone(tmp_path):
    """Web applications have a manifest.json too; and a bundle in which somebody kept results is not ours to drop."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "manifest.json").write_text('{"name": "my site"}')
    (site / "index.html").write_text("mine")
    with pytest.raises(OutputError, match="other things"):
        build.build(edge_plan(), site)
    assert (site / "index.html").read_text() == "mine"
    target = tmp_path / "bundle"
    build.build(edge_plan(), target)
    (target / "faces.csv").write_text("results")
    with pytest.raises(OutputError, match=r"faces\.csv"):
        build.build(edge_plan(), target)


def test_parts_of_an_interrupted_build_of_something_else_are_not_published(tmp_path):
    def stop(role, step):
        if (role, step.split()[0]) == ("identity", "exporting"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build.build(build.plan("detectorv1", "pyfeat-2.0", EDGE, "facenet", None, 0), tmp_path / "bundle", stop)
    build.build(edge_plan(), tmp_path / "bundle")
    names = {p.name for p in (tmp_path / "bundle").iterdir()}
    assert names == {"manifest.json", "faces.onnx", "faces.canonical.npz", "verification.json", "NOTICES.md"}


def test_an_interrupt_while_publishing_keeps_the_older_bundle(tmp_path, monkeypatch):
    target = tmp_path / "bundle"
    build.build(edge_plan(), target)
    rename = type(target).rename

    def interrupted(self, to):
        if self.name.endswith(".partial"):
            raise KeyboardInterrupt
        return rename(self, to)

    monkeypatch.setattr(type(target), "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build.build(edge_plan(), target)
    assert open_bundle(target).verify_files() == 4


def test_a_gate_does_not_pass_on_nothing(monkeypatch):
    """Every face at a tie of neighbours: no AU was compared, so nothing was verified."""
    row = network_row("multitask-v2")
    module = modules.load(row, None, 256, 0).module
    chips = samples.cases(row, build.plan("detectorv2", "pyfeat-2.0").pipeline.crop)["faces"][0][:1]
    monkeypatch.setattr(verify, "neighbour_margin", lambda v, k: torch.zeros(len(v)))

    def run(value):
        with torch.inference_mode():
            return {t.name: o.numpy() for t, o in zip(row.outputs, module(torch.from_numpy(value)), strict=True)}

    report = verify.compare(row, module, run, {"faces": [chips]}, 256, "itself")
    assert "au" in report.not_compared
    assert not report.passed


def test_a_bundle_from_a_folder_is_not_compared_with_other_weights(tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    state = dict(modules.load(network_row("mobilefacenet"), None, 112, 0).module.state_dict())
    torch.save({"state_dict": state}, weights / "mobilefacenet_model_best.pth.tar")
    build.build(build.plan("detectorv1", "pyfeat-2.0", EDGE, "none", weights, 0), tmp_path / "bundle")
    bundle = open_bundle(tmp_path / "bundle")
    with pytest.raises(CheckpointError, match="--weights DIR"):
        build.repeat_verification(bundle.networks["landmarks"], bundle.pipeline, None)
    assert build.repeat_verification(bundle.networks["landmarks"], bundle.pipeline, weights).passed

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from conftest import LANDMARKS_AND_POSE

from fexport import build, modules, onnx_export, onnx_passes, plan, publish, samples, session, steps, verify
from fexport.networks import RECIPES
from fexport.networks.multitask_recipes import PUBLISHED_FLAGS
from fexport.reverify import repeat_verification
from fexruntime import Detector, open_bundle
from fexruntime.bundle import edge_bundle_path
from fexruntime.contracts import LANDMARK_CROP, MULTITASK_CHIP, Choice, network_row
from fexruntime.errors import CheckpointError, InputError, OutputError, VerificationError

EDGE = "retinaface-mobilenet025"


def edge_plan():
    return plan.plan("faces")


def plan_of(pipeline, contract, faces=EDGE, identity=None, weights=(), **choices):
    choices |= {"faces": faces, "identity": identity}
    if pipeline == "detectorv1":
        choices = LANDMARKS_AND_POSE | choices
    return plan.plan(pipeline, contract, choices, weights, stand_in_seed=0)


def test_the_packaged_bundle_is_what_a_build_makes(tmp_path):
    """Its graph, node by node, and its weights to round-off: folding a batch norm rounds by the CPU."""
    build.build(edge_plan(), tmp_path / "edge")
    packaged, built = (onnx.load(folder / "faces.onnx") for folder in (edge_bundle_path(), tmp_path / "edge"))
    assert packaged.graph.node == built.graph.node
    assert [t.name for t in packaged.graph.initializer] == [t.name for t in built.graph.initializer]
    for a, b in zip(packaged.graph.initializer, built.graph.initializer, strict=True):
        a, b = onnx.numpy_helper.to_array(a), onnx.numpy_helper.to_array(b)
        assert np.abs(a - b).max() <= 1e-6 * max(np.abs(a).max(), 1e-6)
    assert (tmp_path / "edge" / "NOTICES.md").read_bytes() == (edge_bundle_path() / "NOTICES.md").read_bytes()
    changing = {"built_with", "verification", "networks"}
    ours, theirs = (open_bundle(p).manifest for p in (None, tmp_path / "edge"))
    for field in dataclasses.fields(ours):
        if field.name not in changing:
            assert getattr(ours, field.name) == getattr(theirs, field.name), field.name
    drop = {"variants": ()}
    for role, record in ours.networks.items():
        other = theirs.networks[role]
        assert [dataclasses.asdict(record) | drop] == [dataclasses.asdict(other) | drop]


def test_building_twice_gives_the_same_bytes(v1_edge_bundle, tmp_path):
    build.build(plan_of("detectorv1", "pyfeat-2.0", identity="facenet"), tmp_path / "again")
    files = sorted(p.name for p in v1_edge_bundle.iterdir())
    assert files == sorted(p.name for p in (tmp_path / "again").iterdir())
    for name in files:
        assert (v1_edge_bundle / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


@pytest.mark.parametrize("fixture", ["v2_bundle", "v28_bundle", "v1_bundle"])
def test_graphs_are_plain_opset_17_with_fixed_names_and_dynamic_axes(fixture, request):
    bundle = open_bundle(request.getfixturevalue(fixture))
    for network in bundle.networks.values():
        record = network.record
        model = onnx.load(network.folder / network.variant("fp32", ("onnx",)).model.file)
        assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
        assert model.ir_version == 8
        assert {n.domain for n in model.graph.node} == {""}
        edge = [*model.graph.input, *model.graph.output]
        assert [v.name for v in edge] == [t.name for t in (*network.row.inputs, *network.row.outputs)]
        assert {v.type.tensor_type.elem_type for v in edge} == {onnx.TensorProto.FLOAT}
        shape = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
        assert tuple(shape) == record.inputs[0].shape
        assert isinstance(shape[0], str)
        if network.role == "faces":
            assert shape[2:] == ["height", "width"]


def test_the_manifest_says_where_everything_comes_from(v28_bundle):
    manifest = json.loads((v28_bundle / "manifest.json").read_text(encoding="utf-8"))
    multitask = manifest["networks"]["multitask"]
    assert multitask["licence"] == "non-commercial research"
    assert multitask["config"]["gaze_bins"] == 180
    assert multitask["passes"]["grn-as-matmul"] == 18
    assert multitask["weights"][0]["source"] == "stand-in"
    assert open_bundle(v28_bundle).stand_ins == ["retinaface-r34", "multitask-v28", "arcface"]
    assert "arcface" in (v28_bundle / "NOTICES.md").read_text(encoding="utf-8")
    report = json.loads((v28_bundle / "verification.json").read_text(encoding="utf-8"))
    assert report["sense"]["checked"] is False  # stand-ins see nothing
    report = report["networks"]
    assert all(r["passed"] for r in report.values())
    kinds = {(d["kind"], d["output"]) for d in report["multitask"]["differences"]}
    assert {("faces", "au"), ("noise", "au"), ("faces", "gaze")} <= kinds


def test_a_network_beyond_its_tolerance_leaves_its_report_and_no_bundle(tmp_path, monkeypatch):
    def spoil(model):
        weight = max(model.graph.initializer, key=lambda t: len(t.raw_data))
        values = onnx.numpy_helper.to_array(weight) * np.float32(1.02)
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        return 1

    monkeypatch.setattr(steps.onnx_passes, "apply", lambda model: {"spoil": spoil(model)})
    with pytest.raises(VerificationError, match=r"beyond its tolerance.*bundle\.verification\.json"):
        build.build(edge_plan(), tmp_path / "bundle")
    assert [p.name for p in tmp_path.iterdir()] == ["bundle.verification.json"]
    report = json.loads((tmp_path / "bundle.verification.json").read_text(encoding="utf-8"))
    assert not report["networks"]["faces"]["passed"]


def test_an_interrupted_build_goes_on_where_it_was(tmp_path, monkeypatch):
    todo = plan_of("detectorv1", "pyfeat-2.0", identity="none")

    def stop(role, step):
        if (role, step.split()[0]) == ("pose", "exporting"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build.build(todo, tmp_path / "bundle", stop)
    assert not (tmp_path / "bundle").exists()
    again = []
    build.build(todo, tmp_path / "bundle", lambda role, step: again.append((role, step)))
    assert ("landmarks", "mobilefacenet was already made") in again
    assert ("pose", "exporting pose-mlp") in again
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_a_missing_weight_costs_no_export_and_leaves_nothing(tmp_path):
    (tmp_path / "weights").mkdir()
    todo = plan.plan("detectorv2", "pyfeat-2.0", {"faces": EDGE}, [tmp_path / "weights"])
    with pytest.raises(CheckpointError, match=r"face_multitask_v2\.safetensors"):
        build.build(todo, tmp_path / "bundle")
    assert [p.name for p in tmp_path.iterdir()] == ["weights"]


def test_an_older_bundle_is_replaced_and_other_folders_are_not(tmp_path):
    target = tmp_path / "bundle"
    build.build(edge_plan(), target)
    (target / "faces.onnx").unlink()
    build.build(edge_plan(), target)
    assert open_bundle(target).verify_files() == 4
    other = tmp_path / "photos"
    other.mkdir()
    (other / "keep.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="other things"):
        build.build(edge_plan(), other)
    assert (other / "keep.txt").read_text(encoding="utf-8") == "mine"
    with pytest.raises(OutputError, match="it is a file"):
        build.build(edge_plan(), other / "keep.txt")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("detectorv3", "pyfeat-2.0"), "no pipeline"),
        (("detectorv2", "pyfeat-3"), "it follows pyfeat-2.1, pyfeat-2.0"),
        (("detectorv2", "pyfeat-2.0", {"faces": "mtcnn"}), "no faces 'mtcnn' in detectorv2: use retinaface-r34"),
        (("detectorv2", "pyfeat-2.0", {"faces": "none"}), "no faces 'none'"),
        (("detectorv2", "pyfeat-2.0", {"identity": "sface"}), "no identity 'sface'"),
        (("faces", None, {"identity": "arcface"}), "faces has no identity"),
        (
            ("detectorv1", None, {"landmarks": "none"}),
            "pose reads landmarks_xy_px, which landmarks would give.*--pose none",
        ),
        (
            ("detectorv1", None, {"landmarks": "none", "pose": "none"}),
            "au reads landmarks_crop_xy, which landmarks would give.*--au none",
        ),
        (("detectorv1", None, {"emotion": "sym"}), "no emotion 'sym' in detectorv1: use resmasknet, svm"),
    ],
)
def test_names_that_are_not_there(arguments, says):
    with pytest.raises(InputError, match=says):
        plan.plan(*arguments)


def test_every_stage_but_the_finder_may_be_left_out_and_its_weights_are_not_asked_for(tmp_path, frame):
    (tmp_path / "empty").mkdir()
    todo = plan.plan(
        "detectorv1",
        None,
        {"faces": EDGE, "landmarks": "none", "pose": "none", "identity": "none"} | LANDMARKS_AND_POSE,
        [tmp_path / "empty"],
    )
    assert list(todo.networks) == ["faces"]
    build.build(todo, tmp_path / "bundle")
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.stand_ins == []
    assert bundle.roles == {"faces"}
    fex = Detector(bundle).detect(frame)
    assert len(fex.columns) == 694
    assert np.isnan(fex.block(["Identity_1", "x_0", "Pitch"])).all()
    assert np.isfinite(fex["FaceRectX"]).all()
    assert fex.identities == [None]


def test_every_published_combination_of_flags_is_exported_and_equal_to_torch(monkeypatch):
    """v2.4 (no blendshapes), and the gaze flags of v2.6 that no other test has."""
    row = network_row("multitask-v28")
    recipe = RECIPES["multitask-v28"]
    for flags in (
        {"emotion_use_au_prob": True, "n_blendshape": 0, "mesh_normalized": False},
        {"gaze_eye_roi": True, "gaze_head_frame": True, "gaze_hidden": 64, "gaze_eye_box_frac": 0.4},
        {"gaze_hidden": 32, "gaze_bins": 90, "bs_use_mesh": False},
    ):
        recipe_now = dataclasses.replace(
            recipe, stand_in=dataclasses.replace(recipe.stand_in, config=PUBLISHED_FLAGS | flags)
        )
        with monkeypatch.context() as patch:
            patch.setitem(RECIPES, "multitask-v28", recipe_now)
            loaded = modules.load(row, MULTITASK_CHIP, stand_in_seed=5)
        outputs = [t for t in row.outputs if t.name in loaded.outputs]
        assert ("blendshapes" in loaded.outputs) == (flags.get("n_blendshape") != 0)
        choice = Choice("multitask-v28", (MULTITASK_CHIP,))
        cases = {"faces": samples.cases(row, choice)["faces"][:1]}
        inputs = [dataclasses.replace(row.inputs[0], shape=("faces", 3, 256, 256))]
        model = onnx_export.export(loaded.module, (torch.from_numpy(cases["faces"][0][0]),), inputs, outputs)
        onnx_passes.apply(model)
        run = session.onnx_runner(onnx_export.serialise(model))
        report = verify.compare(loaded, run, cases, 256, "fp32", "onnxruntime")
        assert report.passed, (flags, report)


def test_the_face_in_the_photograph_is_where_the_samples_say(frame):
    (result,) = Detector().stream(frame)
    assert np.abs(result.boxes_xyxy_px[0] - np.array(samples.FACE_XYXY_PX)).max() < 3


def test_verification_is_repeated_from_a_bundle(v1_edge_bundle, tmp_path):
    bundle = open_bundle(v1_edge_bundle)
    for network in bundle.networks.values():
        reports = repeat_verification(network, threads=1)
        assert reports
        assert all(r.passed for r in reports.values())
    copy = tmp_path / "copy"
    shutil.copytree(v1_edge_bundle, copy)
    path = copy / "manifest.json"
    path.write_text(
        path.read_text(encoding="utf-8").replace(bundle.networks["faces"].record.weights[0].sha256, "0" * 64),
        encoding="utf-8",
    )
    changed = open_bundle(copy)
    with pytest.raises(VerificationError, match="not those that the bundle was built from"):
        repeat_verification(changed.networks["faces"])


def test_a_folder_that_only_looks_like_a_bundle_is_left_alone(tmp_path):
    """Web applications have a manifest.json too; and a bundle in which somebody kept results is not ours to drop."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "manifest.json").write_text('{"name": "my site"}', encoding="utf-8")
    (site / "index.html").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="other things"):
        build.build(edge_plan(), site)
    assert (site / "index.html").read_text(encoding="utf-8") == "mine"
    target = tmp_path / "bundle"
    build.build(edge_plan(), target)
    (target / "faces.csv").write_text("results", encoding="utf-8")
    with pytest.raises(OutputError, match=r"faces\.csv"):
        build.build(edge_plan(), target)


def test_parts_of_an_interrupted_build_of_something_else_are_not_published(tmp_path):
    def stop(role, step):
        if (role, step.split()[0]) == ("identity", "exporting"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build.build(plan_of("detectorv1", "pyfeat-2.0", identity="facenet"), tmp_path / "bundle", stop)
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

    monkeypatch.setattr(publish, "_exchange", lambda one, other: False)
    monkeypatch.setattr(type(target), "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build.build(edge_plan(), target)
    assert open_bundle(target).verify_files() == 4


def test_a_bundle_from_a_folder_is_not_compared_with_other_weights(tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    state = dict(modules.load(network_row("mobilefacenet"), LANDMARK_CROP, stand_in_seed=0).module.state_dict())
    torch.save({"state_dict": state}, weights / "mobilefacenet_model_best.pth.tar")
    build.build(plan_of("detectorv1", "pyfeat-2.0", identity="none", weights=[weights]), tmp_path / "bundle")
    bundle = open_bundle(tmp_path / "bundle")
    with pytest.raises(CheckpointError, match="--weights DIR"):
        repeat_verification(bundle.networks["landmarks"])
    assert repeat_verification(bundle.networks["landmarks"], [weights])["landmarks"].passed

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fexruntime import Detector, open_bundle
from fexruntime.bundle import edge_bundle_path
from fexruntime.canonical import check_canonical
from fexruntime.errors import BundleError


@pytest.fixture
def bundle(tmp_path):
    shutil.copytree(edge_bundle_path(), tmp_path / "bundle")
    return tmp_path / "bundle"


def change_manifest(bundle, change):
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    change(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")


def test_the_packaged_bundle_is_small_and_whole():
    bundle = open_bundle()
    assert bundle.path == edge_bundle_path()
    assert sum(p.stat().st_size for p in edge_bundle_path().iterdir()) < 2_000_000
    assert bundle.verify_files() == 4
    assert bundle.stand_ins == []
    assert all(check.passed and check.max < 1e-5 for check in check_canonical(bundle))


@pytest.mark.parametrize("name", ["faces.onnx", "faces.canonical.npz", "verification.json", "NOTICES.md"])
def test_a_changed_byte_is_found(bundle, name):
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name}.*is not the file that was verified"):
        open_bundle(bundle).verify_files()
    if name.endswith("onnx"):
        with pytest.raises(BundleError, match="is not the file that was verified"):
            Detector(bundle)


def test_a_missing_file_is_named(bundle):
    (bundle / "faces.onnx").unlink()
    with pytest.raises(BundleError, match=r"faces\.onnx"):
        Detector(bundle)


@pytest.mark.parametrize("path", ["../faces.onnx", "/etc/hostname", "a/../../x"])
def test_a_path_that_leaves_the_bundle_is_refused(bundle, path):
    change_manifest(bundle, lambda m: m["networks"]["faces"]["variants"][0]["model"].update(file=path))
    with pytest.raises(BundleError, match="outside the bundle"):
        open_bundle(bundle)


def test_a_bundle_of_links_runs_and_its_bytes_are_checked(bundle, tmp_path, photo):
    """The hub's cache is made so: snapshots/COMMIT/FILE is a link to blobs/DIGEST."""
    snapshot, blobs = tmp_path / "snapshots" / "c0ffee", tmp_path / "blobs"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for file in bundle.iterdir():
        shutil.move(file, blobs / file.name)
        (snapshot / file.name).symlink_to(Path("..") / ".." / "blobs" / file.name)
    assert open_bundle(snapshot).verify_files() == 4
    assert len(Detector(snapshot).detect(photo)) == 1
    data = bytearray((blobs / "faces.onnx").read_bytes())
    data[-1000] ^= 1
    (blobs / "faces.onnx").write_bytes(data)
    with pytest.raises(BundleError, match="is not the file that was verified"):
        Detector(snapshot)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.update(format=99), "format 99"),
        (lambda m: m.update(contract="pyfeat-9"), "no pipeline"),
        (lambda m: m.pop("networks"), "networks"),
        (lambda m: m["networks"].clear(), "there is no network for faces"),
        (lambda m: m["networks"]["faces"].update(network="resnet"), "resnet cannot be the faces"),
        (lambda m: m["networks"]["faces"].pop("weights"), "weights"),
        (lambda m: m["networks"]["faces"].update(inputs=[]), "has no inputs"),
        (lambda m: m["networks"]["faces"]["outputs"].pop(), "the inputs or outputs of faces are not those of"),
        (lambda m: m["networks"]["faces"]["inputs"][0].update(name="x"), "the inputs or outputs of faces"),
        (
            lambda m: m["networks"]["faces"]["weights"].append(m["networks"]["faces"]["weights"][0]),
            "has 2 weights files",
        ),
        (lambda m: m["networks"]["faces"]["inputs"][0].pop("name"), r"inputs\[0\] lacks name"),
        (lambda m: m["networks"]["faces"]["weights"][0].pop("revision"), r"weights\[0\] lacks revision"),
        (lambda m: m["networks"]["faces"]["weights"][0].update(bytes=3), r"weights\[0\] has 'bytes', which is not"),
        (lambda m: m["networks"]["faces"]["variants"][0]["model"].update(size_bytes="x"), r"model\.size_bytes is 'x'"),
        (lambda m: m["networks"]["faces"]["variants"][0]["model"].update(size_bytes=True), "not an int"),
        (lambda m: m["networks"]["faces"]["variants"][0]["model"].update(file="a\0b"), "outside the bundle"),
        (lambda m: m["networks"].update(mouth=m["networks"]["faces"]), "has no role 'mouth'"),
        (lambda m: m.update(contract_sha256="0" * 64), "other contract rows"),
        (lambda m: m["networks"]["faces"]["weights"][0].update(source="mail"), "is damaged"),
        (lambda m: m["verification"].update(file="../x"), "outside the bundle"),
    ],
)
def test_damaged_manifests(bundle, change, says):
    change_manifest(bundle, change)
    with pytest.raises(BundleError, match=says):
        open_bundle(bundle)


def test_no_bundle_there(tmp_path):
    with pytest.raises(BundleError, match="fexport build"):
        open_bundle(tmp_path / "nothing")
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        open_bundle(tmp_path)
    (tmp_path / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(BundleError, match="cannot read"):
        open_bundle(tmp_path)


@pytest.mark.parametrize(("role", "contract"), [("multitask", "pyfeat-2.1"), (None, "pyfeat-2.1")])
def test_a_contract_that_is_not_the_networks_is_refused(v2_bundle, tmp_path, role, contract):
    """One word used to flip the signs of Pitch and gaze_pitch: the network has to be one of the row's."""
    copy = tmp_path / "bundle"
    copy.mkdir()
    for file in v2_bundle.iterdir():
        (copy / file.name).symlink_to(file)
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    manifest["contract"] = contract
    (copy / "manifest.json").unlink()
    (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(BundleError, match=r"multitask-v2 cannot be the multitask of detectorv2 under pyfeat-2\.1"):
        open_bundle(copy)


def test_the_contract_of_a_pipeline_that_follows_both_cannot_be_changed_either(bundle):
    change_manifest(bundle, lambda m: m.update(contract="pyfeat-2.0"))
    with pytest.raises(BundleError, match="other contract rows"):
        open_bundle(bundle)


def test_a_table_row_that_changed_is_noticed(v1_bundle, monkeypatch):
    """A crop, a sign or a mean of the running code changes what an older bundle's numbers mean."""
    from fexruntime.contracts import Preprocessing, networks, pipelines

    open_bundle(v1_bundle)
    row = pipelines.pipeline_row("detectorv1")
    with monkeypatch.context() as patch:
        patch.setattr(pipelines, "PIPELINES", [dataclasses.replace(row, pitch_up=-1.0)])
        with pytest.raises(BundleError, match="other contract rows"):
            open_bundle(v1_bundle)
    mean = Preprocessing(mean=(9.0, 9.0, 9.0))
    changed = dataclasses.replace(networks.NETWORKS["arcface"], preprocessing=mean)
    with monkeypatch.context() as patch:
        patch.setitem(networks.NETWORKS, "arcface", changed)
        with pytest.raises(BundleError, match="other contract rows"):
            open_bundle(v1_bundle)
    with monkeypatch.context() as patch:  # words are not numbers
        patch.setitem(networks.NETWORKS, "arcface", dataclasses.replace(networks.NETWORKS["arcface"], licence="MIT"))
        open_bundle(v1_bundle)


def test_roles_run_in_the_pipelines_order_whatever_the_manifests(v1_edge_bundle, tmp_path, photo):
    copy = tmp_path / "bundle"
    shutil.copytree(v1_edge_bundle, copy)
    change_manifest(copy, lambda m: m.update(networks=dict(reversed(m["networks"].items()))))
    assert list(open_bundle(copy).networks) == ["faces", "landmarks", "pose", "identity"]
    expected = Detector(v1_edge_bundle).detect(photo).values
    assert np.array_equal(Detector(copy).detect(photo).values, expected, equal_nan=True)


@pytest.mark.parametrize(
    ("networks", "says"),
    [
        (
            {"faces": {"network": "retinaface-mobilenet025", "weights": [{"source": "package"}]}},
            "--face-detector retinaface-mobilenet025",
        ),
        ({"faces": "?"}, "fexport build"),
        (None, "fexport build"),
    ],
)
def test_a_bundle_of_an_older_format_says_which_command_makes_it_again(tmp_path, networks, says):
    folder = tmp_path / "old"
    folder.mkdir()
    manifest = {"format": 1, "fexport": "0.1.0", "pipeline": "faces", "contract": "pyfeat-2.0", "networks": networks}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(BundleError, match="has format 1") as error:
        open_bundle(folder)
    assert says in str(error.value)
    assert str(folder) in str(error.value)


def test_the_command_that_makes_a_bundle_again_is_one_that_works(v1_edge_bundle, tmp_path):
    import shlex

    from fexruntime.bundle import read_manifest, rebuild_command

    manifest = read_manifest(v1_edge_bundle)
    words = shlex.split(rebuild_command(manifest, tmp_path / "my bundle"))
    assert words[:3] == ["fexport", "build", str(tmp_path / "my bundle")]
    assert words[words.index("--identity") + 1] == "facenet"
    assert "--stand-in" in words
    del manifest["networks"]["faces"], manifest["networks"]["pose"]
    manifest["networks"]["identity"]["weights"][0]["seed"] = 7
    words = shlex.split(rebuild_command(manifest, tmp_path))
    assert "--face-detector" not in words
    assert words[words.index("--pose") + 1] == "none"
    assert words[words.index("--seed") + 1] == "7"


def test_constants_that_decode_are_part_of_the_contract_and_what_a_bundle_lacks_is_not(monkeypatch):
    from fexruntime.contracts import Choice, Group, Stage, contract_sha256, digest, pipeline_row

    row = pipeline_row("detectorv1")
    parts = {"faces": "retinaface-r34", "landmarks": "mobilefacenet"}
    before = contract_sha256(row, "pyfeat-2.0", parts)
    stage = Stage("gaze", (Choice("arcface", ("landmarks_xy_px",)),), "as-is", ("gaze_rad",))
    more = dataclasses.replace(
        row, stages=(*row.stages, stage), groups=(*row.groups, Group("more", "blendshapes", ("a", "b")))
    )
    assert contract_sha256(more, "pyfeat-2.0", parts) == before
    monkeypatch.setitem(digest._CONSTANTS, "retinaface", ((0.3, 0.2),))
    assert contract_sha256(row, "pyfeat-2.0", parts) != before


def test_an_answer_that_was_never_recorded_is_not_reproduced(bundle):
    """With only the input in it, "all recorded answers" are reproduced by anything."""
    path = bundle / "faces.canonical.npz"
    recorded = dict(np.load(path))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{k: v for k, v in recorded.items() if not k.startswith("output.conf")})
    path.write_bytes(buffer.getvalue())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    change_manifest(bundle, lambda m: m["networks"]["faces"]["variants"][0]["canonical"].update(sha256=digest))
    with pytest.raises(BundleError, match=r"lack output\.conf"):
        check_canonical(open_bundle(bundle))


def test_a_folder_called_edge_hides_nothing(tmp_path, monkeypatch, photo):
    (tmp_path / "edge").mkdir()
    monkeypatch.chdir(tmp_path)
    assert len(Detector().detect(photo)) == 1
    assert open_bundle("edge").path == edge_bundle_path()
    with pytest.raises(BundleError, match="is not a bundle"):
        open_bundle(Path("edge"))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_describe_reads_the_precision_off_the_graph(tmp_path, dtype):
    pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    from fexruntime.backends.onnx_bytes import types_of

    weight = numpy_helper.from_array(np.ones((3, 4), dtype), "w")
    edge = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, k]) for n, k in (("x", 3), ("y", 4))]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", edge[:1], edge[1:], [weight])
    model = helper.make_model(graph).SerializeToString()
    name = {"float32": "fp32", "float16": "fp16"}[dtype]
    assert types_of(model) == (name, name)
    # weights that a cast alone reads are stored so, and computed in what they are cast to
    cast = [helper.make_node("Cast", ["w"], ["v"], to=TensorProto.FLOAT), helper.make_node("MatMul", ["x", "v"], ["y"])]
    widened = helper.make_graph(cast, "g", edge[:1], edge[1:], [weight])
    assert types_of(helper.make_model(widened).SerializeToString()) == ("fp32", name)
    quantised = helper.make_graph(
        [helper.make_node("DequantizeLinear", ["x", "w"], ["y"])], "g", edge[:1], edge[1:], [weight]
    )
    assert types_of(helper.make_model(quantised).SerializeToString()) == ("int8", "int8")


def test_facemesh_computes_in_fp32_what_is_stored_as_float16():
    with Detector("facemesh") as detector:
        assert {(said["precision"], said["weights"]) for said in detector.describe().values()} == {("fp32", "fp16")}


def test_the_manifests_word_on_precision_does_not_count(bundle):
    change_manifest(bundle, lambda m: m["networks"]["faces"]["variants"][0].update(precision="int8"))
    with pytest.raises(BundleError, match="has no fp32 artefact"):
        Detector(bundle, precision="fp32")
    for precision in (None, "int8"):  # what runs is read off the graph
        assert Detector(bundle, precision=precision).describe()["faces"]["precision"] == "fp32"

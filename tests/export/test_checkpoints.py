from __future__ import annotations

import json
import pickle

import pytest
import torch
from conftest import LANDMARKS_AND_POSE
from safetensors.torch import load_file, save_file

from fexport import build, checkpoints, modules, plan
from fexport.networks import RECIPES
from fexruntime.contracts import LANDMARK_CROP, MULTITASK_CHIP, network_row
from fexruntime.errors import CheckpointError
from fexruntime.files import file_sha256


@pytest.fixture(scope="module")
def multitask():
    """Stand-in tensors and configurations of both multitask checkpoints."""
    made = {}
    for name in ("multitask-v2", "multitask-v28"):
        made[name] = (dict(stand_in(name).module.state_dict()), dict(RECIPES[name].stand_in.config))
    return made


def write(folder, filename, tensors, config):
    metadata = None if config is None else {"config": json.dumps(config)}
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / filename, metadata)


def load(folder, name="multitask-v2"):
    return modules.load(network_row(name), MULTITASK_CHIP, [folder])


def stand_in(name):
    crop = MULTITASK_CHIP if name.startswith("multitask") else LANDMARK_CROP
    return modules.load(network_row(name), crop, stand_in_seed=0)


def test_key_counts_are_the_published_ones(multitask):
    assert len(multitask["multitask-v2"][0]) == 367
    assert len(multitask["multitask-v28"][0]) == 373
    assert sum(t.numel() for t in multitask["multitask-v28"][0].values()) == 41_694_779
    counts = {"retinaface-r34": 354, "mobilefacenet": 333, "arcface": 263, "facenet": 716, "pose-mlp": 14}
    for name, count in counts.items():
        assert len(stand_in(name).module.state_dict()) == count, name


def test_flags_come_from_the_checkpoint(tmp_path, multitask):
    tensors, config = multitask["multitask-v2"]
    without = {k: v for k, v in tensors.items() if not k.startswith(("blendshape", "log_var_blendshape"))}
    write(tmp_path, "face_multitask_v2.safetensors", without, config | {"n_blendshape": 0})
    loaded = load(tmp_path)
    with torch.inference_mode():
        assert len(loaded.module(torch.zeros(1, 3, 256, 256))) == 6
    write(tmp_path, "face_multitask_v2.safetensors", tensors, config | {"n_blendshape": 0})
    with pytest.raises(CheckpointError, match="extra"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("proj.weight"), r"1 missing \(proj.weight\)"),
        (lambda t: t.update(surplus=torch.zeros(1)), r"1 extra \(surplus\)"),
        (lambda t: t.update({"proj.weight": torch.zeros(2, 2)}), r"1 misshaped \(proj.weight \(2, 2\) not"),
        (lambda t: t.update({"proj.weight": t["proj.weight"] * float("nan")}), "not finite"),
    ],
)
def test_a_checkpoint_that_is_off_is_refused(tmp_path, multitask, change, says):
    tensors, config = multitask["multitask-v2"]
    tensors = dict(tensors)
    change(tensors)
    write(tmp_path, "face_multitask_v2.safetensors", tensors, config)
    with pytest.raises(CheckpointError, match=says):
        load(tmp_path)


def test_a_v28_file_is_refused_by_pyfeat_20(tmp_path, multitask):
    write(tmp_path, "face_multitask_v2.safetensors", *multitask["multitask-v28"])
    with pytest.raises(CheckpointError, match=r"--contract pyfeat-2\.1"):
        load(tmp_path)


@pytest.mark.parametrize("change", [{"use_head_v3": False}, {"drop_mefl": False}, {"n_au": 24}, {"n_blendshape": 51}])
def test_flags_that_are_not_exported_are_refused(tmp_path, multitask, change):
    tensors, config = multitask["multitask-v2"]
    write(tmp_path, "face_multitask_v2.safetensors", tensors, config | change)
    with pytest.raises(CheckpointError, match=str(next(iter(change.values())))):
        load(tmp_path)


def test_a_file_without_a_configuration_is_refused(tmp_path, multitask):
    write(tmp_path, "face_multitask_v2.safetensors", multitask["multitask-v2"][0], None)
    with pytest.raises(CheckpointError, match="no configuration"):
        load(tmp_path)


def test_the_older_pt_layout_is_read(tmp_path, multitask):
    tensors, config = multitask["multitask-v2"]
    torch.save({"model": tensors, "config": config}, tmp_path / "face_multitask_v2.pt")
    loaded = load(tmp_path)
    assert loaded.records[0].filename == "face_multitask_v2.pt"
    assert torch.equal(loaded.module.state_dict()["proj.weight"], tensors["proj.weight"])


class Attack:
    def __reduce__(self):
        return print, ("code of the pickle has run",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path, capsys):
    with (tmp_path / "face_multitask_v2.pt").open("wb") as file:
        pickle.dump({"model": Attack(), "config": {}}, file)
    with pytest.raises(CheckpointError, match="without running code"):
        load(tmp_path)
    torch.save({"state_dict": Attack()}, tmp_path / "mobilefacenet_model_best.pth.tar")
    with pytest.raises(CheckpointError, match="without running code"):
        load(tmp_path, "mobilefacenet")
    assert "has run" not in capsys.readouterr().out


def test_a_truncated_file_is_refused(tmp_path, multitask):
    write(tmp_path, "face_multitask_v2.safetensors", *multitask["multitask-v2"])
    path = tmp_path / "face_multitask_v2.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load(tmp_path)


def test_arcface_may_lack_its_batch_counters_and_nothing_else(tmp_path):
    tensors = dict(stand_in("arcface").module.state_dict())
    write(tmp_path, "arcface_r50.safetensors", {k: v for k, v in tensors.items() if "num_batches" not in k}, None)
    load(tmp_path, "arcface")
    write(tmp_path, "arcface_r50.safetensors", {k: v for k, v in tensors.items() if "running_var" not in k}, None)
    with pytest.raises(CheckpointError, match="missing"):
        load(tmp_path, "arcface")


def test_weights_that_are_not_there_are_named_with_the_fix(tmp_path):
    with pytest.raises(CheckpointError, match=r"arcface_r50\.safetensors are not in"):
        load(tmp_path, "arcface")


def test_without_the_hub_the_fix_is_a_folder(monkeypatch):
    import huggingface_hub

    def unreachable(*_, **__):
        raise OSError("cannot reach the hub")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(CheckpointError, match="--weights DIR"):
        modules.load(network_row("arcface"), LANDMARK_CROP)


@pytest.mark.parametrize(
    ("name", "status", "says"),
    [
        (
            "GatedRepoError",
            403,
            "is gated: accept its terms on https://huggingface.co/py-feat/arcface_r50, then `hf auth login`",
        ),
        ("RepositoryNotFoundError", 401, "404, https://huggingface.co/py-feat/arcface_r50 is not there, or private"),
        ("RevisionNotFoundError", 404, "404, py-feat/arcface_r50 has no such file"),
        ("RemoteEntryNotFoundError", 404, "404, py-feat/arcface_r50 has no such file"),
        ("HfHubHTTPError", 503, "py-feat/arcface_r50: it answered 503"),
        ("LocalEntryNotFoundError", None, "no connection to it, and nothing of them in its cache"),
    ],
)
def test_what_the_hub_refused_is_one_sentence_with_its_cure(monkeypatch, name, status, says):
    import httpx
    import huggingface_hub
    from huggingface_hub import errors

    words = "Client Error. (Request ID: Root=1)\n\nEntry Not Found for url: …\nPlease make sure you specified …"

    def refuse(*_, **__):
        kind = getattr(errors, name)
        if status is None:
            raise kind(words)
        request = httpx.Request("GET", "https://huggingface.co/x")
        raise kind(words, response=httpx.Response(status, request=request))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setattr(checkpoints, "hub_answers", lambda: True)
    with pytest.raises(CheckpointError) as error:
        modules.load(network_row("arcface"), LANDMARK_CROP)
    assert says in str(error.value)
    assert "--weights DIR" in str(error.value)
    assert "\n" not in str(error.value)
    assert "Request ID" not in str(error.value)


def test_weights_from_the_hub_are_recorded_with_their_commit(tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    tensors = dict(stand_in("facenet").module.state_dict())
    snapshot = tmp_path / "models--x" / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    torch.save(tensors, snapshot / "facenet_20180402_114759_vggface2.pth")
    asked = []

    def download(repository, filename, revision=None, **_):
        asked.append((repository, filename))
        if not (snapshot / filename).exists():
            raise EntryNotFoundError("no such file")
        return str(snapshot / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    loaded = modules.load(network_row("facenet"), LANDMARK_CROP)
    assert asked == [("py-feat/facenet", "facenet_20180402_114759_vggface2.pth")]
    assert loaded.records[0].source == "hub"
    assert loaded.records[0].revision == "0123abcd"


def test_a_download_that_is_not_the_published_file_names_both_digests(tmp_path, monkeypatch):
    import huggingface_hub

    row = network_row("retinaface-r34").files[0]
    (tmp_path / "model.safetensors").write_bytes(b"something else")
    asked = []

    def download(repository, filename, revision=None, **_):
        asked.append((filename, revision))
        return str(tmp_path / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(CheckpointError, match="not the published file") as error:
        modules.load(network_row("retinaface-r34"), None)
    assert row.sha256 in str(error.value)
    assert file_sha256(tmp_path / "model.safetensors") in str(error.value)
    assert asked == [("model.safetensors", row.revision)]


def test_a_users_own_file_is_taken_and_recorded_as_not_the_published_one(tmp_path):
    tensors = dict(stand_in("arcface").module.state_dict())
    write(tmp_path, "arcface_r50.safetensors", tensors, None)
    (record,) = load(tmp_path, "arcface").records
    assert record.source == "folder"
    assert not record.published
    assert record.sha256 == file_sha256(tmp_path / "arcface_r50.safetensors")


def test_the_first_folder_that_has_a_file_wins(tmp_path):
    tensors = dict(stand_in("arcface").module.state_dict())
    for folder in ("empty", "first", "second"):
        (tmp_path / folder).mkdir()
    write(tmp_path / "first", "arcface_r50.safetensors", tensors, None)
    write(tmp_path / "second", "arcface_r50.safetensors", {k: v + 1 for k, v in tensors.items()}, None)
    folders = [tmp_path / name for name in ("empty", "first", "second")]
    (record,) = modules.load(network_row("arcface"), MULTITASK_CHIP, folders).records
    assert record.sha256 == file_sha256(tmp_path / "first" / "arcface_r50.safetensors")


def test_an_earlier_version_of_the_weights_is_read_under_its_own_name(tmp_path, multitask):
    write(tmp_path, "face_multitask_v27.safetensors", *multitask["multitask-v28"])
    loaded = load(tmp_path, "multitask-v28")
    (record,) = loaded.records
    assert record.filename == "face_multitask_v27.safetensors"
    assert not record.published
    assert "face_multitask_v27.safetensors is not the published file" in loaded.notes[0]


def test_pose_mlp_needs_its_statistics(tmp_path):
    tensors = dict(stand_in("pose-mlp").module.state_dict())
    write(tmp_path, "pose_mlp_v2.safetensors", tensors, None)
    with pytest.raises(CheckpointError, match=r"pose_mlp_v2\.json"):
        load(tmp_path, "pose-mlp")
    (tmp_path / "pose_mlp_v2.json").write_text(
        json.dumps({"architecture": {"hidden": [512, 256, 128]}}), encoding="utf-8"
    )
    with pytest.raises(CheckpointError, match="output_normalization"):
        load(tmp_path, "pose-mlp")


def test_pose_mlp_of_version_1_is_recognised(tmp_path):
    """No LayerNorm, ReLU: told by its keys; both backends follow."""
    import numpy as np

    from fexport.networks.pose_mlp import PoseMLP

    norm = RECIPES["pose-mlp"].stand_in.config["architecture"]["output_normalization"]
    torch.manual_seed(0)
    module = PoseMLP([256, 128, 64], False, norm["mean"], norm["std"]).eval()
    write(tmp_path, "pose_mlp_v2.safetensors", dict(module.state_dict()), None)
    config = {"architecture": {"hidden": [256, 128, 64], "dropout": 0.1, "output_normalization": norm}}
    (tmp_path / "pose_mlp_v2.json").write_text(json.dumps(config), encoding="utf-8")
    folder = tmp_path / "bundle"
    for file, name in (("mobilefacenet_model_best.pth.tar", "mobilefacenet"),):
        state = stand_in(name).module.state_dict()
        torch.save({"state_dict": dict(state)}, tmp_path / file)
    choices = {"faces": "retinaface-mobilenet025", "identity": "none"} | LANDMARKS_AND_POSE
    build.build(plan.plan("detectorv1", "pyfeat-2.0", choices, [tmp_path]), folder)
    from fexruntime import Place, open_bundle
    from fexruntime.backends import open_variant

    points = np.random.RandomState(0).uniform(0, 200, (3, 68, 2)).astype(np.float32)
    with torch.inference_mode():
        expected = module(torch.from_numpy(points)).numpy()
    network = open_bundle(folder).networks["pose"]
    assert {v.kind for v in network.record.variants} == {"onnx", "arrays"}
    for variant in network.record.variants:
        found = open_variant(network, variant, Place()).infer({"landmarks_xy": points})["pose"]
        assert np.abs(found - expected).max() < 1e-5, variant.kind


def test_the_packaged_weights_are_the_published_ones():
    row = network_row("retinaface-mobilenet025").files[0]
    path = checkpoints.PACKAGED / row.filename
    assert file_sha256(path) == row.sha256
    assert path.stat().st_size == row.size_bytes
    assert len(load_file(path)) > 200


@pytest.mark.parametrize("config", ["v2.5", 5, [1]])
def test_a_configuration_that_is_no_mapping_is_refused(tmp_path, multitask, config):
    tensors, _ = multitask["multitask-v2"]
    write(tmp_path, "face_multitask_v2.safetensors", tensors, config)
    with pytest.raises(CheckpointError, match="its configuration is a"):
        load(tmp_path)
    (tmp_path / "face_multitask_v2.safetensors").unlink()
    torch.save({"model": tensors, "config": config}, tmp_path / "face_multitask_v2.pt")
    with pytest.raises(CheckpointError, match="its configuration is a"):
        load(tmp_path)


def test_a_flag_of_the_wrong_type_is_refused(tmp_path, multitask):
    tensors, config = multitask["multitask-v2"]
    write(tmp_path, "face_multitask_v2.safetensors", tensors, config | {"knn_k": "4"})
    with pytest.raises(CheckpointError, match="knn_k='4'"):
        load(tmp_path)

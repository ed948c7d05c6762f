from __future__ import annotations

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from fexport import build, checkpoints, modules, standin
from fexruntime.contracts import network_row
from fexruntime.digest import file_sha256
from fexruntime.errors import CheckpointError

V28 = standin.MULTITASK_CONFIG | standin.MULTITASK_FLAGS["multitask-v28"]


@pytest.fixture(scope="module")
def multitask():
    """Stand-in tensors and configurations of both multitask checkpoints."""
    made = {}
    for name in ("multitask-v2", "multitask-v28"):
        loaded = modules.load(network_row(name), None, 256, stand_in_seed=0)
        made[name] = (dict(loaded.module.state_dict()), standin.MULTITASK_CONFIG | standin.MULTITASK_FLAGS[name])
    return made


def write(folder, filename, tensors, config):
    metadata = None if config is None else {"config": json.dumps(config)}
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / filename, metadata)


def load(folder, name="multitask-v2"):
    return modules.load(network_row(name), folder, 256)


def test_key_counts_are_the_published_ones(multitask):
    assert len(multitask["multitask-v2"][0]) == 367
    assert len(multitask["multitask-v28"][0]) == 373
    assert sum(t.numel() for t in multitask["multitask-v28"][0].values()) == 41_694_779
    counts = {"retinaface-r34": 354, "mobilefacenet": 333, "arcface": 263, "facenet": 716, "pose-mlp": 14}
    for name, count in counts.items():
        assert len(modules.load(network_row(name), None, 112, 0).module.state_dict()) == count, name


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
    assert loaded.records[0]["filename"] == "face_multitask_v2.pt"
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
    tensors = dict(modules.load(network_row("arcface"), None, 112, 0).module.state_dict())
    write(tmp_path, "arcface_r50.safetensors", {k: v for k, v in tensors.items() if "num_batches" not in k}, None)
    load(tmp_path, "arcface")
    write(tmp_path, "arcface_r50.safetensors", {k: v for k, v in tensors.items() if "running_var" not in k}, None)
    with pytest.raises(CheckpointError, match="missing"):
        load(tmp_path, "arcface")


def test_weights_that_are_not_there_are_named_with_the_fix(tmp_path):
    with pytest.raises(CheckpointError, match=r"arcface_r50\.safetensors, which is not in"):
        load(tmp_path, "arcface")


def test_without_the_hub_the_fix_is_a_folder(monkeypatch):
    import huggingface_hub

    def unreachable(*_, **__):
        raise OSError("cannot reach the hub")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(CheckpointError, match="--weights DIR"):
        modules.load(network_row("arcface"), None, 112)


def test_weights_from_the_hub_are_recorded_with_their_commit(tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    tensors = dict(modules.load(network_row("retinaface-r34"), None, 112, 0).module.state_dict())
    snapshot = tmp_path / "models--x" / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    write(snapshot, "retinaface_r34.safetensors", tensors, None)
    asked = []

    def download(repository, filename, revision=None):
        asked.append((repository, filename))
        if not (snapshot / filename).exists():
            raise EntryNotFoundError("no such file")
        return str(snapshot / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    loaded = modules.load(network_row("retinaface-r34"), None, 112)
    assert asked == [("py-feat/retinaface_r34", f) for f in ("model.safetensors", "retinaface_r34.safetensors")]
    assert loaded.records[0]["source"] == "hub"
    assert loaded.records[0]["revision"] == "0123abcd"


def test_pose_mlp_needs_its_statistics(tmp_path):
    tensors = dict(modules.load(network_row("pose-mlp"), None, 112, 0).module.state_dict())
    write(tmp_path, "pose_mlp_v2.safetensors", tensors, None)
    with pytest.raises(CheckpointError, match=r"pose_mlp_v2\.json"):
        load(tmp_path, "pose-mlp")
    (tmp_path / "pose_mlp_v2.json").write_text(json.dumps({"architecture": {"hidden": [512, 256, 128]}}))
    with pytest.raises(CheckpointError, match="output_normalization"):
        load(tmp_path, "pose-mlp")


def test_pose_mlp_of_version_1_is_recognised(tmp_path):
    """No LayerNorm, ReLU: told by its keys; both backends follow."""
    import numpy as np

    from fexport.networks.pose_mlp import PoseMLP

    norm = standin.POSE_MLP_ARCHITECTURE["output_normalization"]
    torch.manual_seed(0)
    module = PoseMLP([256, 128, 64], False, norm["mean"], norm["std"]).eval()
    write(tmp_path, "pose_mlp_v2.safetensors", dict(module.state_dict()), None)
    config = {"architecture": {"hidden": [256, 128, 64], "dropout": 0.1, "output_normalization": norm}}
    (tmp_path / "pose_mlp_v2.json").write_text(json.dumps(config))
    folder = tmp_path / "bundle"
    for file, name in (("mobilefacenet_model_best.pth.tar", "mobilefacenet"),):
        state = modules.load(network_row(name), None, 112, 0).module.state_dict()
        torch.save({"state_dict": dict(state)}, tmp_path / file)
    plan = build.plan("detectorv1", "pyfeat-2.0", "retinaface-mobilenet025", "none", tmp_path)
    build.build(plan, folder)
    from fexruntime import open_bundle
    from fexruntime.backends import make_backend

    points = np.random.RandomState(0).uniform(0, 200, (3, 68, 2)).astype(np.float32)
    with torch.inference_mode():
        expected = module(torch.from_numpy(points)).numpy()
    network = open_bundle(folder).networks["pose"]
    for backend in ("numpy", "onnxruntime"):
        found = make_backend(backend, network).infer({"landmarks_xy": points})["pose"]
        assert np.abs(found - expected).max() < 1e-5, backend


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

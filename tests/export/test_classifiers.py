"""Boosted trees and linear machines against xgboost and scikit-learn's own steps, and .skops files as data."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile

import numpy as np
import pytest
import torch

from fexport import modules, samples, verify
from fexport.networks import RECIPES, xgb_au
from fexport.skops_files import read_skops
from fexruntime.backends.arrays import FUNCTIONS
from fexruntime.backends.classifiers import decisions
from fexruntime.contracts import Choice, network_row
from fexruntime.errors import CheckpointError

NAMES = ("xgb-au", "svm-au", "svm-emotion")
CASES = samples.cases(network_row("xgb-au"), Choice("xgb-au", ("hog", "hog_points")))


def node(kind, module, loader, **more):
    return {"__class__": kind, "__module__": module, "__loader__": loader, "__id__": id(more), **more}


def skops(tensors, config, wrapper=("XGBClassifier", "feat.somewhere"), extra=None):
    """A file as skops lays it out, of tensors by path and plain values by path."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        tree: dict = {}
        for path, value in [*tensors.items(), *config.items()]:
            *parents, leaf = path.split(".")
            at = tree
            for name in parents:
                at = at.setdefault(name, {})
            if isinstance(value, torch.Tensor) and value.dtype == torch.uint8:
                archive.writestr(f"{path}.bin", value.numpy().tobytes())
                at[leaf] = node("bytearray", "builtins", "BytearrayNode", file=f"{path}.bin")
            elif isinstance(value, torch.Tensor):
                data = io.BytesIO()
                np.save(data, value.numpy())
                archive.writestr(f"{path}.npy", data.getvalue())
                at[leaf] = node("ndarray", "numpy", "NdArrayNode", type="numpy", file=f"{path}.npy")
            else:
                at[leaf] = node("str", "builtins", "JsonNode", content=json.dumps(value))
        kinds = {
            "scaler": ("StandardScaler", "sklearn.preprocessing._data"),
            "pca": ("PCA", "sklearn.decomposition._pca"),
        }

        def built(name, value):
            if "__class__" in value:
                return value
            content = {k: built(k, v) for k, v in value.items()}
            held = node("dict", "builtins", "DictNode", content=content)
            if name == "classifiers":
                return held
            kind = kinds.get(name.partition("_")[0], ("LinearSVC", "sklearn.svm._classes"))
            kind = ("XGBClassifier", "xgboost.sklearn") if "_Booster" in value else kind
            kind = ("Booster", "xgboost.core") if name == "_Booster" else kind
            return node(*kind, "ObjectNode", content=held)

        content = {k: built(k, v) for k, v in tree.items()} | (extra or {})
        root = node(*wrapper, "ObjectNode", content=node("dict", "builtins", "DictNode", content=content))
        archive.writestr("schema.json", json.dumps(root))
    return buffer.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_arrays_answer_what_the_libraries_answer(name):
    loaded = modules.load(network_row(name), None, stand_in_seed=3)
    arrays = loaded.recipe.arrays(loaded.module)
    compared = 0
    for case in CASES["faces"] + CASES["noise"]:
        expected, steady = verify.reference(loaded, case)
        (found,) = FUNCTIONS[name](arrays, *case)
        assert np.abs(found - expected[loaded.outputs[0]])[steady].max() < 1e-6
        compared += int(steady.sum())
        assert len(np.unique(found)) > 1
    assert compared >= 8


@pytest.mark.parametrize("name", NAMES)
def test_a_skops_file_gives_the_same_network(name, tmp_path):
    checkpoint = RECIPES[name].stand_in.checkpoint(5)
    row = network_row(name)
    wrapper = ("EmoSVMClassifier", "__main__") if name == "svm-emotion" else ("XGBClassifier", "feat.au_detectors")
    (tmp_path / row.files[0].filename).write_bytes(skops(checkpoint.tensors, checkpoint.config, wrapper))
    loaded, made_up = modules.load(row, None, [tmp_path]), modules.load(row, None, stand_in_seed=5)
    assert not loaded.records[0].published
    for key, value in made_up.module.state_dict().items():
        assert torch.equal(loaded.module.state_dict()[key], value), key
    arrays = loaded.recipe.arrays(loaded.module), made_up.recipe.arrays(made_up.module)
    for key in arrays[0]:
        assert np.array_equal(arrays[0][key], arrays[1][key]), key


def test_a_file_with_anything_else_in_it_is_refused():
    checkpoint = RECIPES["svm-emotion"].stand_in.checkpoint(0)
    code = {"x": node("FunctionNode", "os", "FunctionNode", content={"module_path": "os", "function": "system"})}
    with pytest.raises(CheckpointError, match=r"holds os\.FunctionNode, which is not on the list"):
        read_skops("a.skops", skops(checkpoint.tensors, {}, extra=code))
    with pytest.raises(CheckpointError, match=r"holds sklearn\.pipeline\.Pipeline"):
        read_skops("a.skops", skops({}, {}, ("Pipeline", "sklearn.pipeline")))
    with pytest.raises(CheckpointError, match=r"not a whole \.skops file"):
        read_skops("a.skops", b"not a zip")
    with pytest.raises(CheckpointError, match=r"not a whole \.skops file"):
        read_skops("a.skops", skops(checkpoint.tensors, {})[:-200])


def test_an_array_of_objects_is_refused(tmp_path):
    """NumPy would unpickle it."""
    data = io.BytesIO()
    np.save(data, np.array([{"a": 1}], object), allow_pickle=True)
    good = skops({"scaler_full.mean_": torch.zeros(3)}, {})
    bad = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as source, zipfile.ZipFile(bad, "w") as target:
        for name in source.namelist():
            target.writestr(name, data.getvalue() if name.endswith(".npy") else source.read(name))
    with pytest.raises(CheckpointError, match="Object arrays cannot be loaded"):
        read_skops("a.skops", bad.getvalue())


def test_whitened_components_and_missing_parts(tmp_path):
    row = network_row("svm-au")
    checkpoint = RECIPES["svm-au"].stand_in.checkpoint(1)
    whitened = checkpoint.config | {"pca_model_full.whiten": True}
    path = tmp_path / row.files[0].filename
    path.write_bytes(skops(checkpoint.tensors, whitened, ("SVMClassifier", "feat.x")))
    loaded = modules.load(row, None, [tmp_path])
    plain = modules.load(row, None, stand_in_seed=1)
    case = CASES["faces"][0]
    (found,), (expected,) = (
        FUNCTIONS["svm-au"](loaded.recipe.arrays(loaded.module), *case),
        verify.reference(loaded, case)[0].values(),
    )
    assert np.array_equal(found, expected)
    both = [decisions(m.recipe.arrays(m.module), *case) for m in (loaded, plain)]
    assert np.abs(both[0] - both[1])[:, 1].max() > 0.01  # AU02 looks at the whole face
    assert np.array_equal(both[0][:, 0], both[1][:, 0])  # AU01 at the upper one
    less = {k: v for k, v in checkpoint.tensors.items() if ".AU12." not in k}
    path.write_bytes(skops(less, checkpoint.config, ("SVMClassifier", "feat.x")))
    with pytest.raises(CheckpointError, match=r"3 missing \(classifiers.AU12"):
        modules.load(row, None, [tmp_path])
    path.write_bytes(skops({}, {}, ("SVMClassifier", "feat.x")))
    with pytest.raises(CheckpointError, match="has no principal components of the upper face"):
        modules.load(row, None, [tmp_path])


def test_trees_that_this_runtime_cannot_walk_are_refused():
    learner = xgb_au._random_model(0, 1, 20)["learner"]
    trees = learner["gradient_booster"]["model"]["trees"]
    assert xgb_au._checked(1, learner, 156, 24)[0] == "binary:logistic"
    assert len(xgb_au._checked(1, learner, 156, 10)[1]) == 10
    with pytest.raises(CheckpointError, match="156 features, not 150"):
        xgb_au._checked(1, learner, 150, 24)
    trees[3]["split_type"][0] = 1
    with pytest.raises(CheckpointError, match="splits by category"):
        xgb_au._checked(1, learner, 156, 24)
    learner["objective"]["name"] = "multi:softprob"
    with pytest.raises(CheckpointError, match="objective multi:softprob"):
        xgb_au._checked(1, learner, 156, 24)
    learner["gradient_booster"]["name"] = "dart"
    with pytest.raises(CheckpointError, match="of kind dart"):
        xgb_au._checked(1, learner, 156, 24)


def test_a_face_without_numbers_has_no_action_units():
    loaded = modules.load(network_row("xgb-au"), None, stand_in_seed=0)
    vectors, points = (v.copy() for v in CASES["faces"][0])
    vectors[1, 7] = np.nan
    (found,) = FUNCTIONS["xgb-au"](loaded.recipe.arrays(loaded.module), vectors, points)
    assert np.isnan(found).all(axis=1).tolist() == [False, True, False, False]


def test_files_in_folders_of_their_repositories(tmp_path):
    """config.json is a name that several repositories have."""
    row = network_row("resmasknet")
    from fexport import checkpoints

    (tmp_path / "a" / "resmasknet").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "config.json").write_text('{"depth": 18}', encoding="utf-8")
    (tmp_path / "a" / "resmasknet" / "config.json").write_text('{"in_channels": 3, "num_classes": 7}', encoding="utf-8")
    (tmp_path / "b" / row.files[0].filename).write_bytes(b"")
    found = checkpoints.locate(row, [tmp_path / "a", tmp_path / "b"])
    assert [f.path.relative_to(tmp_path).as_posix() for f in found] == [
        f"b/{row.files[0].filename}",
        "a/resmasknet/config.json",
    ]
    with pytest.raises(CheckpointError, match="or into a sub-folder resmasknet"):
        checkpoints.locate(row, [tmp_path / "a"])


def test_a_config_of_another_network_is_refused():
    from fexport.checkpoints import Checkpoint
    from fexruntime.contracts.pipelines import EMOTION_CROP

    with pytest.raises(CheckpointError, match="is not resmasknet's: its in_channels is None, not 3"):
        RECIPES["resmasknet"].make(network_row("resmasknet"), Checkpoint({}, {"depth": 18}), EMOTION_CROP)
    other = dataclasses.replace(network_row("l2cs"), name="l2cs")
    assert "fc_finetune.weight" in other.optional_keys

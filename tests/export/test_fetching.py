"""Weights looked for all at once, fetched into a folder, made up as files."""

from __future__ import annotations

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError

from fexport import checkpoints, fetching, finding, modules, plan
from fexruntime.contracts import network_row
from fexruntime.errors import CheckpointError, OutputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Made-up weights of Detectorv2 under the older contract."""
    made = tmp_path_factory.mktemp("weights")
    written, left_out = fetching.write_stand_ins(plan.plan("detectorv2", "pyfeat-2.0", stand_in_seed=4), made)
    assert left_out == []
    assert {p.name for p in written} == {p.name for p in made.iterdir()}
    return made


def test_all_that_is_missing_is_said_at_once(tmp_path):
    with pytest.raises(CheckpointError) as error:
        finding.seeds_of(plan.plan("detectorv2", weights=[tmp_path]))
    said = str(error.value)
    for name in ("retinaface_r34.safetensors", "face_multitask_v28.safetensors", "arcface_r50.safetensors"):
        assert said.count(name) == 1
    assert "88.6 MB" in said
    assert "MIT" in said
    assert f"--to {tmp_path}" in said


def test_the_other_contract_is_named_where_its_weights_are_there(folder):
    with pytest.raises(CheckpointError, match=r"did you mean --contract pyfeat-2\.0\?"):
        finding.seeds_of(plan.plan("detectorv2", weights=[folder]))
    assert set(finding.seeds_of(plan.plan("detectorv2", "pyfeat-2.0", weights=[folder])).values()) == {None}


def test_stand_in_files_are_the_stand_ins_of_a_build(folder):
    for name in ("arcface", "multitask-v2"):
        crop = plan.plan("detectorv2", "pyfeat-2.0").parts["multitask"].choice.crop
        read, made = (modules.load(network_row(name), crop, f, s) for f, s in (([folder], None), ((), 4)))
        assert all(torch.equal(v, made.module.state_dict()[k]) for k, v in read.module.state_dict().items())
        assert read.config == made.config


def test_made_up_files_are_laid_out_as_pyfeat_reads_them(tmp_path):
    chosen = {"landmarks": "mobilenet", "au": "none", "gaze": "none", "identity": "none", "pose": "none"}
    fetching.write_stand_ins(plan.plan("detectorv1", "pyfeat-2.1", chosen, stand_in_seed=1), tmp_path)
    keys = {p.name: set(torch.load(p, weights_only=True)) for p in tmp_path.rglob("*.pt*")}
    assert keys.pop("mobilenet_224_model_best_gdconv_external.pth.tar") == {"state_dict"}
    assert keys == {"ResMaskNet_Z_resmasking_dropout1_rot30.pth": {"net"}}


def test_stand_in_files_replace_nothing(folder):
    with pytest.raises(OutputError, match="there already"):
        fetching.write_stand_ins(plan.plan("detectorv2", "pyfeat-2.0", stand_in_seed=1), folder)


@pytest.fixture
def hub(monkeypatch, folder):
    """A hub that has ArcFace alone."""

    def download(repository, filename, revision=None, **_):
        if filename == "arcface_r50.safetensors":
            return str(folder / filename)
        raise EntryNotFoundError("no such file")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(checkpoints, "hub_answers", lambda: True)
    row = network_row("arcface").files[0]
    digest = checkpoints.hashlib.sha256((folder / "arcface_r50.safetensors").read_bytes()).hexdigest()
    published = row.sha256
    object.__setattr__(row, "sha256", digest)
    yield
    object.__setattr__(row, "sha256", published)


def test_made_up_weights_are_looked_for_on_the_hub_first(hub):
    asked = plan.plan("detectorv2", stand_in_seed=7, ask_hub=True)
    assert finding.seeds_of(asked) == {"faces": 7, "multitask": 7, "identity": None}
    not_asked = plan.plan("detectorv2", stand_in_seed=7)
    assert finding.seeds_of(not_asked) == {"faces": 7, "multitask": 7, "identity": 7}


def test_fetch_copies_what_there_is_and_names_the_rest(hub, folder, tmp_path):
    networks = list(plan.plan("detectorv2").networks.values())
    fetched, lacking = fetching.fetch(networks, tmp_path / "new", lambda text: None)
    assert [p.read_bytes() for p in fetched] == [(folder / "arcface_r50.safetensors").read_bytes()]
    assert [item.network.name for item in lacking] == ["retinaface-r34", "multitask-v28"]
    again, _ = fetching.fetch(networks, tmp_path / "new", lambda text: pytest.fail(f"fetched again: {text}"))
    assert again == fetched

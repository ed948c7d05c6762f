"""TokenHPE against the original's answers: rotations, crops, columns; on stand-in weights (seed 0), which both sides have."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import GOLDENS

from fexport import build, modules, plan
from fexport.networks.tokenhpe import rotations, sine_table
from fexruntime import Detector, crop
from fexruntime.contracts import TOKENHPE_CROP, Crop, network_row
from fexruntime.errors import CheckpointError, InputError
from fexruntime.resample import resize_pillow
from fexruntime.rotations import euler, from_euler
from fexruntime.sources.images import read_image

MEAN, STD = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
R_LIMIT = 2e-5


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenhpe") / "bundle"
    build.build(plan.plan("tokenhpe", stand_in_seed=0), folder)
    return folder


@pytest.fixture(scope="module")
def detector(bundle):
    with Detector(bundle) as opened:
        yield opened


def synthetic():
    rng = np.random.RandomState(20261121)
    noise = rng.standard_normal((2, 3, 224, 224)).astype(np.float32)
    low = rng.standard_normal((3, 3, 8, 8)).astype(np.float32)
    return {"noise": noise, "blocks": low.repeat(28, 2).repeat(28, 3)}


@pytest.mark.parametrize("name", ["noise", "blocks"])
def test_the_graph_answers_what_the_original_answers(detector, name):
    golden = np.load(GOLDENS / "tokenhpe.npz")
    chips = (synthetic()[name] * STD + MEAN).astype(np.float32)  # the graph normalises; the original was fed past that
    found = detector._networks["rotation"].infer({"chips": chips})
    assert np.abs(found["rotation"] - golden[f"{name}|R"]).max() < R_LIMIT
    assert np.abs(found["tokens"] - golden[f"{name}|tokens_R"]).max() < R_LIMIT


def test_keys_are_the_published_ones():
    module = modules.load(network_row("tokenhpe"), TOKENHPE_CROP, stand_in_seed=0).module
    state = module.state_dict()
    assert len(state) == 195
    assert sum(v.numel() for v in state.values()) == 86_445_082
    assert np.array_equal(state["Ori_blocks.pos_embedding"].numpy(), sine_table())


def test_rotation_operations_are_the_originals():
    golden = np.load(GOLDENS / "rotation_ops.npz")
    assert np.abs(rotations(torch.from_numpy(golden["six"])).numpy() - golden["six_to_R"]).max() < 1e-6
    assert np.abs(euler(golden["R"]) - golden["euler_rad_pitch_yaw_roll"]).max() < 1e-6


def test_angles_and_matrices_go_round():
    angles = np.random.RandomState(1).uniform(-1.4, 1.4, (50, 3))
    assert np.abs(euler(from_euler(angles)) - angles).max() < 1e-12
    other = from_euler(angles, "zyx")
    assert np.abs(other @ other.transpose(0, 2, 1) - np.eye(3)).max() < 1e-12
    assert np.abs(other - from_euler(angles)).max() > 0.1


SIZES = [(720, 1280), (250, 250), (37, 91), (13, 5), (1, 50), (251, 249), (333, 250), (600, 4)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_resize_is_pillows_bit_for_bit(height, width):
    image_module = pytest.importorskip("PIL.Image")
    image = np.random.RandomState(height).randint(0, 256, (height, width, 3)).astype(np.uint8)
    long = int(250 * max(height, width) / min(height, width))
    new_h, new_w = (250, long) if height <= width else (long, 250)
    whole = np.asarray(image_module.fromarray(image).resize((new_w, new_h), image_module.BILINEAR))
    top, left = round((new_h - 224) / 2.0), round((new_w - 224) / 2.0)
    found = resize_pillow(image, new_h, new_w, (top, top + 224), (left, left + 224))
    assert np.array_equal(found, whole[top : top + 224, left : left + 224])


def chip(image, box, row=TOKENHPE_CROP):
    out = np.full((1, 3, row.size, row.size), 7.0, np.float32)
    crop.cut(image, crop.locate(np.array([box], np.float32), row).sample_xyxy_px, row, out)
    return out[0]


def test_a_whole_frame_needs_no_margin_and_a_box_outside_is_black(frame):
    height, width = frame.shape[:2]
    assert np.array_equal(chip(frame, [0, 0, width, height]), chip(frame, [-50, -50, width + 50, height + 50]))
    assert (chip(frame, [width + 500, 0, width + 600, 100]) == 0).all()


def test_the_margin_is_cut_to_whole_pixels():
    for width in (20, 21, 99, 130, 199, 1000):
        ((x1, y1, x2, y2),) = crop.locate(
            np.array([[400, 500, 400 + width, 500 + width]]), TOKENHPE_CROP
        ).sample_xyxy_px
        margin = int(0.35 * width)
        assert (x1, y1, x2, y2) == (400 - margin, 500 - margin, 400 + width + margin, 500 + width + margin)


def test_columns_and_signs(detector, photo, frame):
    fex = detector.detect(photo)
    assert list(fex.columns[5:17]) == ["Pitch", "Roll", "Yaw", *(f"R{i}{j}" for i in range(3) for j in range(3))]
    assert len(fex) == 1
    matrix = fex.block([f"R{i}{j}" for i in range(3) for j in range(3)]).reshape(1, 3, 3)
    ((pitch, yaw, roll),) = euler(matrix)
    assert (fex["Pitch"][0], fex["Roll"][0], fex["Yaw"][0]) == pytest.approx((pitch, -roll, yaw), abs=1e-6)
    (result,) = detector.stream(frame)
    assert result.values["token_rotations"].shape == (1, 9, 3, 3)
    assert np.isnan(result.pose[:, 3:]).all()
    assert len(detector.detect(np.zeros((64, 64, 3), np.uint8))) == 1  # a placeholder


def test_region_frame_is_one_row_a_frame(detector, frame):
    fex = detector.detect([frame, np.zeros((64, 80, 3), np.uint8)], region="frame", batch_size=2)
    assert fex["FaceRectWidth"].tolist() == [512, 80]
    assert fex["FaceRectHeight"].tolist() == [512, 64]
    assert fex["FaceScore"].tolist() == [1, 1]
    given = detector.detect(frame, boxes=np.array([[0, 0, 512, 512]]))
    assert np.array_equal(fex.values[0], given.values[0])
    with pytest.raises(InputError, match="exclude each other"):
        detector.detect(frame, boxes=np.array([[0, 0, 9, 9]]), region="frame")
    with pytest.raises(InputError, match="no region 'whole': use face, frame"):
        detector.detect(frame, region="whole")


def test_published_layout_is_read_and_what_is_missing_is_said(tmp_path):
    row = network_row("tokenhpe")
    with pytest.raises(CheckpointError, match=r"are on no hub: download them from https://github.com/zc2023/TokenHPE"):
        modules.load(row, TOKENHPE_CROP)
    state = modules.load(row, TOKENHPE_CROP, stand_in_seed=3).module.state_dict()
    torch.save(
        {"epoch": 1, "model_state_dict": state, "optimizer_state_dict": {"state": {}}}, tmp_path / row.files[0].filename
    )
    loaded = modules.load(row, TOKENHPE_CROP, [tmp_path])
    assert all(torch.equal(v, state[k]) for k, v in loaded.module.state_dict().items())


@pytest.mark.reference
def test_crops_and_rotations_of_the_reference_images(detector, reference):
    golden = np.load(reference / "hpe" / "goldens" / "tokenhpe.npz")
    keys = [k.rpartition("|")[0] for k in golden.files if k.endswith("crop_u8")]
    assert len(keys) == 12
    for key in keys:
        name, how = key.split("|")
        image = read_image(Path(reference / "images" / f"{name}.jpg"))
        box = golden[f"{key}|box_xyxy"] if "haar" in how else [0, 0, image.shape[1], image.shape[0]]
        chips = chip(image, box, Crop("centre", 224, 1.0, int(how[6:9])))[None]
        assert np.array_equal(np.rint(chips[0].transpose(1, 2, 0) * 255).astype(np.uint8), golden[f"{key}|crop_u8"]), (
            key
        )
        found = detector._networks["rotation"].infer({"chips": chips})
        assert np.abs(found["rotation"] - golden[f"{key}|R"]).max() < R_LIMIT, key
        assert np.abs(found["tokens"] - golden[f"{key}|tokens_R"]).max() < R_LIMIT, key


@pytest.mark.reference
def test_whole_frames_from_the_command(bundle, reference, tmp_path):
    from command import fexport

    golden = np.load(reference / "hpe" / "goldens" / "tokenhpe.npz")
    names = ["multi_face", "single_face", "45-m7-di-ph"]
    images = [reference / "images" / f"{name}.jpg" for name in names]
    done = fexport("run", bundle, *images, "--region", "frame", "--out", tmp_path / "rows.csv")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name, row in zip(names, rows, strict=True):
        found = np.array([float(row[f"R{i}{j}"]) for i in range(3) for j in range(3)]).reshape(3, 3)
        assert np.abs(found - golden[f"{name}|resize250_fullframe|R"]).max() < R_LIMIT
        pitch, yaw, roll = golden[f"{name}|resize250_fullframe|euler_deg"][0]
        angles = [np.rad2deg(float(row[c])) for c in ("Pitch", "Yaw", "Roll")]
        assert angles == pytest.approx([pitch, yaw, -roll], abs=5e-3)

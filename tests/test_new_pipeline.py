"""A new pipeline is rows, one file a network, and nothing else: built, run and shown without a change to the house.

The program below registers what a new network's author would write (rows, a recipe, a decoder, a finder, a crop kind)
and then is the `fexport` command. One stage has no graph, one drops faces, the finder says more than a box.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys
import numpy as np
import torch
from torch import nn
from fexruntime import contracts as C, crop, finders, heads
from fexruntime.contracts import labels as L
from fexruntime.contracts.groups import FACEBOX
from fexport import networks
from fexport.networks.preprocess import Preprocess
from fexport.recipe import Recipe, StandIn

TILTED = C.Crop("tilted", size=32, expand=1.5)          # a kind of crop of its own, turned by what the finder says
SQUARE = C.Crop("square-pad", size=24, expand=1.0)

def tilted(boxes, row, found):
    region = crop.KINDS["square-pad"].locate(boxes, row, found)
    return crop.Region(np.concatenate([region.sample_xyxy_px, found["rotation_rad"][:, None]], 1), region.decode_xyxy_px)

def cut_tilted(frame, sample, row, out):
    crop.KINDS["square-pad"].cut(frame, sample[:, :4], row, out)
    quarter = np.rint(sample[:, 4] / (np.pi / 2)).astype(int)
    for n, turns in enumerate(quarter):
        out[n] = np.rot90(out[n], turns, axes=(1, 2))
    return out

crop.KINDS["tilted"] = crop.Kind(tilted, cut_tilted, cut_tilted)

def retinaface_with_rotation(step, frames, options, workspace):
    found = finders.retinaface(step, frames, options, workspace)
    return [v | {"rotation_rad": np.full(len(v["scores"]), np.pi / 2, np.float32)} for v in found]

finders.FINDERS["retinaface+rotation"] = retinaface_with_rotation

for value in (C.Value("rotation_rad", (), "turn of the face"), C.Value("mood", (2,), "invented"),
              C.Value("brightness", (3,), "mean of each colour"), C.Value("eyes_xy_px", (2, 2), "invented", points=True)):
    C.VALUES[value.name] = value

C.NETWORKS["moodnet"] = C.Network(
    name="moodnet", title="an invented network", files=(C.WeightsFile("nobody/moodnet", "moodnet.safetensors"),),
    licence="none", licence_note="invented for a test",
    inputs=(C.Tensor("chips", ("faces", 3, "chip", "chip"), ""), C.Tensor("brightness", ("faces", 3), "")),
    outputs=(C.Tensor("mood", ("faces", 2), ""), C.Tensor("eyes", ("faces", 4), "")),
    preprocessing=C.Preprocessing(mean=(0.5, 0.5, 0.5)),
)
C.GATES["fp32"]["moodnet"] = (C.Gate("mood", "probability", 1e-4), C.Gate("eyes", "pixels", 1e-2))

class MoodNet(nn.Module):
    def __init__(self, preprocess):
        super().__init__()
        self.preprocess = preprocess
        self.conv = nn.Conv2d(3, 4, 5, 2)
        self.out = nn.Linear(4 + 3, 6)
    def forward(self, chips, brightness):
        x = torch.relu(self.conv(self.preprocess(chips))).mean((2, 3))
        y = self.out(torch.cat([x, brightness], 1))
        return torch.softmax(y[:, :2], 1), torch.sigmoid(y[:, 2:])

networks.RECIPES["moodnet"] = Recipe(lambda row, checkpoint, crop: (MoodNet(Preprocess(row, crop)), None))

def brightness(raw, faces, stage, row):
    return {"brightness": raw["chips"].mean(axis=(2, 3)), "keep": (raw["chips"].mean(axis=(1, 2, 3)) > 0.05).astype(np.float32)}

def mood(raw, faces, stage, row):
    eyes = crop.to_frame(raw["eyes"].reshape(-1, 2, 2), faces.regions(row).decode_xyxy_px)
    return {"mood": raw["mood"], "eyes_xy_px": eyes}

heads.DECODERS |= {"brightness": brightness, "mood": mood}

C.PIPELINES.append(C.Pipeline(
    name="moods", contracts=("moods-1",), title="an invented detector",
    finder=C.Stage("faces", (C.Choice("retinaface-mobilenet025"),), "retinaface+rotation",
                   ("boxes_xyxy_px", "scores", "points_xy_px", "rotation_rad"), title="finds faces"),
    stages=(C.Stage("light", (C.Choice(None, (SQUARE,)),), "brightness", ("brightness", "keep"), title="how bright it is"),
            C.Stage("mood", (C.Choice("moodnet", (TILTED, "brightness")),), "mood", ("mood", "eyes_xy_px"), title="the mood")),
    rect=TILTED,
    groups=(FACEBOX, C.Group("light", "brightness", ("R", "G", "B")), C.Group("mood", "mood", ("calm", "cross")),
            C.Group("eyes", "eyes_xy_px", ("ex_0", "ex_1", "ey_0", "ey_1"), planar=True),
            C.Group("turn", "rotation_rad", ("Turn",)),
            C.Group("frame_size", "frame_size", L.FRAME_SIZE, dtype="float64"),
            C.Group("input", "input", ("input",), dtype="text"), C.Group("frame", "frame", ("frame",), dtype="int64")),
))
from fexport.cli import main
main()
"""


@pytest.fixture(scope="module")
def moods(tmp_path_factory):
    folder = tmp_path_factory.mktemp("moods")

    def run(*arguments):
        command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
        wide = os.environ | {"COLUMNS": "200"}
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=False, cwd=folder, env=wide)

    done = run("build", "bundle", "--pipeline", "moods", "--stand-in")
    assert done.returncode == 0, done.stderr
    return run, folder


def test_it_is_built_verified_and_inspected(moods):
    run, folder = moods
    report = json.loads((folder / "bundle" / "verification.json").read_text(encoding="utf-8"))["networks"]
    assert report["mood"]["passed"]
    assert set(report) == {"faces", "mood"}
    assert run("verify", "bundle").returncode == 0
    shown = run("inspect", "bundle").stdout
    assert "moodnet" in shown
    assert "a function of the runtime" in shown
    assert "--mood" in run("build", "--help").stdout
    assert "--light" in run("build", "--help").stdout


def test_it_runs_end_to_end(moods, photo):
    run, folder = moods
    done = run("run", "bundle", photo, "--out", "rows.csv", "--overlay", "drawn")
    assert done.returncode == 0, done.stderr
    with (folder / "rows.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert abs(float(row["calm"]) + float(row["cross"]) - 1) < 1e-5
    assert float(row["Turn"]) == pytest.approx(1.5707964)
    x, y, width, height = (float(row[f"FaceRect{k}"]) for k in ("X", "Y", "Width", "Height"))
    assert width == pytest.approx(height)
    assert x <= float(row["ex_0"]) <= x + width
    assert y <= float(row["ey_1"]) <= y + height
    assert 0.1 < float(row["R"]) < 1
    assert (folder / "drawn" / "astronaut.png").is_file()
    assert "astronaut" in run("run", "bundle", photo).stdout


def test_a_stage_may_drop_a_face(moods, frame):
    """The face in the dark is found and dropped: its row goes, the other keeps what is its own."""
    import cv2
    import numpy as np

    run, folder = moods
    dark = (frame * np.float32(0.04)).astype(np.uint8)
    cv2.imwrite(str(folder / "dark.png"), dark[:, :, ::-1])
    cv2.imwrite(str(folder / "light.png"), frame[:, :, ::-1])
    done = run("run", "bundle", "dark.png", "light.png", "--out", "both.csv", "--batch-size", "2")
    assert done.returncode == 0, done.stderr
    with (folder / "both.csv").open() as file:
        first, second = csv.DictReader(file)
    assert (first["frame"], first["FaceScore"], first["calm"]) == ("0", "0.0", "")
    assert float(second["FaceScore"]) > 0.99
    assert float(second["R"]) > 0.1


def test_what_nobody_asks_for_and_what_is_left_out(moods, photo):
    run, folder = moods
    done = run("run", "bundle", photo, "--columns", "light,Turn", "--out", "some.csv")
    assert done.returncode == 0, done.stderr
    assert (folder / "some.csv").read_text(encoding="utf-8").splitlines()[0] == "R,G,B,Turn,input,frame"
    done = run("build", "less", "--pipeline", "moods", "--light", "none", "--stand-in")
    assert done.returncode == 1
    assert "mood reads brightness, which light would give" in done.stderr
    done = run("build", "less", "--pipeline", "moods", "--mood", "none")
    assert done.returncode == 0, done.stderr
    done = run("run", "less", photo, "--out", "less.csv")
    assert done.returncode == 0, done.stderr
    with (folder / "less.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["calm"] == ""
    assert float(row["G"]) > 0.1

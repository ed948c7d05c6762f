"""What lies around img2pose's networks, held to what py-feat's own functions answered, and how it fills its stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fexport import plan
from fexport.networks.img2pose_standin import CONFIG
from fexruntime import img2pose
from fexruntime.detect import suppress
from fexruntime.errors import CheckpointError, InputError

GOLDEN = Path(__file__).parents[1] / "goldens" / "img2pose_pyfeat215.npz"
RESIZED, PADDED, FRAME = (400, 533), (416, 544), (240, 320)
SETTINGS = img2pose.Settings.of(CONFIG)
PARTS = ["faces", "faces.scores", "faces.pose"]


def test_sizes_and_anchors_are_pyfeats():
    assert SETTINGS.resized(*FRAME) == RESIZED
    assert img2pose.padded(RESIZED) == PADDED
    assert np.array_equal(img2pose.anchors(*PADDED)[::50], np.load(GOLDEN)["anchors_every50"])


def test_faces_of_pyfeats_head_outputs_are_pyfeats():
    """Projection, suppression, pose in the frame's camera: 82 faces of noise."""
    ours = np.load(GOLDEN)
    scores = (1 / (1 + np.exp(np.diff(-ours["logits"].astype(np.float64))[:, 0]))).astype(np.float32)
    pose = ours["dof"] * np.float32(CONFIG["pose_stddev"]) + np.float32(CONFIG["pose_mean"])
    worth = img2pose.worth_a_pose(ours["proposals"], scores, 0.5)
    boxes, scores, raw = img2pose.faces(ours["proposals"][worth], scores[worth], pose[worth], RESIZED, FRAME, SETTINGS)
    assert len(boxes) == len(ours["boxes"]) == 82
    assert np.abs(boxes - ours["boxes"]).max() < 1e-4
    assert np.abs(scores - ours["scores"]).max() < 1e-5
    assert np.abs(raw[:, :3] - ours["dofs"][:, :3]).max() < 1e-4
    assert np.allclose(raw[:, 3:], ours["dofs"][:, 3:], rtol=1e-4, atol=1e-4)


def test_suppression_within_groups_is_that_of_each_group():
    random = np.random.default_rng(7)
    low = random.uniform(0, 300, (900, 2))
    boxes = np.concatenate([low, low + random.uniform(5, 90, (900, 2))], axis=1).astype(np.float32)
    group = random.integers(0, 3, 900)
    kept = img2pose.suppress_within(boxes, group, 0.7, 900)
    places = [np.flatnonzero(group == one) for one in range(3)]
    assert kept.tolist() == sorted(np.concatenate([at[suppress(boxes[at], 0.7)] for at in places]).tolist())
    assert img2pose.suppress_within(boxes, group, 0.7, 20).tolist() == kept[:20].tolist()


def test_its_own_pose_takes_the_place_of_the_pose_stage():
    todo = plan.plan("detectorv1", None, {"faces": "img2pose"}, [], 0)
    assert list(todo.networks)[:3] == PARTS
    assert "pose" not in todo.networks
    assert {"au", "emotion", "gaze", "identity"} <= set(todo.networks)
    with pytest.raises(InputError, match=r"pose is given by img2pose .* leave out --pose"):
        plan.plan("detectorv1", None, {"faces": "img2pose", "pose": "pose-mlp"}, [], 0)


def test_weights_that_are_not_there_are_named(tmp_path):
    from fexport import checkpoints
    from fexruntime.contracts import network_row

    with pytest.raises(
        CheckpointError, match=r"img2pose's weights model\.safetensors are not in .*sub-folder img2pose"
    ):
        checkpoints.locate(network_row("img2pose"), [tmp_path])

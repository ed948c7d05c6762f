"""The full recorded answers of py-feat, where they are beside the checkout; judged by the reference's own script too."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import LANDMARKS_AND_POSE
from fex_compare import assert_same_fex

from fexport import build, plan
from fexruntime import Detector

pytestmark = [pytest.mark.reference, pytest.mark.slow]
IMAGES = ("multi_face.jpg", "single_face.jpg", "45-m7-di-ph.jpg", "free-mountain-vector-01.jpg")
BOXES = "[[420.5,180.25,520.75,300.5],[-40.0,-30.5,80.25,110.75],[900.5,560.25,1060.0,700.5],[300.0,300.0,301.0,300.5],[100.25,50.5,900.75,660.0]]"
EDGE = "retinaface-mobilenet025"
CASES = {
    # golden: (weights, pipeline, contract, face detector, identity, options of detect)
    "detector_v2_pyfeat203_v25": (0, "detectorv2", "pyfeat-2.0", None, None, {}),
    "boxes_detector_v2_pyfeat203_v25": (0, "detectorv2", "pyfeat-2.0", None, None, {"boxes": BOXES}),
    "edge_detector_v2_pyfeat203_v25": (0, "detectorv2", "pyfeat-2.0", EDGE, None, {}),
    "edge_detector_v2_pyfeat203_v25_facenet": (0, "detectorv2", "pyfeat-2.0", EDGE, "facenet", {}),
    "detector_v2_pyfeat215_v28": (1, "detectorv2", "pyfeat-2.1", None, None, {}),
    "boxes_detector_v2_pyfeat215_v28": (1, "detectorv2", "pyfeat-2.1", None, None, {"boxes": BOXES}),
    "detector_v2_pyfeat215_v28_output_size640_batch2": (
        1, "detectorv2", "pyfeat-2.1", None, None, {"output_size": 640, "batch_size": 2},
    ),
    "edge_detector_v2_pyfeat215_v28": (1, "detectorv2", "pyfeat-2.1", EDGE, None, {}),
    "detector_v1_pyfeat215": (0, "detectorv1", "pyfeat-2.1", None, None, {}),
    "edge_detector_v1_pyfeat215": (0, "detectorv1", "pyfeat-2.0", EDGE, None, {}),
    "edge_detector_v1_pyfeat215_facenet": (0, "detectorv1", "pyfeat-2.1", EDGE, "facenet", {}),
}  # fmt: skip


@pytest.fixture(scope="module")
def bundle_for(reference_weights, tmp_path_factory):
    made = {}

    def bundle(weights, pipeline, contract, detector, identity):
        key = (weights, pipeline, contract, detector, identity)
        if key not in made:
            folder = tmp_path_factory.mktemp("reference") / "bundle"
            choices = {"faces": detector, "identity": identity}
            if pipeline == "detectorv1":
                choices |= LANDMARKS_AND_POSE
            build.build(plan.plan(pipeline, contract, choices, [reference_weights[weights]]), folder)
            made[key] = folder
        return made[key]

    return bundle


@pytest.mark.parametrize("golden", CASES)
def test_equals_pyfeat(golden, bundle_for, reference, tmp_path):
    weights, pipeline, contract, detector, identity, options = CASES[golden]
    options = dict(options)
    inputs = [reference / "images" / name for name in IMAGES]
    if "boxes" in options:
        inputs, options["boxes"] = inputs[:1], np.array(json.loads(options["boxes"]), np.float32)
    fex = Detector(bundle_for(weights, pipeline, contract, detector, identity)).detect(inputs, **options)
    path = reference / "goldens" / f"{golden}.csv"
    resized = "output_size" in options
    assert_same_fex(fex, path, px=0.05 if resized else 0.01, relative=1e-3 if resized else 1e-4)
    fex.to_csv(tmp_path / "candidate.csv")
    judge = reference.parent / "scripts" / "compare_fex.py"
    done = subprocess.run(
        [sys.executable, judge, path, tmp_path / "candidate.csv"], capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stdout


VIDEOS = {
    # golden: (weights, pipeline, contract, face detector, frames skipped)
    "detector_v2_pyfeat215_v28_video": (1, "detectorv2", "pyfeat-2.1", None, 12),
    "edge_detector_v1_pyfeat215_video": (0, "detectorv1", "pyfeat-2.0", EDGE, 6),
}


@pytest.mark.parametrize("golden", VIDEOS)
def test_videos_equal_pyfeats(golden, bundle_for, reference, tmp_path):
    from fexruntime import record

    weights, pipeline, contract, detector, skip = VIDEOS[golden]
    made = Detector(bundle_for(weights, pipeline, contract, detector, None))
    path = reference / "goldens" / f"{golden}.csv"
    assert_same_fex(made.detect(reference / "images" / "single_face.mp4", skip_frames=skip), path)
    record(made, reference / "images" / "single_face.mp4", tmp_path / "candidate.csv", skip_frames=skip)
    judge = reference.parent / "scripts" / "compare_fex.py"
    done = subprocess.run(
        [sys.executable, judge, path, tmp_path / "candidate.csv"], capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stdout


def test_real_landmarks_lie_on_five_real_faces(bundle_for, reference):
    """Eyes above nose above mouth, inside the box, and within a tenth of its width of the detector's own five points."""
    bundle = bundle_for(0, "detectorv1", "pyfeat-2.0", EDGE, None)
    (result,) = Detector(bundle).stream(reference / "images" / "multi_face.jpg")
    assert len(result) == 5
    for points, five, box in zip(result.landmarks_xy_px, result.points_xy_px, result.boxes_xyxy_px, strict=True):
        parts = [points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]]
        away = np.linalg.norm(np.array(parts) - five, axis=1) / (box[2] - box[0])
        assert away.max() < 0.1, away
        assert parts[0][1] < parts[2][1] < parts[3][1]


def test_modules_equal_pyfeats(reference, reference_weights):
    """Each torch module alone, on py-feat's recorded inputs: at most 1e-5 of the output's range."""
    import torch

    from fexport import modules
    from fexruntime.contracts import Crop, network_row

    inputs = np.load(reference / "goldens" / "inputs.npz")
    expected = np.load(reference / "goldens" / "modules.npz")
    frames = inputs["frames"].astype(np.float32) - np.array([123, 117, 104], np.float32)[:, None, None]
    chips256, chips112 = (inputs[k].astype(np.float32) / 255 for k in ("chips256", "chips112"))

    def run(name, value, size=256, weights=0, **changes):
        import dataclasses

        row = dataclasses.replace(network_row(name), **changes)
        loaded = modules.load(row, Crop("square-pad", size, 1.2), [reference_weights[weights]])
        with torch.inference_mode():
            outputs = loaded.module(torch.from_numpy(np.ascontiguousarray(value)))
        return [o.numpy() for o in (outputs if isinstance(outputs, tuple) else (outputs,))]

    def same(name, found):
        want = expected[name]
        found = found.reshape(want.shape)
        assert np.abs(found - want).max() <= 1e-5 * np.ptp(want), name

    for name, found in zip(("loc", "conf", "landmarks"), run("retinaface-r34", frames), strict=True):
        same(f"retinaface_r34.{name}", found)
    same("arcface_r50.embedding", run("arcface", chips256)[0])
    landmarks = run("mobilefacenet", chips112, 112)[0]
    same("mobilefacenet.landmarks", landmarks)
    same("pose_mlp_v2.raw", run("pose-mlp", landmarks.reshape(-1, 68, 2) * 200 + 30)[0])
    # modules.npz is py-feat 2.1.5's, which reads v2.5 weights without 2.0.3's second division of the mesh
    for tag, name, weights, changes in (
        ("v25", "multitask-v2", 0, {"forced_flags": ()}),
        ("v28", "multitask-v28", 1, {}),
    ):
        au, emotion, va, gaze, pose, mesh, blendshapes = run(name, chips256, weights=weights, **changes)
        for output, found in (
            ("au", au), ("emotion", emotion), ("valence", va[:, 0]), ("arousal", va[:, 1]), ("gaze", gaze),
            ("pose", pose), ("mesh478", mesh), ("blendshapes", blendshapes),
        ):  # fmt: skip
            same(f"face_multitask_{tag}.{output}", found)


def test_crops_and_resizes_equal_torchs(reference):
    from fexruntime import crop
    from fexruntime.contracts import LANDMARK_CROP, MULTITASK_CHIP
    from fexruntime.resample import antialias_taps, bilinear_taps, dense_matrix

    inputs, ops = np.load(reference / "goldens" / "inputs.npz"), np.load(reference / "goldens" / "ops.npz")
    frames = inputs["frames"].transpose(0, 2, 3, 1)
    for row, chips_of in ((MULTITASK_CHIP, "square_pad.chips_uint16"), (LANDMARK_CROP, "bbox_crop.chips")):
        region = crop.locate(ops["input.boxes"], row)
        scale = 65535.0 if chips_of.endswith("uint16") else 1.0
        for cut in (crop.cut, crop.cut_numpy):
            for n, f in enumerate(ops["input.frame_of_box"]):
                chip = np.empty((1, 3, row.size, row.size), np.float32)
                cut(np.ascontiguousarray(frames[f]), region.sample_xyxy_px[n : n + 1], row, chip)
                assert np.abs(chip[0] - ops[chips_of][n] / scale).max() < 2e-5, (chips_of, cut.__name__, n)
    square = crop.locate(ops["input.boxes"], MULTITASK_CHIP).sample_xyxy_px
    assert np.abs(square[:, :3] - ops["square_pad.affine"]).max() == 0
    assert np.array_equal(crop.locate(ops["input.boxes"], LANDMARK_CROP).decode_xyxy_px, ops["bbox_crop.boxes"])
    chip = inputs["chips256"][0].astype(np.float32) / 255
    for taps, size, name in (
        (antialias_taps, 112, "resize_112_from_256"),
        (bilinear_taps, 112, "interpolate_112_from_256"),
    ):
        matrix = dense_matrix(taps(256, size), 256)
        assert np.abs(matrix @ chip @ matrix.T - ops[name][0]).max() < 2e-6, name
    matrix = dense_matrix(antialias_taps(256, 224), 256)
    mean, std = (np.array(v, np.float32)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    assert np.abs((matrix @ chip @ matrix.T - mean) / std - ops["preprocess_256_to_224"][0]).max() < 1e-5


ZOO = {
    "edge_zoo_default": ("pyfeat-2.1", {}),
    "edge_zoo_svm": ("pyfeat-2.1", {"au": "svm", "emotion": "svm", "gaze": "none"}),
    "edge_zoo_pfld": ("pyfeat-2.1", {"landmarks": "pfld", "au": "none", "emotion": "none"}),
    "edge_zoo_mobilenet": ("pyfeat-2.1", LANDMARKS_AND_POSE | {"landmarks": "mobilenet", "identity": "none"}),
    "edge_zoo_mobilenet_gaze_identity": ("pyfeat-2.1-bugs", {"landmarks": "mobilenet", "emotion": "none"}),
    "zoo_img2pose": (
        "pyfeat-2.1",
        {"faces": "img2pose", "au": "none", "emotion": "none", "gaze": "none", "identity": "none"},
    ),
}


@pytest.fixture(scope="module")
def zoo_weights(reference, tmp_path_factory):
    """The weights that the goldens of Detectorv1's other networks were made with."""
    folder = tmp_path_factory.mktemp("zoo")
    zoo = reference / "zoo"
    options = ["--skops", zoo / "skops", "--only", "l2cs", "resmasknet", "mobilenet", "pfld", "skops", "img2pose"]
    environment = os.environ | {"PYTHONPATH": str(reference / "scripts")}
    subprocess.run([sys.executable, zoo / "make_zoo_checkpoints.py", folder, *options], check=True, env=environment)
    return folder


@pytest.mark.parametrize("golden", ZOO)
def test_detectorv1s_other_networks_equal_pyfeats(golden, zoo_weights, reference_weights, reference, tmp_path):
    contract, choices = ZOO[golden]
    todo = plan.plan("detectorv1", contract, {"faces": EDGE} | choices, [zoo_weights, reference_weights[0]])
    build.build(todo, tmp_path / "bundle")
    fex = Detector(tmp_path / "bundle").detect([reference / "images" / name for name in IMAGES])
    assert_same_fex(fex, reference / "zoo" / "goldens" / f"{golden}.csv")


def test_hog_equals_pyfeats(reference):
    """Of two real faces, and of one pushed off its chip."""
    from fexruntime import hog

    ops = np.load(reference / "zoo" / "goldens" / "zoo_ops.npz")
    for name in ("hog", "hog_fill"):
        points = ops[f"{name}.landmarks"].reshape(-1, 68, 2)
        vectors, whole = hog.features(ops["hog.chips"][: len(points)], points)
        assert np.array_equal(whole, ops[f"{name}.landmarks_int"])
        assert np.abs(vectors - ops[f"{name}.vector"]).max() < 1e-5
    for name in ("hog", "hog_fill", "mask_cases"):
        assert np.array_equal(hog.masks(ops[f"{name}.landmarks_int"]), ops[f"{name}.mask"])

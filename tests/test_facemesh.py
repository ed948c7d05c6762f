"""FaceMesh against mediapipe 0.10.21: mesh, faces and order on the photograph, and on the full goldens where they are."""

from __future__ import annotations

import math
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fexruntime import Detector, face_geometry, warp
from fexruntime.bundle import packaged_path
from fexruntime.contracts import NETWORKS
from fexruntime.contracts.facemesh import MESH_POINTS, REFINED
from fexruntime.errors import CheckpointError, InputError

GOLDENS = Path(__file__).parent / "goldens"
WITHIN_PX = 0.05
PLAIN = np.setdiff1d(np.arange(MESH_POINTS), np.concatenate([np.array(p) for _, p in REFINED]))
"""Points that refinement does not touch."""
IMAGES = ("multi_face", "single_face", "45-m7-di-ph", "free-mountain-vector-01")


@pytest.fixture(scope="module")
def facemesh():
    return Detector("facemesh", threads=1)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Built without refinement."""
    from fexport import build, plan

    folder = tmp_path_factory.mktemp("facemesh") / "bundle"
    build.build(plan.plan("facemesh"), folder)
    return Detector(folder, threads=1)


def in_pixels(landmarks, image):
    height, width = image.shape[:2]
    return landmarks * np.array([width, height, width], np.float32)


def test_the_photograph_is_read_as_mediapipe_reads_it(facemesh, plain, frame):
    with np.load(GOLDENS / "facemesh_mediapipe01021.npz") as said:
        for variant, image in (("as", frame), ("flip", np.ascontiguousarray(frame[:, ::-1]))):
            expected = in_pixels(said[f"{variant}|plain"], image)
            (result,) = plain.stream(image)
            assert len(result) == len(expected) == 1
            assert np.abs(result.mesh_xyz_px[:, :MESH_POINTS] - expected).max() < WITHIN_PX
            assert np.isnan(result.mesh_xyz_px[:, MESH_POINTS:]).all()
            (refined,) = facemesh.stream(image)
            assert np.array_equal(refined.mesh_xyz_px[:, PLAIN], result.mesh_xyz_px[:, PLAIN])
            (whole,) = facemesh.stream(image, mediapipe_presence=True)
            assert np.abs(whole.mesh_xyz_px - in_pixels(said[f"{variant}|refined"], image)).max() < WITHIN_PX


@pytest.mark.reference
def test_the_full_goldens(facemesh, plain, reference):
    from fexruntime.sources.images import read_image

    with np.load(reference / "hpe" / "goldens" / "facemesh.npz") as said:
        for name in IMAGES:
            image = read_image(reference / "images" / f"{name}.jpg")
            for refine, detector in ((0, plain), (1, facemesh)):
                for most in (1, 5):
                    expected = in_pixels(said[f"{name}|captured_landmarks_refine{refine}_max{most}"], image)
                    (result,) = detector.stream(image, max_faces=most, mediapipe_presence=bool(refine))
                    assert len(result) == len(expected), (name, refine, most)
                    if len(expected):
                        assert np.abs(result.mesh_xyz_px[:, : expected.shape[1]] - expected).max() < WITHIN_PX


def test_a_network_whose_word_is_replaced_is_not_run(frame):
    """The plain one, where the attention network's answer is taken as it is."""
    for presence, ran in ((False, {"faces", "mesh", "refine"}), (True, {"faces", "refine"})):
        stages: list[str] = []
        with Detector("facemesh", threads=1, observe=lambda stage, *_, to=stages: to.append(stage)) as detector:
            assert len(next(iter(detector.stream(frame, mediapipe_presence=presence)))) == 1
        assert {s.removesuffix(" network") for s in stages if s.endswith(" network")} == ran


def test_a_remembered_square_is_read_as_a_new_one(frame):
    for side, size in ((128, 640.0), (100, 500.0), (192, 77.3)):
        corners = warp.corners_of(np.array([300.0, 200.0], np.float32), np.array([size, size], np.float32), 0.3)
        new, *remembered = (np.empty((3, side, side), np.float32) for _ in range(3))
        warp.warp(frame, corners, side, True, new)
        for out in remembered:
            warp.warp(frame, corners, side, True, out, again=True)
            assert np.array_equal(out, new)


def test_threads_cut_their_own_squares(frame):
    """Each has arrays of its own for the positions; what lies outside the frame, or covers more than is fetched, is as good."""
    squares = [((300, 200), 231.7), ((-40, 500), 120.0), ((256, 256), 3000.0), ((2000, -900), 64.0), ((100, 90), 3.0)]
    corners = [
        warp.corners_of(np.array(centre, np.float32), np.repeat(np.float32(side), 2), 0.1 * n)
        for n, (centre, side) in enumerate(squares)
    ]

    def cut(square, read=warp.warp):
        return read(frame, square, 192, True, np.empty((3, 192, 192), np.float32))

    expected = [cut(square, warp.warp_numpy) for square in corners]
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda n: (n, cut(corners[n % len(corners)])), range(200)):
            np.testing.assert_array_equal(found[1], expected[found[0] % len(corners)])


def test_positions_in_integers_are_those_in_doubles(monkeypatch):
    """Every one, of squares near and far, small and large; what is seen aslant is left to the doubles."""
    rng, plain, aslant, unsure = np.random.RandomState(5), warp._maps, [], []
    monkeypatch.setattr(warp, "_maps", lambda *given: aslant.append(given) or plain(*given))
    where = warp._where
    monkeypatch.setattr(warp, "_where", lambda chosen: unsure.append(np.count_nonzero(chosen)) or where(chosen))
    for n in range(240):
        far = (600, 2000, 9000)[n % 3]
        centre, side = rng.uniform(-100, far, 2).astype(np.float32), np.float32(rng.uniform(3, far * 0.8))
        corners = warp.corners_of(centre, np.repeat(side, 2), rng.uniform(-4, 4) if n % 5 else 0.0)
        if n % 7 == 0:
            corners = (corners + rng.uniform(-3, 3, (4, 2))).astype(np.float32)
        size = (192, 128, 100, 65)[n % 4]
        for quick, exact in zip(warp._quick_maps(corners, size), plain(corners, size), strict=True):
            assert quick.dtype == exact.dtype
            np.testing.assert_array_equal(quick, exact)
    assert 240 / 7 < len(aslant) < 80
    assert np.median(unsure) > 10  # those that the two ways' rounding could tell apart are there


@pytest.mark.reference
def test_the_plain_model_decides_which_faces_stay(facemesh, reference):
    """The attention network's own presence head drops two of these three."""
    picture = reference / "images" / "multi_face.jpg"
    assert len(facemesh.detect(picture)) == 3
    assert len(facemesh.detect(picture, mediapipe_presence=True)) == 1
    assert len(facemesh.detect(picture, max_faces=2)) == 2


@pytest.mark.reference
def test_nlml_hpe_on_given_features(reference, tmp_path):
    import subprocess
    import sys

    from fexport import build, plan

    script = reference / "hpe" / "make_hpe_checkpoints.py"
    made = [sys.executable, script, tmp_path, "--only", "nlml", "--recipe", reference / "scripts"]
    subprocess.run([str(part) for part in made], check=True)
    build.build(plan.plan("nlml_hpe", weights=[tmp_path / "models"]), tmp_path / "bundle")
    detector = Detector(tmp_path / "bundle", threads=1)
    with np.load(reference / "hpe" / "goldens" / "nlml_hpe.npz") as said:
        for name in IMAGES[:3]:
            (result,) = detector.stream(reference / "images" / f"{name}.jpg")
            angles = np.concatenate([result.values[f"raw_{a}"] for a in ("yaw", "pitch", "roll")], axis=1)
            assert np.abs(result.values["mesh_features"] - said[f"{name}|all_faces_features"]).max() < 1e-3
            assert np.abs(np.degrees(angles - said[f"{name}|all_faces_angles_rad"])).max() < 0.02
            assert np.allclose(result.pose[:, :3], angles[:, [1, 2, 0]] * [1, -1, 1])
        networks = detector._networks
        latent = networks["encoder"].infer({"features": said["synthetic|features"]})["latent"]
        for k, axis in enumerate(("yaw", "pitch", "roll")):
            part = np.ascontiguousarray(latent[:, 3 * k : 3 * k + 3])
            angle = networks[axis].infer({"latent": part})["angle"][:, 0]
            assert np.abs(angle - said["synthetic|angles_rad"][:, k]).max() < 5e-6


def test_the_packaged_bundle_is_what_a_build_makes(tmp_path):
    from fexport import build, plan

    build.build(plan.plan("facemesh", choices={"refine": "facemesh-attention"}), tmp_path / "bundle")
    packaged = packaged_path("facemesh")
    for name in ("faces.onnx", "mesh.onnx", "refine.onnx", "NOTICES.md"):
        assert (packaged / name).read_bytes() == (tmp_path / "bundle" / name).read_bytes(), name
    assert sum(p.stat().st_size for p in packaged.iterdir()) < 4_000_000
    assert "Apache-2.0" in (packaged / "NOTICES.md").read_text(encoding="utf-8")
    assert not Detector("facemesh").bundle.stand_ins


def test_weights_may_come_from_mediapipes_wheel_by_digest(tmp_path):
    from fexport import checkpoints

    network = NETWORKS["facemesh"]
    wheel = tmp_path / "mediapipe-0.10.21-any.whl"
    inside = "mediapipe/modules/face_landmark/face_landmark.tflite"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(checkpoints.PACKAGED / "face_landmark.tflite", inside)
    read = checkpoints.read(network, checkpoints.locate(network, [wheel]))
    assert read.records[0].published
    assert read.records[0].source == "folder"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(inside, b"another")
    with pytest.raises(CheckpointError, match="not the published file"):
        checkpoints.read(network, checkpoints.locate(network, [wheel]))
    wheel.write_bytes(b"no wheel")
    with pytest.raises(CheckpointError, match="cannot read the wheel"):
        checkpoints.locate(network, [wheel])


def test_a_folder_called_facemesh_hides_nothing(tmp_path, monkeypatch, photo):
    (tmp_path / "facemesh").mkdir()
    monkeypatch.chdir(tmp_path)
    assert len(Detector("facemesh").detect(photo)) == 1


@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_bad_max_faces(facemesh, frame, value):
    with pytest.raises(InputError, match="max_faces must be a whole number of 1 or more"):
        facemesh.detect(frame, max_faces=value)


def test_the_callers_own_boxes_are_read_upright(facemesh, frame):
    (found,) = facemesh.stream(frame)
    (given,) = facemesh.stream(frame, boxes=found.boxes_xyxy_px)
    distance = np.linalg.norm(found.mesh_xyz_px[0, :, :2] - given.mesh_xyz_px[0, :, :2], axis=1)
    assert np.median(distance) < 3


def test_output_size_gives_the_originals_pixels(facemesh, frame):
    (whole,), (half,) = facemesh.stream(frame), facemesh.stream(frame, output_size=256)
    assert np.abs(whole.mesh_xyz_px[0] - half.mesh_xyz_px[0]).mean() < 3
    assert np.abs(np.degrees(whole.pose[0, :3] - half.pose[0, :3])).max() < 5


def test_the_warp_is_its_plain_twin(frame):
    rng = np.random.RandomState(0)
    for n in range(12):
        centre, side = rng.uniform(-50, 560, 2), rng.uniform(20, 700)
        corners = warp.corners_of(centre.astype(np.float32), np.full(2, side, np.float32), rng.uniform(-3, 3))
        fast, plain = (np.empty((3, 192, 192), np.float32) for _ in range(2))
        warp.warp(frame, corners, 192, bool(n % 2), fast)
        warp.warp_numpy(frame, corners, 192, bool(n % 2), plain)
        assert np.array_equal(fast, plain)


def _seen(rotation, place, size, unit):
    """The canonical face before a camera: mesh [468,3] in pixels."""
    points = face_geometry.canonical_face().vertices_cm @ rotation.T + place
    depth = -points[:, 2]
    x, y = points[:, 0] / depth / unit + size[0] / 2, -points[:, 1] / depth / unit + size[1] / 2
    return np.stack([x, y, (depth - depth.mean()) / depth.mean() / unit], axis=1)


@pytest.mark.parametrize("angles", [(0.4, 0, 0), (0, 0.5, 0), (0, 0, 0.9), (-0.3, 0.2, -0.7), (0.2, -0.6, 0.4)])
def test_known_rotations_of_the_canonical_face(angles):
    size = (640, 480)
    unit = 2 * math.tan(math.radians(63) / 2) / size[1]
    rotation = face_geometry.rotation_of(*angles)
    mesh = _seen(rotation, np.array([6.0, -4.0, -45.0]), size, unit)
    pose = face_geometry.pose_of(mesh[None], [size])[0]
    assert np.abs(np.degrees(pose[:3] - angles)).max() < 0.1
    flat = face_geometry.canonical_face().vertices_cm @ rotation.T * [9.0, -9.0, -9.0] + [320, 240, 0]
    assert np.abs(np.degrees(face_geometry.pose_of(flat[None], [size], None)[0, :3] - angles)).max() < 0.1


@pytest.mark.reference
def test_a_face_that_looks_to_the_pictures_left(facemesh, reference):
    """45-m7-di-ph: the nose points to the picture's left, so yaw is positive and large."""
    (result,) = facemesh.stream(reference / "images" / "45-m7-di-ph.jpg")
    assert 25 < np.degrees(result.pose[0, 2]) < 60


def test_it_runs_from_the_command_line(tmp_path, photo):
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "fexport", "run", "--bundle", "facemesh", photo, "--out", "m.csv", "--overlay", "out"],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    head = (tmp_path / "m.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    assert {"FaceScore", "x_0", "mesh_z_477", "Yaw", "FrameWidth", "input", "frame"} <= set(head)
    assert (tmp_path / "out" / "astronaut.png").is_file()
    shutil.rmtree(tmp_path / "out")

"""fexport evaluate against the numbers that the published scripts print, from data sets made on the spot."""

from __future__ import annotations

import csv
import json

import cv2
import numpy as np
import pytest
from command import fexport
from conftest import FACE, GOLDENS
from scipy.io import savemat

from fexport.evaluation import datasets, metrics
from fexruntime.rotations import euler, from_euler

EXPECTED = json.loads((GOLDENS / "head_pose_expected.json").read_text(encoding="utf-8"))
LABELS = np.array(EXPECTED["labels_deg_yaw_pitch_roll"])
PREDICTED = np.array(EXPECTED["pred_R"])
LIMIT = 1e-3


@pytest.fixture(scope="module")
def aflw(tmp_path_factory):
    """Label files in the data set's layout with small pictures; points as the crops of the goldens, in turns."""
    folder = tmp_path_factory.mktemp("aflw") / "AFLW2000"
    folder.mkdir()
    for i, (yaw, pitch, roll) in enumerate(np.deg2rad(LABELS)):
        x1, x2, y1, y2 = EXPECTED["crops"][i % 4]["pt2d_min_max_xxyy"]
        points = np.linspace([x1, y1], [x2, y2], 21).T
        pose = np.array([[pitch, yaw, roll, 1, 2, 3, 0.1]])
        savemat(folder / f"image{i:05d}.mat", {"Pose_Para": pose, "pt2d": points})
        picture = np.random.RandomState(i).randint(0, 256, (120, 120, 3), np.uint8)
        cv2.imwrite(str(folder / f"image{i:05d}.jpg"), picture)
    return folder


@pytest.fixture(scope="module")
def biwi(tmp_path_factory):
    folder = tmp_path_factory.mktemp("biwi")
    images = np.random.RandomState(0).randint(0, 256, (len(LABELS), 64, 64, 3), np.uint8)
    np.savez_compressed(folder / "BIWI_test.npz", image=images, pose=LABELS)
    return folder


@pytest.fixture(scope="module")
def matrices(tmp_path_factory):
    path = tmp_path_factory.mktemp("pred") / "pred.npz"
    np.savez(path, pred_R=PREDICTED)
    return path


def same(found, expected):
    assert set(expected) <= set(found)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=LIMIT), name


def evaluated(tmp_path, *arguments):
    done = fexport("evaluate", *arguments, "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    return json.loads((tmp_path / "out.json").read_text(encoding="utf-8")), done.stdout


def test_aflw2000_is_what_the_published_scripts_print(tmp_path, aflw, matrices):
    value, shown = evaluated(
        tmp_path,
        "--dataset",
        "aflw2000",
        aflw,
        "--predictions",
        matrices,
        "--report",
        tmp_path / "report",
        "--worst",
        3,
    )
    expected = EXPECTED["expected"]
    same(value["scores"], expected["tokenhpe_aflw2000"])
    same(value["scores"], {"geodesic": expected["not_from_originals"]["aflw2000_geodesic_deg"]})
    same(value["strict_circular"], expected["not_from_originals"]["aflw2000_strict_circular"])
    same(value["nlml_in_range"], expected["nlml_in_range"])
    assert f"{expected['tokenhpe_aflw2000']['mae']:.3f}" in shown
    assert sum(b["n"] for b in value["over_yaw"]) == 20
    plot = cv2.imread(str(tmp_path / "report" / "error_over_yaw.png"))
    assert plot.std() > 10
    assert len(list((tmp_path / "report" / "worst").glob("0?_image*.png"))) == 3
    with (tmp_path / "report" / "errors.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    assert np.mean([float(r["geodesic"]) for r in rows]) == pytest.approx(value["scores"]["geodesic"], abs=1e-3)
    worst = max(rows, key=lambda r: float(r["geodesic"]))["name"]
    assert value["worst"][0]["name"] == worst


def test_biwi_with_the_right_labels_and_with_tokenhpes_mistake(tmp_path, biwi, matrices):
    arguments = ("--dataset", "biwi", biwi, "--predictions", matrices)
    value, _ = evaluated(tmp_path, *arguments)
    same(value["scores"], EXPECTED["expected"]["6drepnet_biwi"])
    value, shown = evaluated(tmp_path, *arguments, "--label-order-bug")
    same(value["scores"], EXPECTED["expected"]["tokenhpe_biwi"])
    assert "swapped" in shown
    assert "swapped" in value["label_order"]


def test_a_list_decides_what_is_scored(tmp_path, aflw, matrices):
    import shutil

    folder = shutil.copytree(aflw, tmp_path / "listed")
    (folder / "files.txt").write_text("\n".join(f"image{i:05d}" for i in range(14)), encoding="utf-8")
    np.save(tmp_path / "some.npy", PREDICTED[:14])
    value, _ = evaluated(tmp_path, "--dataset", "aflw2000", folder, "--predictions", tmp_path / "some.npy")
    assert value["scores"]["n"] == 14
    same(value["nlml_in_range"], EXPECTED["expected"]["nlml_in_range"])


@pytest.mark.parametrize("crop", EXPECTED["crops"])
def test_crops(crop):
    x1, x2, y1, y2 = crop["pt2d_min_max_xxyy"]
    assert list(datasets.crop_6drepnet(x1, y1, x2, y2)) == crop["tokenhpe_6drepnet_box"]
    assert list(datasets.crop_nlml(x1, y1, x2, y2, *crop["image_wh"])) == crop["nlml_box"]


def test_a_crop_beyond_the_picture_is_black_there():
    image = np.full((10, 12, 3), 9, np.uint8)
    cut = datasets.cut_out(image, (-2, -3, 14, 8))
    assert cut.shape == (11, 16, 3)
    assert cut.sum() == 9 * 3 * 8 * 12
    assert (datasets.cut_out(image, (50, 50, 60, 60)) == 0).all()


def test_the_range_of_nlml_has_both_its_ends():
    degrees = np.array([[41.0, 51.0, 31.0], [-40.0, -50.0, -30.0], [41.01, 0, 0], [0, -50.01, 0]])
    assert metrics.in_nlml_range(np.deg2rad(degrees)).tolist() == [True, True, False, False]
    assert metrics.nlml(np.deg2rad(degrees[2:]), np.tile(np.eye(3), (2, 1, 1))) is None


def test_rows_by_name_in_fex_signs(tmp_path, biwi, aflw):
    """A table as `fexport run` writes it: names decide, in whatever order; a picture without a row is missed."""
    angles = euler(PREDICTED)
    order = np.random.RandomState(4).permutation(len(LABELS))[:-1]
    with (tmp_path / "fex.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["Pitch", "Roll", "Yaw", "input"])
        for i in order:
            rows.writerow([angles[i, 0], -angles[i, 2], angles[i, 1], f"somewhere/image{i:05d}.jpg"])
    value, _ = evaluated(tmp_path, "--dataset", "aflw2000", aflw, "--predictions", tmp_path / "fex.csv")
    left_out = int(np.setdiff1d(np.arange(len(LABELS)), order)[0])
    listed = [i for i in EXPECTED["subsets"]["aflw2000_listed"] if i != left_out]
    labels = np.deg2rad(LABELS)[:, [1, 0, 2]]
    same(value["scores"], metrics.scores(metrics.errors(labels[listed], PREDICTED[listed])))
    assert value["missed"] == 20 - len(listed)


def test_a_bundle_is_run_with_its_declared_signs(tmp_path, v1_edge_bundle, frame, photo):
    """BIWI pictures of one face: labels that are the bundle's own answer, in the data set's signs and order, give no error."""
    from fexruntime import Detector

    with Detector(v1_edge_bundle) as detector:
        fex = detector.detect(photo, columns=["pose"])
    pitch, roll, yaw = (float(fex[c][0]) for c in ("Pitch", "Roll", "Yaw"))
    label = np.rad2deg(euler(from_euler(np.array([[pitch, yaw, -roll]]), "zyx")))[0]  # py-feat's order
    np.savez(tmp_path / "own.npz", image=frame[None], pose=label[None, [1, 0, 2]])
    value, shown = evaluated(tmp_path, v1_edge_bundle, "--dataset", "biwi", tmp_path / "own.npz")
    assert value["scores"]["n"] == 1
    assert value["scores"]["mae"] < 1e-2
    assert value["scores"]["geodesic"] < 1e-2
    assert "Pitch +, Roll -, Yaw +" in shown
    np.savez(tmp_path / "none.npz", image=np.zeros((1, 64, 64, 3), np.uint8), pose=label[None])
    done = fexport("evaluate", v1_edge_bundle, "--dataset", "biwi", tmp_path / "none.npz")
    assert done.returncode == 1
    assert "no prediction for any of the 1 samples" in done.stderr


def test_signs_are_established_from_images_of_known_pose(tmp_path, v1_edge_bundle, photo):
    from fexruntime import Detector

    with Detector(v1_edge_bundle) as detector:
        fex = detector.detect(photo, columns=["pose"])
    read = {a: float(np.rad2deg(fex[a][0])) for a in ("Pitch", "Roll", "Yaw")}
    known = {"pitch": np.copysign(20, read["Pitch"]), "yaw": -np.copysign(30, read["Yaw"]), "roll": 1.0}
    (tmp_path / "astronaut.jpg").write_bytes(photo.read_bytes())
    table = tmp_path / "known.csv"
    table.write_text(
        f"image,pitch,yaw,roll\nastronaut.jpg,{known['pitch']},{known['yaw']},{known['roll']}\n", encoding="utf-8"
    )
    value, shown = evaluated(tmp_path, v1_edge_bundle, "--signs", table)
    assert {k: v["sign"] for k, v in value["signs"].items()} == {"Pitch": 1, "Roll": None, "Yaw": -1}
    assert "Yaw: the declared sign is wrong for these weights" in shown
    table.write_text("image,yaw\nastronaut.jpg,2\n", encoding="utf-8")
    done = fexport("evaluate", v1_edge_bundle, "--signs", table)
    assert done.returncode == 1
    assert "no image with an angle of 5 degrees or more" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "nothing to evaluate on"),
        (("--dataset", "aflw2000", "nowhere"), "nothing to run"),
        (("--dataset", "aflw2000", "nowhere", "--predictions", "x.npz"), "'nowhere' does not exist"),
        (("--dataset", "biwi", ".", "--predictions", "x.npz"), "0 .npz files in"),
        (("--dataset", "aflw2000", ".", "--predictions", "x.npz"), "no .mat files"),
        (("edge", "--signs", "x.csv"), "cannot read 'x.csv'"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(tmp_path, arguments, said):
    done = fexport("evaluate", *arguments, "--json", "out.json", cwd=tmp_path)
    assert done.returncode == 1
    assert said in done.stderr
    assert not list(tmp_path.iterdir())


def test_predictions_that_do_not_fit(tmp_path, aflw, biwi, matrices):
    np.save(tmp_path / "few.npy", PREDICTED[:3])
    np.savez(tmp_path / "other.npz", something=PREDICTED)
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    for name, said in (
        ("few.npy", "has 3 rotations without names"),
        ("other.npz", "it has no pred_R"),
        ("bad.csv", "neither columns R00"),
        ("absent.npz", "cannot be read as predictions"),
        ("absent.txt", "cannot tell the format"),
    ):
        done = fexport("evaluate", "--dataset", "aflw2000", aflw, "--predictions", tmp_path / name)
        assert done.returncode == 1, name
        assert said in done.stderr, done.stderr
    done = fexport("evaluate", "--dataset", "aflw2000", aflw, "--predictions", matrices, "--label-order-bug")
    assert done.returncode == 1
    assert "is in its BIWI test" in done.stderr


def test_a_bundle_without_a_pose_is_refused(biwi):
    done = fexport("evaluate", "edge", "--dataset", "biwi", biwi)
    assert done.returncode == 1
    assert "gives no pose" in done.stderr


def test_of_several_faces_the_labelled_one_is_taken():
    """The face that covers the labelled one best is taken, and none if none does."""
    from types import SimpleNamespace

    from fexport.evaluation.predictions import _labelled

    class Found(SimpleNamespace):
        def __len__(self):
            return len(self.boxes_xyxy_px)

    boxes = np.concatenate([FACE + 300, FACE + 5])
    assert _labelled(Found(boxes_xyxy_px=boxes), FACE[0].astype(np.float64)) == 1
    assert _labelled(Found(boxes_xyxy_px=boxes), np.array([900.0, 900, 950, 950])) is None
    assert _labelled(Found(boxes_xyxy_px=boxes[:0]), None) is None

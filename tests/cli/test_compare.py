"""fexport compare: the measuring core on known differences, and the command on bundles and saved tables."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
from command import fexport, refused
from conftest import GOLDENS

from fexport.comparison.measuring import Comparison, Rows, apart, comparable, matched
from fexruntime import Detector
from fexruntime.contracts import PIPELINES
from fexruntime.contracts.labels import AUS, EMBEDDING, FACEBOX, MESH_XYZ, POSE, ROTATION
from fexruntime.contracts.measures import BUDGETS, MEASURES
from fexruntime.errors import InputError
from fexruntime.rotations import from_euler

BOX = [10.0, 10.0, 50.0, 50.0, 0.9]


def rows(columns, *faces):
    return Rows(
        (*FACEBOX, *columns), np.array([BOX + list(face) for face in faces], np.float64).reshape(-1, 5 + len(columns))
    )


def test_every_value_that_columns_show_has_a_measure_with_a_budget():
    for pipeline in PIPELINES:
        for group in pipeline.groups:
            if group.dtype == "float32":
                assert all(m.task in BUDGETS for m in MEASURES[group.value]), group.value


def test_differences_in_each_unit():
    one = np.array([[3.1, 0.5]])
    assert apart("probability", one, one + 0.25).tolist() == [0.25, 0.25]
    assert apart("degrees", np.array([[math.pi - 0.01]]), np.array([[-math.pi + 0.01]])) == pytest.approx(
        np.rad2deg(0.02)
    )
    assert apart("scaled", np.array([[200.0, 0.5]]), np.array([[201.0, 0.6]])) == pytest.approx([0.005, 0.1])
    vectors = np.array([[1.0, 0.0], [1.0, 1.0]])
    assert apart("cosine", vectors, np.array([[0.0, 2.0], [3.0, 3.0]])) == pytest.approx([1.0, 0.0])
    turned = from_euler(np.array([[0.0, 0.3, 0.0]])).reshape(1, 9)
    assert apart("rotation", np.eye(3).reshape(1, 9), turned) == pytest.approx([np.rad2deg(0.3)])


def test_what_one_side_lacks_is_infinitely_far_and_what_both_lack_is_nothing():
    a, b = np.array([[np.nan, np.nan, 1.0]]), np.array([[np.nan, 1.0, 1.0]])
    assert apart("value", a, b).tolist() == [math.inf, 0.0]
    assert apart("cosine", a, np.ones((1, 3))).tolist() == [math.inf]
    assert apart("cosine", a, b).tolist() == []


def test_faces_are_paired_by_overlap_each_once():
    first = np.array([[0, 0, 10, 10], [100, 0, 10, 10], [300, 0, 10, 10]], float)
    second = np.array([[101, 0, 10, 10], [0, 1, 10, 10], [2, 0, 10, 10]], float)
    assert matched(first, second) == [(0, 1), (1, 0)]
    assert matched(first, np.empty((0, 4))) == []


def test_budgets_by_group_win_over_those_by_unit():
    columns = (*FACEBOX, *AUS, *POSE)
    what, lone = comparable(columns, columns[:-1], None, {"probability": 0.5, "au": 0.25, "degrees": 2})
    budgets = {(w.group, w.task): w.budget for w in what}
    assert budgets[("au", "probability")] == 0.25
    assert budgets[("facebox", "probability")] == 0.5
    # a group's own is of its first values: the score of a box is no pixel
    alone = {(w.group, w.task): w.budget for w in comparable(columns, columns, None, {"facebox": 2})[0]}
    assert (alone[("facebox", "pixels")], alone[("facebox", "probability")]) == (2, BUDGETS["probability"])
    assert budgets[("pose", "degrees")] == 2
    assert lone == ["Z"]
    with pytest.raises(InputError, match="no group or unit 'aux'"):
        comparable(columns, columns, None, {"aux": 1})
    with pytest.raises(InputError, match="no column in common"):
        comparable(AUS, POSE)


def test_a_part_of_a_vector_is_not_compared():
    what, _ = comparable((*FACEBOX, *EMBEDDING), (*FACEBOX, *EMBEDDING[:10]))
    assert {w.group for w in what} == {"facebox"}
    what, _ = comparable((*FACEBOX, *ROTATION, *MESH_XYZ), (*FACEBOX, *ROTATION, *MESH_XYZ))
    columns = [c for w in what for c in w.columns]
    assert len(columns) == len(set(columns)) == 5 + 9 + len(MESH_XYZ)


def test_the_worst_frames_are_kept_and_the_table_says_what_is_beyond():
    what, _ = comparable((*FACEBOX, "AU01"), (*FACEBOX, "AU01"))
    found = Comparison(what, keep=2)
    for k, far in enumerate((0.0, 0.2, 0.0005, 0.3, 0.1)):
        found.add(f"{k}.png", k, rows(["AU01"], [0.5]), rows(["AU01"], [0.5 + far]), np.zeros((4, 4, 3), np.uint8))
    assert [d.frame for d, *_ in found.worst] == [3, 1]
    line = next(r for r in found.table() if r["group"] == "au")
    assert (line["values"], line["passed"]) == (5, False)
    assert line["max"] == pytest.approx(0.3)
    assert not found.passed


def test_a_judge_of_a_quantile_lets_the_worst_pass():
    what, _ = comparable((*FACEBOX, "AU01"), (*FACEBOX, "AU01"))
    for judge, passes in (("max", False), ("median", True)):
        found = Comparison(what, judge)
        for far in (0, 0, 0, 0.4):
            found.add("a", 0, rows(["AU01"], [0.5]), rows(["AU01"], [0.5 + far]))
        assert found.passed is passes


def test_different_faces_and_no_faces_do_not_pass():
    what, _ = comparable(FACEBOX, FACEBOX)
    found = Comparison(what, keep=1)
    found.add("a", 0, rows([], []), Rows.of(FACEBOX, np.array([[np.nan] * 4 + [0.0]])), np.zeros((4, 4, 3), np.uint8))
    assert (found.only_first, found.only_second, found.passed) == (1, 0, False)
    assert found.worst[0][0].group == "faces"
    assert not Comparison(what).passed


def test_a_bundle_against_its_own_rows_and_against_rows_that_were_changed(tmp_path, photo):
    table, changed = tmp_path / "a.csv", tmp_path / "b.csv"
    Detector("facemesh").detect(photo).to_csv(table)
    done = fexport("compare", "facemesh", table, "--json", tmp_path / "same.json", "--report", tmp_path / "same")
    assert done.returncode == 0, done.stderr
    said = json.loads((tmp_path / "same.json").read_text(encoding="utf-8"))
    assert said["passed"]
    assert said["faces"] == 1
    assert {g["group"] for g in said["groups"]} == {"facebox", "landmarks", "mesh", "pose"}
    assert max(g["max"] for g in said["groups"]) < 1e-4

    with table.open(newline="") as file:
        cells = list(csv.DictReader(file))

    def write_with_yaw(yaw):
        with changed.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(cells[0]))
            writer.writeheader()
            writer.writerows([cells[0] | {"Yaw": yaw}, *cells[1:]])

    write_with_yaw("")
    done = fexport("compare", "facemesh", changed, photo)
    refused(done, "beyond the budget: pose that one side lacks")
    assert "one lacks" in done.stdout
    write_with_yaw(str(float(cells[0]["Yaw"]) + math.radians(2)))
    done = fexport("compare", "facemesh", changed, photo, "--report", tmp_path / "worst")
    refused(done, "beyond the budget: pose 2 °")
    assert [p.name for p in (tmp_path / "worst").iterdir()] == ["01_astronaut.png"]
    assert fexport("compare", "facemesh", changed, photo, "--budget", "pose=2.1").returncode == 0
    assert fexport("compare", "facemesh", changed, photo, "--columns", "landmarks").returncode == 0


def test_a_bundle_against_a_table_that_pyfeat_wrote(v1_bundle, photo, tmp_path):
    """py-feat's own `to_csv`, of the same (made-up) weights."""
    table = GOLDENS / "detectorv1_pyfeat215.csv"
    done = fexport("compare", v1_bundle, table, photo, "--json", tmp_path / "said.json")
    assert done.returncode == 0, done.stderr
    said = json.loads((tmp_path / "said.json").read_text(encoding="utf-8"))
    assert (said["passed"], said["frames"], said["faces"]) == (True, 1, 11)
    assert {"facebox", "landmarks", "pose"} <= {g["group"] for g in said["groups"] if g["values"]}


def test_two_bundles_on_a_folder(tmp_path, photo):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(photo.read_bytes())
    done = fexport("compare", "edge", "edge", tmp_path / "in")
    assert done.returncode == 0, done.stderr
    assert "1 frame, 1 face" in done.stdout
    refused(
        fexport("compare", "edge", "facemesh", tmp_path / "in"),
        "first bundle is faces",
        "compare bundles of one pipeline",
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["edge"], "nothing to compare with"),
        (["edge", "edge"], "nothing to compare on"),
        (["edge", "missing.csv"], "cannot be read as CSV"),
        (["edge", "edge", "photo", "--budget", "facebox"], "is not GROUP=NUMBER"),
        (["edge", "edge", "photo", "--budget", "facebox=-1"], "must be 0 or more"),
        (["edge", "photo", "--against", "pyfeat"], "needs --pyfeat-python"),
        (["edge", "photo", "--against", "pyfeat", "--pyfeat-python", "python3"], "py-feat has no faces"),
    ],
)
def test_what_cannot_be_compared(tmp_path, photo, arguments, says):
    refused(fexport("compare", *[str(photo) if a == "photo" else a for a in arguments], cwd=tmp_path), says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no rows"),
        ("a,b\n1,2\n", "has no column 'input'"),
        ("input,FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight\nx,1,2,3\n", "has 4 cells in line 2, not 5"),
        ("input,FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight\nx,1,2,3,many\n", "could not convert"),
        ("input,FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight\nx,1,2,3,4\n", "has no row of 'astronaut.jpg'"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, photo, text, says):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    refused(fexport("compare", "edge", tmp_path / "t.csv", photo), says)

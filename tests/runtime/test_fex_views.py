"""What a person takes from a Fex without py-feat, and what a result says of itself."""

from __future__ import annotations

import json

import numpy as np
import pytest

import fexruntime
from fexruntime import Detector, InputError


@pytest.fixture(scope="module")
def fex(photo):
    with Detector("facemesh") as detector:
        return detector.detect([np.zeros((64, 64, 3), np.uint8), photo])


def test_rows_are_dictionaries_that_json_takes(fex):
    rows = list(fex)
    assert len(rows) == len(fex) == 2
    assert list(rows[1]) == list(fex.all_columns)
    assert rows[0]["Pitch"] is None
    assert rows[1]["Pitch"] == pytest.approx(float(fex["Pitch"][1]), rel=1e-6)
    assert json.loads(fex.to_json()) == fex.to_dict() == rows
    assert "Pitch" in fex
    assert "AU99" not in fex


def test_what_pandas_and_pyfeat_have_is_said_where_it_is(fex, photo):
    import copy
    import pickle

    for name in ("head", "plot_detections"):
        with pytest.raises(AttributeError, match=rf"no '{name}': to_pandas\(\) gives a DataFrame, to_feat\(\)"):
            getattr(fex, name)
    assert len(pickle.loads(pickle.dumps(fex))) == len(copy.deepcopy(fex)) == 2
    with pytest.raises(InputError, match=r"no option 'num_workers', which is py-feat's: .*leave it out"):
        Detector().detect(photo, num_workers=2)


def test_groups_and_lists_of_columns_are_arrays(fex):
    assert np.array_equal(fex[["Yaw", "Pitch"]][1], [fex["Yaw"][1], fex["Pitch"][1]])
    assert fex.poses.shape == (2, 3)
    assert fex.landmarks.shape == (2, 136)
    assert fex.mesh.shape == (2, 478 * 3)
    assert fex.faceboxes.shape == (2, 5)
    assert fex.columns_of("pose") == ("Pitch", "Roll", "Yaw")
    with pytest.raises(InputError, match="facemesh has no au: it has facebox"):
        _ = fex.aus
    with pytest.raises(InputError, match="no prediction column 'input'"):
        _ = fex[["input"]]


def test_a_fex_says_where_it_comes_from(fex, v28_bundle, frame):
    assert fex.info["contract"] == "mediapipe-0.10"
    assert fex.info["stand_ins"] == []
    assert len(fex.info["bundle_sha256"]) == 64
    assert fex.info["versions"]["fexport"] == fexruntime.__version__
    with Detector(v28_bundle) as detector:
        made_up = detector.detect(frame)
    assert made_up.info["stand_ins"] == ["retinaface-r34", "multitask-v28", "arcface"]
    assert "STAND-IN" in made_up._repr_html_()
    assert made_up.aus.shape[1] == 20
    assert made_up.emotions.shape[1] == 7
    assert made_up.gaze.shape[1] == 3
    assert made_up.blendshapes.shape[1] == 52
    assert made_up.plot(picture=frame).axes[1].get_title() == "action units"


def test_the_page_of_a_notebook_escapes_names(tmp_path, photo):
    path = tmp_path / "<b>.jpg"
    path.write_bytes(photo.read_bytes())
    shown = Detector().detect(path)._repr_html_()
    assert "&lt;b&gt;.jpg" in shown
    assert "<b>" not in shown


def test_plot_draws_the_picture_and_says_what_is_missing(fex, photo):
    pytest.importorskip("matplotlib")
    figure = fex.plot(frame=1)
    assert photo.name in figure.get_suptitle()
    assert len(figure.axes[0].images) == 1
    with pytest.raises(InputError, match=r"picture="):
        fex.plot(frame=0)
    with pytest.raises(InputError, match="no frame 7"):
        fex.plot(frame=7)


def test_parquet_and_csv_hold_the_same(fex, tmp_path):
    import pandas as pd

    fex.to_parquet(tmp_path / "a.parquet")
    fex.to_csv(tmp_path / "a.csv")
    one, other = pd.read_parquet(tmp_path / "a.parquet"), pd.read_csv(tmp_path / "a.csv")
    assert np.array_equal(one["Pitch"].to_numpy(), other["Pitch"].to_numpy(np.float32), equal_nan=True)


def test_every_public_name_is_there_and_listed():
    assert set(dir(fexruntime)) >= {"Detector", "InputError", "BundleError", "__version__"}
    for name in dir(fexruntime):
        assert getattr(fexruntime, name) is not None
    assert fexruntime.__version__[0].isdigit()
    with pytest.raises(AttributeError, match="Detecter"):
        _ = fexruntime.Detecter


def test_a_type_checker_finds_what_is_not_there(tmp_path):
    pytest.importorskip("mypy")
    import subprocess
    import sys

    (tmp_path / "user.py").write_text(
        "from fexruntime import Detecter, Detector, InputError\nDetector().detect('a.jpg', batch_size='two')\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "user.py"],
        cwd=tmp_path, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert '"fexruntime" has no attribute "Detecter"' in done.stdout
    assert "batch_size" in done.stdout
    assert done.stdout.count("error:") == 2, done.stdout

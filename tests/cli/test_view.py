"""The page of `fexport view`, looked at in a real browser."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
import clips
from click.testing import CliRunner

from fexport.cli import group
from fexport.view.rows import read_rows
from fexruntime import Detector, record
from fexruntime.errors import InputError


@pytest.fixture(scope="module")
def watched(tmp_path_factory, photo, v1_edge_bundle):
    """(rows, film, folder): a video and a picture, read by Detectorv1's stand-ins."""
    folder = tmp_path_factory.mktemp("view")
    film = clips.write(folder / "film.mp4", clips.pictures(photo, 60))
    record(Detector(v1_edge_bundle), [film, photo], folder / "rows.parquet", skip_frames=3)
    return folder / "rows.parquet", film, folder


def view(*arguments):
    return CliRunner().invoke(group, ["view", *map(str, arguments)], catch_exceptions=True)


def waited(browser, script, what, seconds=20):
    deadline = time.monotonic() + seconds
    while not (answer := browser.execute_script(f"return {script}")):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return answer


PAINTED = "[...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data].filter((v, k) => k % 4 == 3 && v > 0).length"


@pytest.mark.browser
def test_a_click_on_a_series_moves_the_video_and_faces_are_drawn(watched, browser, tmp_path):
    rows, _, _ = watched
    page = tmp_path / "page.html"
    done = view(rows, "--out", page)
    assert done.exit_code == 0, done.output
    assert not {"http://", "https://"} & set(page.read_text(encoding="utf-8").split('"'))
    browser.get(page.as_uri())
    assert browser.title == "rows.parquet - fexport"
    waited(browser, "shown.readyState >= 2 && frames.length == 20", "the video was not read")
    waited(browser, f"{PAINTED} > 100", "no face was drawn")
    assert "STAND-IN" in browser.find_element("id", "warning").text
    from selenium.webdriver.common.action_chains import ActionChains

    chart = browser.find_element("css selector", ".chart")
    assert chart.get_attribute("data-who").startswith("Person_")
    ActionChains(browser).move_to_element_with_offset(chart, int(chart.size["width"] * 0.25), 0).click().perform()
    waited(browser, "shown.currentTime > 1", "the click did not move the video")
    waited(browser, "rows.frame[frames[at].first] > 30", "the faces are not of that frame")
    number, seconds = browser.execute_script("return [rows.frame[frames[at].first], shown.currentTime]")
    assert seconds == pytest.approx(number / 30, abs=0.02)
    browser.save_screenshot(str(tmp_path / "page.png"))
    # what is drawn is what the rows say: the box's left edge has its colour
    box = browser.execute_script("const f = frames[at]; return [...rows.box.subarray(4 * f.first, 4 * f.first + 4)]")
    left, middle = round(box[0]), round(box[1] + box[3] / 2)
    alpha = browser.execute_script(f"return canvas.getContext('2d').getImageData({left}, {middle}, 1, 1).data[3]")
    assert alpha > 0
    # a column is chosen, a layer taken away
    charts = "document.querySelector('.chart').toDataURL()"
    before = browser.execute_script(f"return {charts}")
    browser.find_element("css selector", "#columns input[value=Yaw]").click()
    assert browser.execute_script(f"return {charts}") != before
    for layer in ("boxes", "points", "axes", "names"):
        browser.find_element("id", layer).click()
    assert browser.execute_script(f"return {PAINTED}") == 0
    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []


@pytest.mark.browser
def test_pictures_are_turned_over_and_a_video_that_no_browser_plays_is_written_anew(
    watched, browser, tmp_path, photo, v1_edge_bundle
):
    odd = clips.write(tmp_path / "odd.avi", clips.pictures(photo, 12), codec="mpeg4")
    record(Detector(v1_edge_bundle), [photo, odd], tmp_path / "rows.csv")
    done = view(tmp_path / "rows.csv", "--out", tmp_path / "page.html", "--contract", "pyfeat-2.0")
    assert done.exit_code == 0, done.output
    browser.get((tmp_path / "page.html").as_uri())
    waited(browser, "shown.readyState >= 2 && shown.videoWidth == 160", "the video was not read")
    assert browser.execute_script("return frames.length") == 12
    browser.execute_script("$('items').value = '1'; $('items').dispatchEvent(new Event('change'))")
    waited(browser, "shown.tagName == 'IMG' && shown.complete && shown.naturalWidth > 0", "no picture")
    waited(browser, f"{PAINTED} > 100", "no face was drawn on the picture")


def test_rows_are_read_alike_from_every_format(watched, v1_edge_bundle, tmp_path):
    rows, film, _ = watched
    parquet = read_rows(rows)
    for suffix in (".csv", ".jsonl"):
        record(Detector(v1_edge_bundle), film, tmp_path / f"rows{suffix}", skip_frames=3)
        other = read_rows(tmp_path / f"rows{suffix}", "pyfeat-2.0")
        assert len(other) == 20
        np.testing.assert_allclose(other.boxes_xywh_px, parquet.boxes_xywh_px[:20], rtol=1e-6)
        np.testing.assert_allclose(other.axes, parquet.axes[:20], atol=1e-5)
        assert other.who == parquet.who[:20]
        assert set(other.series) == set(parquet.series) == {"pose"} | set(other.series)


def test_what_lies_beside_a_csv_says_whose_conventions_it_follows(v1_edge_bundle, photo, tmp_path):
    rows = tmp_path / "rows.csv"
    record(Detector(v1_edge_bundle), [photo], rows)
    read = read_rows(rows)
    assert read.axes is not None
    assert read.stand_ins
    assert not read.notes
    rows.write_text(rows.read_text(encoding="utf-8") + "\n", encoding="utf-8")  # no longer what that was said of
    assert not read_rows(rows).stand_ins


def test_what_cannot_be_shown_is_said_and_nothing_written(watched, tmp_path):
    rows, film, _ = watched
    page = tmp_path / "page.html"
    (tmp_path / "text.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    for arguments, says in (
        ((rows, "--out", tmp_path / "page.txt"), "must be a page"),
        ((tmp_path / "none.csv", "--out", page), "cannot read"),
        ((tmp_path / "text.csv", "--out", page), "has no column input"),
        ((rows, tmp_path / "none.mp4", "--out", page), "is not a file"),
    ):
        done = view(*arguments)
        assert isinstance(done.exception, InputError), done.output
        assert says in str(done.exception)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.copy(rows, moved / "rows.parquet")
    kept = film.rename(film.with_name("away.mp4"))
    try:
        done = view(moved / "rows.parquet", "--out", page)
        assert "is not there: give it behind the rows" in str(done.exception)
    finally:
        kept.rename(film)
    assert not page.exists()


def test_a_page_may_link_its_video(watched, tmp_path):
    rows, _film, folder = watched
    page = folder / "linked.html"
    assert view(rows, "--out", page, "--link").exit_code == 0
    data = json.loads(page.read_text(encoding="utf-8").split("const DATA = ")[1].split(";\nconst $")[0])
    assert data["items"][0]["media"][0]["address"] == "film.mp4"

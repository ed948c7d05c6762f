"""fexport serve: the routes in one process, then the command over a socket with a full queue, load and SIGTERM."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import httpx
import numpy as np
import pyarrow as pa
import pytest
import uvicorn
from command import FEXPORT, fexport, refused
from fastapi.testclient import TestClient

from fexport.cli.serve import command, sockets
from fexport.serving.app import ARROW, Counters, Limits, make_app
from fexruntime import Detector
from fexruntime.errors import EnvironmentMissingError, InputError


@pytest.fixture
def client():
    counters = Counters()
    detector = Detector("facemesh", observe=counters.observe)
    with TestClient(make_app(detector, Limits(body_bytes=1_000_000), counters)) as client:
        yield client


def test_a_photograph_is_answered_with_the_numbers_of_detect(client, photo):
    fex = Detector("facemesh").detect(photo.read_bytes())
    said = client.post("/v1/faces", content=photo.read_bytes())
    assert said.status_code == 200
    (row,) = said.json()["rows"]
    assert list(row) == list(fex.columns)
    for column in fex.numeric_columns:
        assert row[column] == fex[column][0] or (row[column] is None and np.isnan(fex[column][0])), column
    assert "stand_in_weights" not in said.json()

    arrow = client.post("/v1/faces", content=photo.read_bytes(), headers={"Accept": ARROW})
    assert arrow.headers["content-type"] == ARROW
    table = pa.ipc.open_stream(io.BytesIO(arrow.content)).read_all()
    assert table.column_names == list(fex.columns)
    assert table["Yaw"].to_pylist() == fex["Yaw"].tolist()


def test_columns_are_chosen_and_a_picture_without_a_face_has_an_empty_row(client, photo):
    rows = client.post("/v1/faces?columns=pose,facebox", content=photo.read_bytes()).json()["rows"]
    assert set(rows[0]) == {
        "Pitch", "Roll", "Yaw", "FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight", "FaceScore", "input", "frame",
    }  # fmt: skip
    empty = cv2.imencode(".png", np.full((64, 64, 3), 127, np.uint8))[1].tobytes()
    (row,) = client.post("/v1/faces", content=empty).json()["rows"]
    assert (row["FaceScore"], row["FaceRectX"]) == (0.0, None)


def test_a_turned_picture_is_turned_where_that_is_asked_for_and_said_in_each_answer_where_not(client, photo, tmp_path):
    from PIL import Image

    turned = tmp_path / "turned.jpg"
    with Image.open(photo) as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.transpose(Image.Transpose.ROTATE_90).save(turned, exif=exif, quality=95)
    data = turned.read_bytes()
    for _ in range(2):  # each answer, not one of a process
        said = client.post("/v1/faces", content=data).json()
        assert "?exif=true turns it" in said["note"]
    upright = client.post("/v1/faces?exif=true", content=data).json()
    assert "note" not in upright
    plain = client.post("/v1/faces", content=photo.read_bytes()).json()
    assert "note" not in plain
    assert upright["rows"][0]["FaceRectX"] == pytest.approx(plain["rows"][0]["FaceRectX"], abs=5)
    assert abs(upright["rows"][0]["Roll"] - plain["rows"][0]["Roll"]) < 0.1
    arrow = client.post("/v1/faces", content=data, headers={"Accept": ARROW})
    drawn = client.post("/v1/overlay", content=data)
    assert arrow.headers["fexport-note"] == drawn.headers["fexport-note"] == said["note"]
    drawn = client.post("/v1/overlay?exif=true", content=data)
    assert "fexport-note" not in drawn.headers
    refusal = client.post("/v1/faces?exif=perhaps", content=data)
    assert (refusal.status_code, list(refusal.json())) == (400, ["error"])
    assert "exif='perhaps'" in refusal.json()["error"]


def test_the_overlay_is_a_picture_of_the_same_size(client, photo):
    said = client.post("/v1/overlay", content=photo.read_bytes())
    assert said.headers["content-type"] == "image/png"
    drawn = cv2.imdecode(np.frombuffer(said.content, np.uint8), cv2.IMREAD_COLOR)
    before = cv2.imread(str(photo))
    assert drawn.shape == before.shape
    assert (drawn != before).any()


@pytest.mark.parametrize(
    ("route", "content", "status", "says"),
    [
        ("/v1/faces", b"", 400, "the body is empty"),
        ("/v1/faces", b"not an image", 400, "is not an image"),
        ("/v1/overlay", b"\xff\xd8\xff", 400, "cut off"),
        ("/v1/faces?columns=nothing", b"x", 400, "no column or group 'nothing'"),
        ("/v1/faces", b"x" * 1_000_001, 413, "larger than 1000000 bytes"),
    ],
)
def test_requests_that_cannot_be_answered_say_why(client, photo, route, content, status, says):
    said = client.post(route, content=content)
    assert said.status_code == status
    assert says in said.json()["error"]
    assert client.post("/v1/faces", content=photo.read_bytes()).status_code == 200  # no state is left


@pytest.mark.parametrize(("method", "route", "status"), [("GET", "/v1/faces", 405), ("GET", "/nothing", 404)])
def test_a_route_that_is_not_there_is_one_sentence_too(client, method, route, status):
    said = client.request(method, route)
    assert said.status_code == status
    assert list(said.json()) == ["error"]
    assert said.json()["error"].endswith(f"{method} {route}")


def test_a_body_without_a_length_is_cut_off_too(client):
    said = client.post("/v1/faces", content=(b"x" * 100_000 for _ in range(20)))
    assert said.status_code == 413


def test_health_readiness_counters_and_the_page(client, photo):
    assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
    client.post("/v1/faces", content=photo.read_bytes())
    client.post("/v1/faces", content=b"x")
    client.get("/made/up/address")
    said = client.get("/metrics").text
    assert 'fexport_requests_total{route="/v1/faces",status="200"} 1.0' in said
    assert 'fexport_requests_total{route="/v1/faces",status="400"} 1.0' in said
    assert "made" not in said
    assert "fexport_faces_total 1.0" in said
    assert "fexport_queue 0.0" in said
    assert 'fexport_stage_seconds_total{stage="faces network"}' in said
    assert client.get("/v1/bundle").json()["pipeline"] == "facemesh"
    assert "v1/faces" in client.get("/").text


def test_a_full_queue_answers_at_once_and_empties(photo):
    """The order of the answers says so, no clock: the refusals come while the first request is held."""
    counters = Counters()
    detector = Detector()
    detect, entered, leave = detector.detect, threading.Event(), threading.Event()

    def held(*arguments, **options):
        entered.set()
        assert leave.wait(60)
        return detect(*arguments, **options)

    detector.detect = held
    data = photo.read_bytes()
    with TestClient(make_app(detector, Limits(queue=2), counters)) as client, ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.post, "/v1/faces", content=data)
        assert entered.wait(60)
        second = pool.submit(client.post, "/v1/faces", content=data)
        while client.app.state.service._waiting < 2:
            time.sleep(0.01)
        for _ in range(5):
            said = client.post("/v1/faces", content=data)
            assert said.status_code == 429
            assert said.headers["retry-after"] == "1"
            assert not first.done()
        assert client.get("/healthz").status_code == 200
        leave.set()
        assert first.result(60).status_code == second.result(60).status_code == 200
        assert client.post("/v1/faces", content=data).status_code == 200


def test_an_error_of_ours_is_a_sentence_a_count_and_a_line_of_the_log(photo, caplog):
    detector = Detector()

    def wrong(*arguments, **options):
        raise ZeroDivisionError("made up")

    detector.detect = wrong
    caplog.set_level("INFO", "fexport.serve")
    with TestClient(make_app(detector, Limits(), Counters())) as client:
        said = client.post("/v1/faces", content=photo.read_bytes())
        assert said.status_code == 500
        assert "an error of fexport's own, ZeroDivisionError" in said.json()["error"]
        assert 'route="/v1/faces",status="500"} 1.0' in client.get("/metrics").text
        assert "fexport_queue 0.0" in client.get("/metrics").text
    (line,) = [x for x in map(json.loads, caplog.messages) if x["status"] == 500]
    assert "ZeroDivisionError: made up" in line["error"]


def test_readiness_is_refused_before_the_start():
    app = make_app(Detector(), Limits(), Counters())
    assert TestClient(app).get("/readyz").status_code == 503
    app.state.service.close()


@contextlib.contextmanager
def served(*arguments):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [*FEXPORT, "serve", "edge", "--port", str(port), "--threads", "1", *arguments],
        stderr=subprocess.PIPE, encoding="utf-8", env=os.environ,
    )  # fmt: skip
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
    try:
        for _ in range(600):
            with contextlib.suppress(httpx.TransportError):
                if client.get("/readyz").status_code == 200:
                    break
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        yield client, process
    finally:
        client.close()
        process.kill()
        process.communicate()


def test_the_command_serves_eight_clients_and_ends_on_sigterm(photo):
    expected = Detector(threads=1).detect(photo.read_bytes())["FaceRectX"].tolist()
    data = photo.read_bytes()
    bomb = cv2.imencode(".png", np.zeros((3000, 3000), np.uint8))[1].tobytes()
    with served("--queue", "8", "--max-megapixels", "1") as (client, process):
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: client.post("/v1/faces", content=data), range(40)))
        assert {a.status_code for a in answers} == {200}
        assert all([r["FaceRectX"] for r in a.json()["rows"]] == expected for a in answers)
        assert client.post("/v1/faces", content=bomb).status_code == 400
        with socket.create_connection(("127.0.0.1", client.base_url.port), 60) as other:
            other.sendall(b"no HTTP\r\n\r\n")
            assert other.recv(100).startswith(b"HTTP/1.1 400")
        assert client.post("/v1/faces", content=data).status_code == 200
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    first, *lines = [json.loads(line) for line in said.splitlines()]  # whoever says it
    assert first["addresses"] == [str(client.base_url)]
    assert {"route": "/v1/faces", "status": 400} in [{k: x.get(k) for k in ("route", "status")} for x in lines]
    warned = {"level": "WARNING", "logger": "uvicorn.error", "message": "Invalid HTTP request received."}
    assert [x for x in lines if "route" not in x] == [warned]
    assert "Traceback" not in said, said


def half(port, of_bytes):
    """A client that says it sends so many bytes, and sends half of them."""
    client = socket.create_connection(("127.0.0.1", port), 60)
    client.sendall(f"POST /v1/faces HTTP/1.1\r\nHost: x\r\nContent-Length: {of_bytes}\r\n\r\n".encode())
    client.sendall(b"x" * (of_bytes // 2))
    return client


def app_of(detector, **limits):
    """The service on a socket, in a thread: its port, and what ends it."""
    counters = Counters()
    app = make_app(detector, Limits(**limits), counters)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return app, server, thread, server.servers[0].sockets[0].getsockname()[1]


def test_bodies_that_do_not_come_hold_nothing(photo):
    """They are given up; together they never hold more than a full queue of the largest; one that has no room is refused, and read to its end."""
    app, server, thread, port = app_of(Detector(), body_bytes=200_000, queue=2, body_s=5)
    try:
        slow = [half(port, 180_000) for _ in range(4)]
        while app.state.service._held_bytes < 4 * 90_000:
            time.sleep(0.01)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            assert client.post("/v1/faces", content=photo.read_bytes()).status_code == 429
            assert client.get("/healthz").status_code == 200
            slow.pop().close()  # who goes away is forgotten at once
            for late in slow:
                assert b"408" in late.recv(1000).partition(b"\r\n")[0]
            assert app.state.service._held_bytes == 0
            assert client.post("/v1/faces", content=photo.read_bytes()).status_code == 200
            said = client.get("/metrics").text
        for status in ("408", "429", "499"):
            assert f'route="/v1/faces",status="{status}"' in said
    finally:
        server.should_exit = True
        thread.join(60)
    assert not thread.is_alive()


@pytest.mark.slow  # 20 s, those that a body is waited for
def test_the_command_ends_on_sigterm_while_a_body_is_coming():
    with served() as (client, process):
        slow = half(client.base_url.port, 1_000_000)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
        slow.close()
    assert "Traceback" not in said, said
    assert process.returncode == -signal.SIGTERM


DROP = """
const bytes = Uint8Array.from(atob(arguments[0]), c => c.charCodeAt(0)), dropped = new DataTransfer();
dropped.items.add(new File([bytes], "dropped.jpg", { type: "image/jpeg" }));
document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: dropped, bubbles: true, cancelable: true }));
"""


def test_a_picture_that_is_given_to_the_page_is_drawn_in_a_real_browser(browser, photo, tmp_path):
    def waited(script):
        deadline = time.monotonic() + 60
        while not (answer := browser.execute_script(f"return {script}")):
            assert time.monotonic() < deadline, browser.execute_script("return document.body.innerText")
            time.sleep(0.05)
        return answer

    (tmp_path / "broken.jpg").write_bytes(photo.read_bytes()[:3000])
    with served() as (client, _):
        browser.get(str(client.base_url))
        browser.find_element("id", "file").send_keys(str(photo))
        assert waited("overlay.naturalWidth > 0 && said.textContent") == "1 face"
        assert browser.execute_script("return overlay.naturalWidth") == 512
        assert waited("rows.rows.length") == 2
        assert "FaceScore" in browser.execute_script("return rows.rows[0].textContent")
        browser.execute_script("rows.replaceChildren(); overlay.hidden = true; said.textContent = ''")
        browser.execute_script(DROP, base64.b64encode(photo.read_bytes()).decode())
        assert waited("said.textContent == '1 face' && !overlay.hidden && overlay.naturalWidth") == 512
        browser.find_element("id", "file").send_keys(str(tmp_path / "broken.jpg"))
        assert "cut off" in waited("said.className == 'error' && said.textContent")
        assert browser.execute_script("return overlay.hidden && rows.rows.length == 0")
        assert [
            e["message"]
            for e in browser.get_log("browser")
            if "400" not in e["message"] and "favicon" not in e["message"]
        ] == []


def test_what_cannot_be_served():
    refused(fexport("serve", "missing-bundle"), "no bundle at")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        refused(fexport("serve", "edge", "--port", port), f"--port {port} cannot be had (Address already in use)")
    refused(fexport("serve", "edge", "--host", "192.0.2.1"), "--host 192.0.2.1 --port 8000 cannot be had")


def test_addresses_of_a_host_that_this_machine_has_not_are_passed_over_where_it_has_another(monkeypatch):
    def named(*ends):
        kinds = [(f, socket.SOCK_STREAM, 0, "", (ip, port)) for f, ip, port in ends]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: kinds)

    foreign, unknown = (socket.AF_INET, "192.0.2.1", 0), (12345, "127.0.0.1", 0)  # a family that no system has
    named(foreign, unknown, (socket.AF_INET, "127.0.0.1", 0), foreign)
    (bound,) = sockets("host", 0)
    with bound:
        assert bound.getsockname()[0] == "127.0.0.1"
    for ends, why in (([foreign], "Cannot assign"), ([foreign, unknown], "not supported")):
        named(*ends)
        with pytest.raises(InputError, match=rf"--host host --port 7 cannot be had \(.*{why}"):
            sockets("host", 7)
    with socket.create_server(("127.0.0.1", 0)) as other, socket.create_server(("127.0.0.1", 0)) as free:
        taken, port = other.getsockname()[1], free.getsockname()[1]
        free.close()
        named((socket.AF_INET, "127.0.0.1", port), (socket.AF_INET, "127.0.0.1", taken), foreign)
        with pytest.raises(InputError, match="Address already in use"):
            sockets("host", 7)
        with socket.socket() as again:
            again.bind(("127.0.0.1", port))  # what was bound before is let go


def test_a_process_that_has_opencv_already_does_not_serve():
    """OpenCV reads its limit on pixels once: set too late, pictures of kinds whose head is not read could be of any size."""
    with pytest.raises(EnvironmentMissingError, match="OpenCV was imported before its limit on pixels"):
        command.callback(**{p.name: p.default for p in command.params if p.expose_value})

"""fexport triton: the repository that is written, and a real tritonserver (CPU, Python backend) that serves it."""

from __future__ import annotations

import gc
import importlib.util
import json
import logging
import os
import sys
import types
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from command import fexport, refused
from conftest import ROOT

from fexport.triton import pbtxt, repository
from fexruntime import Detector
from fexruntime.backends.base import Place
from fexruntime.bundle import open_bundle
from fexruntime.driver import Gpu
from fexruntime.engines import key_of, profiles_of, shown
from fexruntime.errors import EnvironmentMissingError, InputError, OutputError

STEP = """
import numpy as np, onnxruntime, os
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def initialize(self, args):
        here = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(here, options, providers=["CPUExecutionProvider"])
    def execute(self, requests):
        answers = []
        for request in requests:
            names = list(request.requested_output_names())
            given = {t.name(): t.as_numpy() for t in request.inputs()}
            found = self.session.run(names, given)
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor(n, v) for n, v in zip(names, found)]))
        return answers
"""
"""In place of Triton's ONNX Runtime backend, which the wheel has not: the same graph, called by the server the same way."""


@pytest.fixture(scope="module")
def triton():
    """What starts a tritonserver."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import triton_server
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    missing = triton_server.installed()
    if missing:
        assert not os.environ.get("FEXPORT_NEED_TRITON"), missing
        pytest.skip(missing)
    return triton_server


@pytest.fixture(scope="module")
def server(triton, tmp_path_factory):
    """A server with the packaged mesh, whole and with its graphs as models of their own, and a detector with a queue of two."""
    folder = tmp_path_factory.mktemp("triton")
    bundle, models = open_bundle("facemesh"), folder / "models"
    repository.write(bundle, models, repository.Serving("mesh", threads=1, delay_us=300_000, max_bytes=1_000_000), {})
    steps = repository.steps_of(bundle, "onnxruntime", repository.Serving())
    for path in repository.write(bundle, models, repository.Serving("parted", columns="pose,facebox"), steps)[1:]:
        config = path / "config.pbtxt"
        text = config.read_text(encoding="utf-8")
        config.write_text(
            text.replace('backend: "onnxruntime"', 'backend: "python"').replace("model.onnx", "model.py"),
            encoding="utf-8",
        )
        (path / "1" / "model.py").write_text(STEP, encoding="utf-8")
    queue = repository.Serving("short", threads=1, queue=2, delay_us=2_000_000)
    repository.write(open_bundle("edge"), models, queue, {})
    with triton.serving(models, folder) as running:
        yield running


def ask(server, over, data, model="mesh", **options):
    if over == "http":
        import tritonclient.http as client
    else:
        import tritonclient.grpc as client
    images = [data] if isinstance(data, bytes) else data
    given = client.InferInput("image", [len(images), 1], "BYTES")
    given.set_data_from_numpy(np.array([[i] for i in images], object))
    with client.InferenceServerClient(getattr(server, over)) as asking:
        return asking.infer(model, [given], **options)


@pytest.mark.triton
@pytest.mark.parametrize("over", ["http", "grpc"])
def test_a_photograph_is_answered_with_the_numbers_of_detect(server, over, photo):
    fex = Detector("facemesh", threads=1).detect(photo.read_bytes())
    said = ask(server, over, photo.read_bytes())
    assert said.as_numpy("count").tolist() == [[len(fex)]]
    assert np.array_equal(said.as_numpy("values")[0], fex.values, equal_nan=True)
    (row,) = json.loads(said.as_numpy("rows")[0, 0])["rows"]
    assert row == fex.to_dict()[0]


@pytest.mark.triton
def test_the_configuration_names_the_columns(server):
    import tritonclient.grpc as client

    with client.InferenceServerClient(server.grpc) as asking:
        said = asking.get_model_config("mesh", as_json=True)["config"]["parameters"]
    assert said["value_columns"]["string_value"].split(",") == list(Detector("facemesh").detect([]).numeric_columns)


@pytest.mark.triton
def test_requests_at_once_are_read_together_and_a_bad_one_fails_alone(server, photo):
    from tritonclient.utils import InferenceServerException

    data = photo.read_bytes()
    expected = ask(server, "grpc", data).as_numpy("values")

    def answer(k):
        bad = {2: data[:900], 5: b"no image", 6: b"", 7: b"\xff\xd8" + bytes(1_000_001)}.get(k)
        try:
            return ask(server, "grpc", data if bad is None else bad).as_numpy("values")
        except InferenceServerException as error:
            return error.status(), error.message()

    before = statistics(server)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(answer, range(8)))
    after = statistics(server)
    for k in (0, 1, 3, 4):
        np.testing.assert_allclose(answers[k], expected, rtol=0, atol=1e-3)
    says = {2: "cut off", 5: "is not an image", 6: "is empty", 7: "more than 1000000"}
    for k, text in says.items():
        assert answers[k][0] == "StatusCode.INVALID_ARGUMENT"
        assert text in answers[k][1]
    assert after["execution_count"] - before["execution_count"] < 8  # some of the eight shared a run


@pytest.mark.triton
@pytest.mark.parametrize("over", ["http", "grpc"])
def test_a_full_queue_refuses_at_once_and_answers_those_in_it(server, over, photo):
    """Two wait for others to be read with, two seconds long: six more are too many."""
    from tritonclient.utils import InferenceServerException

    data = photo.read_bytes()
    expected = Detector("edge", threads=1).detect(data).values

    def answer(_):
        try:
            return ask(server, over, data, "short").as_numpy("values")
        except InferenceServerException as error:
            return error.status(), error.message()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(answer, range(8)))
    refusals = [a for a in answers if isinstance(a, tuple)]
    assert len(refusals) == 6
    for status, message in refusals:
        assert status in ("StatusCode.UNAVAILABLE", "503")
        assert "Exceeds maximum queue size" in message
    for values in (a for a in answers if not isinstance(a, tuple)):
        np.testing.assert_allclose(values[0], expected, rtol=0, atol=1e-3)
    assert ask(server, over, data, "short").as_numpy("count").tolist() == [[1]]


@pytest.mark.triton
@pytest.mark.parametrize("left_open", [False, True])
def test_the_server_ends_on_sigterm(triton, left_open, photo, tmp_path):
    """The model lets it; a connection that an HTTP client leaves open holds it for its own `--exit-timeout-secs`. The model's process
    ends by itself, too, whatever was refused.
    """
    import tritonclient.http as client
    from tritonclient.utils import InferenceServerException

    repository.write(open_bundle("edge"), tmp_path / "models", repository.Serving(threads=1), {})
    with triton.serving(tmp_path / "models", tmp_path, exit_s=5) as running:
        given = client.InferInput("image", [1, 1], "BYTES")
        given.set_data_from_numpy(np.array([[photo.read_bytes()]], object))
        asking = client.InferenceServerClient(running.http)
        assert asking.infer("fexport", [given]).as_numpy("count").tolist() == [[1]]
        given.set_data_from_numpy(np.array([[photo.read_bytes()[:900]]], object))
        for _ in range(3):
            with pytest.raises(InferenceServerException, match="cut off"):
                asking.infer("fexport", [given])
        if not left_open:
            asking.close()
    said = running.log.read_text(errors="replace", encoding="utf-8")
    assert "successfully unloaded 'fexport'" in said or left_open
    assert set(running.ends.read_text(encoding="utf-8").split()) == {"0"}
    # a server that is asked to end before it has seen its client go says so, too, and waits: its exit status says whether in vain
    assert running.process.returncode == int(left_open), said
    assert "HTTP service connections" in said or not left_open


@pytest.mark.triton
def test_a_request_of_several_images_has_a_table_for_each(server, photo):
    from PIL import Image

    data = photo.read_bytes()
    import io

    blank = io.BytesIO()
    Image.new("RGB", (64, 64), (127, 127, 127)).save(blank, "PNG")
    said = ask(server, "http", [data, blank.getvalue()])
    assert said.as_numpy("count").tolist() == [[1], [1]]
    tables = [json.loads(text)["rows"] for text in said.as_numpy("rows")[:, 0]]
    assert tables[0][0]["FaceScore"] > 0.5
    assert (tables[1][0]["FaceScore"], tables[1][0]["Yaw"]) == (0, None)
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException, match="image 2 of 2 is cut off"):
        ask(server, "http", [data, data[:900]])


@pytest.mark.triton
def test_graphs_that_are_models_of_their_own_give_the_same_numbers(server, photo):
    fex = Detector("facemesh", threads=1).detect(photo.read_bytes(), columns=["pose", "facebox"])
    before = statistics(server, "parted_mesh")["inference_count"]
    said = ask(server, "grpc", photo.read_bytes(), "parted")
    np.testing.assert_allclose(said.as_numpy("values")[0], fex.values, rtol=0, atol=1e-4)
    assert statistics(server, "parted_mesh")["inference_count"] > before


def statistics(server, model="mesh"):
    import tritonclient.grpc as client

    with client.InferenceServerClient(server.grpc) as asking:
        (said,) = asking.get_inference_statistics(model, as_json=True)["model_stats"]
    return {k: int(said.get(k, 0)) for k in ("inference_count", "execution_count")}


def test_the_repository_holds_the_runtime_and_the_bundle_whole(tmp_path):
    done = fexport("triton", "edge", tmp_path / "models", "--name", "faces", "--threads", "1", "--queue", "3")
    assert done.returncode == 0, done.stderr
    version = tmp_path / "models" / "faces" / "1"
    assert open_bundle(version / "bundle").verify_files() > 0
    assert (version / "fexruntime" / "ops" / "kernels.cu").is_file()
    assert not list(version.rglob("__pycache__"))
    config = (tmp_path / "models" / "faces" / "config.pbtxt").read_text(encoding="utf-8")
    assert "max_queue_size: 3" in config
    assert os.listdir(tmp_path) == ["models"]  # nothing is left beside it
    refused(fexport("triton", "edge", tmp_path / "models", "--name", "faces"), "is there already", "--force")
    (version / "mine").touch()
    assert fexport("triton", "edge", tmp_path / "models", "--name", "faces", "--force").returncode == 0
    assert not (version / "mine").exists()


def test_what_cannot_be_written(tmp_path):
    out = tmp_path / "models"
    refused(fexport("triton", "missing", out), "no bundle at")
    refused(fexport("triton", "edge", out, "--columns", "nothing"), "no column or group 'nothing'")
    refused(fexport("triton", "edge", out, "--name", "../x"), "cannot be a model's name")
    refused(fexport("triton", "edge", out, "--backend", "nothing"), "no backend 'nothing'")
    refused(fexport("triton", "edge", out, "--backend", "ncnn"), "has no fp32 artefact of kind ncnn")
    refused(fexport("triton", "edge", out, "--steps", "onnxruntime", "--backend", "ncnn"), "leave out --backend")
    assert not out.exists()


def test_a_model_that_cannot_be_moved_in_leaves_what_was_there(tmp_path):
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "mine").touch()
    with pytest.raises(OutputError, match="cannot write"):
        repository._moved(tmp_path / "missing", tmp_path / "faces", tmp_path / "old")
    assert (tmp_path / "faces" / "mine").exists()


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="a file system of its own is needed")
def test_a_repository_that_is_a_mount_is_refused():
    with pytest.raises(OutputError, match="a file system of its own"):
        repository.write(open_bundle("edge"), Path("/dev/shm"), repository.Serving("fexport-test-of-mounts"), {})
    assert not Path("/dev/shm/fexport-test-of-mounts").exists()


@pytest.fixture
def model(monkeypatch):
    """The model itself, with stand-ins for Triton's classes and for the detector."""
    utils = types.ModuleType("triton_python_backend_utils")
    utils.get_input_tensor_by_name = lambda request, name: types.SimpleNamespace(
        as_numpy=lambda: np.array([request.image], object)
    )
    utils.InferenceResponse = lambda tensors=None, error=None: error or "answered"
    utils.TritonError = type(
        "TritonError", (str,), {"INVALID_ARG": 3, "INTERNAL": 1, "__new__": lambda c, t, n: str.__new__(c, t)}
    )
    utils.Tensor = lambda name, value: name
    monkeypatch.setitem(sys.modules, utils.__name__, utils)
    monkeypatch.setattr(sys, "path", [*sys.path])
    found = importlib.util.spec_from_file_location("model_of_triton", repository.MODEL)
    module = importlib.util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, found.name, module)
    found.loader.exec_module(module)

    def decoded(data, called):
        if data == b"huge":
            raise MemoryError
        return data

    def table(results, columns):
        if results == [b"not a number"]:
            raise ValueError("Out of range float values are not JSON compliant")
        return [1]

    model = module.TritonPythonModel()
    model._most_bytes, model._options, model._columns = 100, None, None
    model._frame = decoded
    model._detector = types.SimpleNamespace(run=lambda frames, *a, **k: frames, to_fex=table, close=lambda: None)
    return model


class Request:
    def __init__(self, image):
        self.image = image

    def requested_output_names(self):
        return ["count"]


def test_whatever_a_request_fails_with_those_beside_it_are_answered(model):
    assert model.execute([Request(i) for i in (b"face", b"huge", b"not a number", b"face")]) == [
        "answered",
        "MemoryError",
        "Out of range float values are not JSON compliant",
        "answered",
    ]


def test_no_request_outlives_its_answer_and_none_the_end(model, monkeypatch):
    """It has shared memory, and the stub of one that lets go of it after `finalize` is ended by a signal."""
    monkeypatch.setattr(
        logging.getLogger("fexport.triton"), "disabled", True
    )  # pytest keeps what is logged, and its frames
    requests = [Request(i) for i in (b"face", b"huge", b"not a number")]
    alive = [weakref.ref(request) for request in requests]
    gc.collect()
    gc.disable()
    try:
        model.execute(requests)
        del requests
        assert [request() for request in alive] == [None] * 3
        circle = [Request(b"face")]
        in_it = weakref.ref(circle[0])
        circle.append(circle)
        del circle
        assert in_it() is not None
        model.finalize()
        assert in_it() is None
    finally:
        gc.enable()


def test_engines_of_the_store_become_steps(tmp_path, monkeypatch):
    """Only as files: no GPU has run them."""
    monkeypatch.setenv("FEXPORT_CACHE", str(tmp_path / "cache"))
    bundle, here = open_bundle("facemesh"), Gpu("Orin", "8.7", "12.2")
    with pytest.raises(EnvironmentMissingError, match="fexport engines"):
        repository.tensorrt_steps(bundle, "10.3.0", here)
    store = Place().store()
    for role, network, variant in repository.graphs(bundle, "tensorrt"):
        key = key_of(network, variant, "10.3.0", here, shown(profiles_of(network.record.inputs)), "{}")
        with store.writing(key) as path:
            path.write_bytes(f"plan of {role}".encode())
    steps = repository.tensorrt_steps(bundle, "10.3.0", here)
    repository.write(bundle, tmp_path / "models", repository.Serving(), steps)
    for role in steps:
        folder = tmp_path / "models" / f"fexport_{role}"
        assert (folder / "1" / "model.plan").read_bytes() == f"plan of {role}".encode()
        config = (folder / "config.pbtxt").read_text(encoding="utf-8")
        assert 'backend: "tensorrt"' in config
        assert 'profile: ["0", "1", "2", "3"]' in config
        assert "max_batch_size: 64" in config
        assert '"10.3.0"' in config
    host = (tmp_path / "models" / "fexport" / "config.pbtxt").read_text(encoding="utf-8")
    assert "fexport_mesh" in host


def test_the_text_format():
    said = pbtxt.text(
        {"a": 'x"\n', "b": [1, -1], "c": pbtxt.Word("KIND"), "d": [{"e": True}, {"e": False}], "f": {"g": 1}}
    )
    assert said == 'a: "x\\"\\n"\nb: [1, -1]\nc: KIND\nd {\n  e: true\n}\nd {\n  e: false\n}\nf {\n  g: 1\n}\n'


def test_outside_a_server_the_backend_says_so():
    with pytest.raises(EnvironmentMissingError, match="inside a Triton server alone"):
        Detector("edge", backend="triton")


def test_settings_that_cannot_be():
    with pytest.raises(InputError, match="cannot be a model's name"):
        repository.Serving("a/b")

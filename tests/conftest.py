"""Fixtures: bundles on stand-in weights, built once a session, and py-feat's recorded answers where they are there."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from fexruntime.memory import give_back

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": os.devnull}
"""Before the hub's client is imported: no test may depend on what a hub, or a developer's cache of it, has."""
ROOT = Path(__file__).parent.parent
REFERENCE = Path(os.environ.get("FEXPORT_REFERENCE", ROOT.parent / "shared" / "reference"))
GOLDENS = Path(__file__).parent / "goldens"
PHOTO = ROOT / "export" / "fexport" / "photographs" / "astronaut.jpg"
LANDMARKS_AND_POSE = {"au": "none", "emotion": "none", "gaze": "none"}
"""Choices of Detectorv1 without its classifiers and gaze."""
collect_ignore = (
    []
    if find_spec("torch")
    else [
        f"runtime/test_{n}.py"
        for n in ("backends", "devices", "img2pose", "on_device", "resample", "resident", "store", "tensorrt")
    ]
)
"""Of tests/runtime what imports the build's side; without torch (`benchmarks/pythons.py`) the others run, and skip what asks for a built bundle."""
GPU_SIZES = ((512, 512), (96, 128))
"""Frames that the engines of the fixture `tensorrt` are made for."""
FACE = np.array([[177.7, 53.75, 271.0, 178.75]], np.float32)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Optimised graphs of the tests go to a folder of theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEXPORT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def photo() -> Path:
    return PHOTO


@pytest.fixture(scope="session")
def frame(photo):
    from fexruntime.sources.images import read_image

    return read_image(photo)


def _build(folder: Path, pipeline, contract, targets=(), **choices):
    pytest.importorskip("torch", reason="builds a bundle")
    from fexport import build, plan

    build.build(plan.plan(pipeline, contract, choices, stand_in_seed=0, targets=targets), folder)
    give_back()  # glibc keeps what a build freed, 1.4 GB each time, and the suite would need a dozen of them
    return folder


@pytest.fixture(scope="module", autouse=True)
def memory_is_given_back():
    yield
    give_back()


@pytest.fixture(scope="session")
def v2_bundle(tmp_path_factory):
    """Detectorv2, pyfeat-2.0, stand-in weights throughout (RetinaFace-R34 too)."""
    return _build(tmp_path_factory.mktemp("v2") / "bundle", "detectorv2", "pyfeat-2.0")


@pytest.fixture(scope="session")
def v28_bundle(tmp_path_factory):
    """Detectorv2, pyfeat-2.1, stand-in weights throughout."""
    return _build(tmp_path_factory.mktemp("v28") / "bundle", "detectorv2", "pyfeat-2.1")


@pytest.fixture(scope="session")
def v1_bundle(tmp_path_factory):
    """Detectorv1's landmarks, pose and identity, stand-in weights throughout."""
    return _build(tmp_path_factory.mktemp("v1") / "bundle", "detectorv1", "pyfeat-2.1", **LANDMARKS_AND_POSE)


@pytest.fixture(scope="session")
def v1_whole_bundle(tmp_path_factory):
    """Detectorv1 as it is built by default, with the real MobileNet-0.25 detector."""
    folder = tmp_path_factory.mktemp("v1w") / "bundle"
    return _build(folder, "detectorv1", "pyfeat-2.1", faces="retinaface-mobilenet025")


@pytest.fixture(scope="session")
def v1_edge_bundle(tmp_path_factory):
    """Detectorv1 with the real MobileNet-0.25 detector and FaceNet."""
    folder = tmp_path_factory.mktemp("v1e") / "bundle"
    choices = {"faces": "retinaface-mobilenet025", "identity": "facenet"} | LANDMARKS_AND_POSE
    return _build(folder, "detectorv1", "pyfeat-2.0", **choices)


@pytest.fixture(scope="session")
def targets_bundle(tmp_path_factory):
    """Detectorv1 with the real MobileNet-0.25 detector and ArcFace, for every target."""
    folder = tmp_path_factory.mktemp("targets") / "bundle"
    choices = {"faces": "retinaface-mobilenet025"} | LANDMARKS_AND_POSE
    return _build(folder, "detectorv1", "pyfeat-2.1", ("ncnn", "openvino"), **choices)


@pytest.fixture(scope="session")
def v2_targets_bundle(tmp_path_factory):
    """Detectorv2, pyfeat-2.1, stand-in weights throughout, for every target."""
    return _build(tmp_path_factory.mktemp("v2targets") / "bundle", "detectorv2", "pyfeat-2.1", ("ncnn", "openvino"))


@pytest.fixture(scope="session")
def reference() -> Path:
    if not REFERENCE.is_dir():
        pytest.skip("py-feat's full recorded answers are not here: the shipped ones in tests/goldens were checked")
    return REFERENCE


@pytest.fixture(scope="session")
def reference_weights(reference, tmp_path_factory):
    """The two folders of weights that the full goldens were made with: (v2.5, v2.8)."""
    folder = tmp_path_factory.mktemp("weights")
    script = str(reference / "scripts" / "make_checkpoints.py")
    landmarks = str(reference / "weights" / "mobilefacenet_cunjian.safetensors")
    for name, *options in (
        ("v25", "--seed", "0", "--multitask", "v25", "--face-bias", "7.6", "--mobilefacenet", landmarks),
        ("v28", "--seed", "1", "--multitask", "v28", "--face-bias", "13.3"),
    ):
        subprocess.run([sys.executable, script, str(folder / name), *options], check=True)
    return folder / "v25", folder / "v28"


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; where FEXPORT_NEED_BROWSER is set (CI, which installs it), there must be one."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        assert not os.environ.get("FEXPORT_NEED_BROWSER"), "no chromium or no chromedriver"
        pytest.skip("needs chromium and chromedriver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1280,900",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder of pictures with a face: the photograph, mirrored, darker, and smaller ones."""
    from PIL import Image

    from fexport import samples

    folder = tmp_path_factory.mktemp("pictures")
    image = Image.fromarray(samples.photograph())
    made = [
        image,
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        image.point(lambda v: int(v * 0.6)),
        image.resize((400, 360)),
        image.crop((60, 0, 460, 360)),
        image.resize((330, 500)),
    ]
    for k, picture in enumerate(made):
        picture.save(folder / f"{k}.png")
    return folder


@pytest.fixture(scope="session")
def driver_library(tmp_path_factory):
    import cuda_standin

    return str(cuda_standin.built(tmp_path_factory.mktemp("driver")))


@pytest.fixture
def driver(driver_library, monkeypatch, tmp_path):
    """A machine with two GPUs, on the CPU: the driver's stand-in, and g++'s kernels."""
    monkeypatch.setenv("FEXPORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("fexruntime.driver.LIBRARY", driver_library)
    monkeypatch.setattr(
        "fexruntime.ops.nvrtc.cubin", lambda architecture, store: b"\x7fELF of " + architecture.encode()
    )
    cuda = ctypes.CDLL(driver_library)
    cuda.standin_count.restype = cuda.standin_open.restype = ctypes.c_longlong
    cuda.standin_reset()
    cuda.standin_memory(ctypes.c_size_t(1 << 40))
    return cuda


@pytest.fixture
def tensorrt(driver, monkeypatch):
    """Engines of a bundle, by a TensorRT that runs in the driver's streams; answers its calls."""
    import cuda_standin
    from tensorrt_standin import VERSIONS, standin

    from fexport.tensorrt_build import EngineOptions
    from fexport.tensorrt_engines import make_with
    from fexruntime.bundle import open_bundle
    from fexruntime.driver import gpu

    def made(bundle, version=VERSIONS[0]):
        trt, calls = standin(version, queue=lambda stream, run: cuda_standin.in_stream(driver, stream, run))
        monkeypatch.setattr("fexruntime.backends.tensorrt.import_tensorrt", lambda: trt)
        monkeypatch.setattr("fexruntime.engines.FACE_BATCHES", (1, 4, 16))  # every profile is run when it is loaded
        make_with(trt, gpu(), open_bundle(bundle), EngineOptions(), GPU_SIZES, False, lambda text: None)
        return calls

    return made

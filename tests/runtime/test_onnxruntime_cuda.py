"""ONNX Runtime's CUDA provider: what is missing is named; with the CPU in the provider's place, the numbers are the CPU's."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from fexruntime import Detector
from fexruntime.backends.onnxruntime_cuda import PROVIDER
from fexruntime.driver import Gpu
from fexruntime.errors import EnvironmentMissingError, InferenceError

MODULE = "fexruntime.backends.onnxruntime_cuda"
asked = []


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(f"{MODULE}.gpu", lambda index: Gpu("H100", "9.0", "12.8"))


class Session:
    """A session that says it is the CUDA provider's."""

    providers = (PROVIDER, "CPUExecutionProvider")

    def __init__(self, model, options, providers):
        asked.append(providers)
        self._real = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def get_providers(self):
        return list(self.providers)

    def __getattr__(self, name):
        return getattr(self._real, name)


def library(session=Session, preload=lambda: None):
    names = ("SessionOptions", "RunOptions", "GraphOptimizationLevel", "__version__")
    return SimpleNamespace(
        InferenceSession=session,
        get_available_providers=lambda: [PROVIDER],
        preload_dlls=preload,
        **{n: getattr(onnxruntime, n) for n in names},
    )


def opened(monkeypatch, **given):
    monkeypatch.setattr(f"{MODULE}.import_onnxruntime", lambda: library(**given))
    return Detector("edge", backend="onnxruntime-cuda", device="cuda")


def test_the_numbers_are_the_graphs(gpu, monkeypatch, frame):
    asked.clear()
    preloaded = []
    with opened(monkeypatch, preload=lambda: preloaded.append(1)) as detector, Detector("edge") as plain:
        found, expected = detector.detect([frame, frame[:96]]), plain.detect([frame, frame[:96]])
        described = detector.describe()["faces"]
        runner = detector._networks["faces"]
        image = np.zeros((1, 3, 64, 64), np.float32)
        name = runner.spec.inputs[0].name
        whole = runner.infer({name: image})
        assert list(whole) == [t.name for t in runner.spec.outputs]
        with pytest.raises(InferenceError, match="could not run"):
            runner.infer({name: image[:, :2]})
    assert (described["provider"], described["precision"]) == (PROVIDER, "fp32")
    assert preloaded
    ((provider, settings),) = asked[0]
    assert (provider, settings["use_tf32"], settings["cudnn_conv_algo_search"]) == (PROVIDER, "0", "HEURISTIC")
    for column in expected.columns:
        mine, other = np.asarray(found[column]), np.asarray(expected[column])
        if other.dtype.kind == "f":
            assert np.allclose(mine, other, rtol=1e-5, atol=1e-4, equal_nan=True)
        else:
            assert mine.tolist() == other.tolist()


def test_a_library_that_is_missing_is_named(gpu, monkeypatch):
    def refuses(model, options, providers):
        raise RuntimeError("Failed to load library libonnxruntime_providers_cuda.so: libcudnn.so.9: cannot open")

    with pytest.raises(
        EnvironmentMissingError, match=r"\(libcudnn\.so\.9 missing\): pip install 'onnxruntime-gpu\[cuda,cudnn\]'"
    ):
        opened(monkeypatch, session=refuses)


def test_a_provider_that_gave_way_is_an_error(gpu, monkeypatch):
    class Gave(Session):
        providers = ("CPUExecutionProvider",)

    with pytest.raises(EnvironmentMissingError, match="does not load"):
        opened(monkeypatch, session=Gave)


def test_an_onnxruntime_without_the_provider(gpu):
    with pytest.raises(
        EnvironmentMissingError, match=r"has no CUDAExecutionProvider: .*pip install '(fexport\[gpu\]|onnxruntime-gpu)"
    ):
        Detector("edge", backend="onnxruntime-cuda", device="cuda")


def test_without_a_gpu(monkeypatch):
    monkeypatch.setattr("fexruntime.driver.LIBRARY", "libcuda-that-is-not-there.so")
    with pytest.raises(EnvironmentMissingError, match="no NVIDIA driver here"):
        Detector("edge", backend="onnxruntime-cuda", device="cuda")

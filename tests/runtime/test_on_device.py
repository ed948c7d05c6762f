"""Frames that lie on a GPU, and ONNX Runtime's CUDA provider by address, on the CPU: the driver's stand-in."""

from __future__ import annotations

import ctypes
import shutil

import cuda_standin
import numpy as np
import pytest
from cuda_standin import COPIES, GPU, same

from fexruntime import Detector
from fexruntime.cuda import Cuda
from fexruntime.errors import InputError
from fexruntime.sources import on_device
from fexruntime.sources.frame import Frame
from fexruntime.sources.on_device import _DLTensor

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="the stand-in needs g++"),
    pytest.mark.filterwarnings("ignore::fexruntime.errors.StandInWarning"),
]


class OnGpu:
    """An array on a GPU, as libraries have them: by `__cuda_array_interface__`, by DLPack, or both."""

    def __init__(self, array, cuda, dlpack=False, version=3, stream=None, kind=2):
        whole = np.ascontiguousarray(array)
        self._cuda, self._array, self._kind, self._stream = cuda, whole, kind, stream
        self.at = cuda.empty(whole.nbytes)
        cuda.write(self.at, whole)
        cuda.synchronise()
        self.asked = []
        if dlpack:
            self.__class__ = type("Tensor", (OnGpu,), {"__dlpack_device__": OnGpu.where, "__dlpack__": OnGpu.capsule})
        else:
            self.__cuda_array_interface__ = {
                "shape": whole.shape, "typestr": whole.dtype.str, "data": (self.at, False), "version": version, "strides": None,
            } | ({"stream": stream} if version >= 3 else {})  # fmt: skip

    def where(self):
        return (self._kind, self._cuda.index)

    def capsule(self, *, stream=None):
        self.asked.append(stream)
        kind = {"u": 1, "f": 2}[self._array.dtype.kind]
        held = _DLTensor(
            self.at - 64, 2, self._cuda.index, self._array.ndim, kind, 8 * self._array.itemsize, 1,
            (ctypes.c_int64 * self._array.ndim)(*self._array.shape), None, 64,
        )  # fmt: skip
        self._held = held
        make = ctypes.pythonapi.PyCapsule_New
        make.restype, make.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return make(ctypes.addressof(held), b"dltensor", None)


@pytest.mark.parametrize("dlpack", [False, True])
def test_a_frame_that_lies_on_the_gpu_is_read_there(driver, tensorrt, frame, v1_edge_bundle, dlpack):
    tensorrt(v1_edge_bundle)
    other = Cuda()
    with Detector(v1_edge_bundle, **GPU) as detector, Detector(v1_edge_bundle) as plain:
        expected = plain.detect(frame)
        for _ in range(2):
            detector.detect(frame)  # the kernels' tables are there, and a slot
        for given in (OnGpu(frame, other, dlpack), OnGpu(np.stack([frame, frame[::-1]]), other, dlpack)):
            up, waits = driver.standin_count(b"bytes up"), driver.standin_count(b"cuStreamWaitEvent")
            first = next(iter(detector.stream(given, batch_size=1, rows_only=True)))
            assert driver.standin_count(b"bytes up") - up < 2000  # tables alone
            same(detector.to_fex([first]), expected)
            # DLPack's producer was told the default stream, which is then waited for; None is "at once"
            assert (driver.standin_count(b"cuStreamWaitEvent") > waits) is dlpack
            if dlpack:
                assert set(given.asked) == {1}
        late = OnGpu(frame, other, version=2)  # says nothing of streams
        waits = driver.standin_count(b"cuStreamWaitEvent")
        same(detector.detect(late), expected)
        assert driver.standin_count(b"cuStreamWaitEvent") == waits + 1
    other.close()
    assert driver.standin_open() == 0


def test_frames_on_a_gpu_that_cannot_be_read(driver, tensorrt, frame, v1_edge_bundle):
    tensorrt("edge")
    here, there = Cuda(0), Cuda(1)
    with Detector("edge") as detector:
        for dlpack in (False, True):
            with pytest.raises(
                InputError, match=r"lies on the GPU, and this detector .* make it with Detector\(…, device='cuda', pix"
            ):
                detector.detect(OnGpu(frame, here, dlpack))
        pixels = next(on_device.frames_of(OnGpu(frame, here)))
        with pytest.raises(InputError, match="lies on the GPU"):
            detector.run([Frame(pixels, 0, "")])
    with Detector("edge", **GPU) as detector:
        for array, says in (
            (frame.astype(np.float32), "must be uint8 in 0..255, not"),
            (frame.transpose(2, 0, 1), r"must be \[height, width, 3\] RGB, or a batch of them, not of shape \(3, "),
            (frame[:1], "is too small"),
        ):
            for dlpack in (False, True):
                with pytest.raises(InputError, match=says):
                    detector.detect(OnGpu(array, here, dlpack))
        with pytest.raises(InputError, match="it is on cuda:1, this detector on cuda:0"):
            detector.detect(OnGpu(frame, there, dlpack=True))
        with pytest.raises(InputError, match="and detector_size is the CPU's"):
            detector.detect(OnGpu(frame, here), detector_size=64)
        with pytest.raises(InputError, match="and output_size is the CPU's"):
            detector.detect(OnGpu(frame, here), output_size=64)
        for options in ({"track": True}, {"detect_every": 2}):
            with pytest.raises(InputError, match="and following faces is the CPU's"):
                detector.detect(OnGpu(frame, here), **options)
        with pytest.raises(InputError, match="DLPack's device 8 cannot be read"):
            detector.detect(OnGpu(frame, here, dlpack=True, kind=8))
        bad = []
        assert list(detector.stream([OnGpu(frame[:1], here)], on_bad=bad.append)) == []
        assert len(bad) == 1
    tensorrt(v1_edge_bundle)
    only_finding = {"backend": {"faces": "tensorrt"}, "device": {"faces": "cuda"}, "pixels": "cuda"}
    with Detector(v1_edge_bundle, **only_finding) as detector:
        with pytest.raises(InputError, match="anisotropic crops are the CPU's"):
            detector.detect(OnGpu(frame, here))
        assert len(detector.detect(OnGpu(frame, here), columns=["facebox"])) == 1
    here.close(), there.close()
    with pytest.raises(InputError, match="reading its pixels is the CPU's"):
        np.asarray(pixels)


def test_what_dlpack_hands_over_from_the_cpu_goes_the_ordinary_way(frame):
    class Handed:
        """Has DLPack, and nothing else."""

        def __init__(self, array):
            self._array = array

        def __dlpack__(self, **given):
            return self._array.__dlpack__(**given)

        def __dlpack_device__(self):
            return self._array.__dlpack_device__()

    torch = pytest.importorskip("torch")

    with Detector("edge") as detector:
        expected = detector.detect(frame)
        for given in (
            Handed(frame),
            Handed(torch.from_numpy(frame.copy())),
            torch.from_numpy(frame.copy()).permute(2, 0, 1),
        ):
            same(detector.detect(given), expected)
        with pytest.raises(InputError, match="must be uint8"):
            detector.detect(Handed(frame.astype(np.float32)))


def test_onnx_runtimes_provider_by_address_in_the_detectors_stream(driver, monkeypatch, frame, v1_edge_bundle):
    asked = []
    library = cuda_standin.cuda_provider(driver, asked)
    monkeypatch.setattr("fexruntime.backends.onnxruntime_cuda.import_onnxruntime", lambda: library)
    place = {"backend": "onnxruntime-cuda", "device": "cuda", "pixels": "cuda"}
    with Detector(v1_edge_bundle, workspaces=2, **place) as detector, Detector(v1_edge_bundle) as plain:
        streams = [a["user_compute_stream"] for a in asked if "user_compute_stream" in a]
        assert len(set(streams)) == 2  # one a workspace
        for _ in range(4):
            before = driver.standin_count(COPIES)
            same(detector.detect(frame), plain.detect(frame))
        assert driver.standin_count(COPIES) - before == 1
        wide = np.ascontiguousarray(frame[:100, :200])  # it has no profiles: any size
        same(detector.detect(wide), plain.detect(wide))
        assert driver.standin_count(b"cuGraphLaunch") == 0
        assert detector.describe()["faces"]["provider"] == "CUDAExecutionProvider"
    assert driver.standin_open() == 0

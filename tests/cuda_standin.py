"""A CUDA driver on the CPU (`cuda_standin.cpp`), and TensorRT's stand-in in its streams."""

from __future__ import annotations

import ctypes
import subprocess
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

from fex_compare import assert_same_rows

from fexruntime.ops import device

SOURCE = Path(__file__).with_name("cuda_standin.cpp")
GPU = {"backend": "tensorrt", "device": "cuda", "pixels": "cuda"}
"""A detector's place, all of it on the GPU."""
COPIES = b"cuMemcpyDtoHAsync_v2"
"""What counts copies back."""
same = partial(assert_same_rows, atol=1e-3)
HOST_FN = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_kept = []
"""Functions that a stream will call, which have to outlive it."""


def headers() -> list[Path]:
    """Folders with cuda.h, of NVIDIA's wheels or CUDA itself."""
    spec = find_spec("nvidia")
    wheels = [p for f in (spec.submodule_search_locations or []) for p in Path(f).glob("*/include")] if spec else []
    return [p for p in (*wheels, Path("/usr/local/cuda/include")) if (p / "cuda.h").is_file()]


def built(folder: Path) -> Path:
    """The driver's library, and beside it the kernels' own, in a folder."""
    made, kernels = folder / "libcuda-standin.so", folder / "kernels.so"
    options = ["-std=c++17", "-O1", "-shared", "-fPIC", "-Wall"]
    header = [f"-DSTANDIN_HEADER=1 -I{p}" for p in headers()[:1]]
    flags = header[0].split() if header else []
    subprocess.run(["g++", *options, *flags, str(SOURCE), "-o", str(made), "-ldl"], check=True)
    command = ["g++", *device._HOST_OPTIONS, "-", "-o", str(kernels)]
    subprocess.run(command, input=device.host_source(), encoding="utf-8", check=True)
    library = ctypes.CDLL(str(made))
    library.standin_kernels(str(kernels).encode())
    library.standin_count.restype = library.standin_open.restype = ctypes.c_longlong
    return made


def in_stream(library, stream: int, run) -> None:
    """Put a function of Python's into a stream."""

    def called(_):
        run()

    _kept.append(HOST_FN(called))
    library.cuLaunchHostFunc(ctypes.c_void_p(stream), _kept[-1], None)


def cuda_provider(library, asked):
    """ONNX Runtime whose CUDA provider is the CPU: at addresses and in a stream, where it is given one. `asked` takes settings."""
    import numpy as np
    import onnxruntime
    from tensorrt_standin import _at

    class Session:
        def __init__(self, model, options, providers):
            ((_, self._settings),) = providers
            asked.append(self._settings)
            self._real = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

        def get_providers(self):
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

        def io_binding(self):
            if "user_compute_stream" not in self._settings:
                return self._real.io_binding()
            bound = SimpleNamespace(inputs={}, outputs={})

            def bind(to):
                def one(name, device, index, kind, shape, address):
                    assert (device, kind) == ("cuda", np.float32)
                    to[name] = (address, tuple(shape))

                return one

            bound.bind_input, bound.bind_output = bind(bound.inputs), bind(bound.outputs)
            return bound

        def run_with_iobinding(self, bound, options):
            if "user_compute_stream" not in self._settings:
                self._real.run_with_iobinding(bound, options)
                return
            assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"

            def run():
                given = {n: _at(at, shape).copy() for n, (at, shape) in bound.inputs.items()}
                for name, value in zip(bound.outputs, self._real.run(list(bound.outputs), given), strict=True):
                    at, shape = bound.outputs[name]
                    assert value.shape == shape
                    _at(at, shape)[...] = value

            in_stream(library, int(self._settings["user_compute_stream"]), run)

    names = ("SessionOptions", "RunOptions", "GraphOptimizationLevel", "__version__")
    return SimpleNamespace(
        InferenceSession=Session,
        get_available_providers=lambda: ["CUDAExecutionProvider"],
        **{n: getattr(onnxruntime, n) for n in names},
    )

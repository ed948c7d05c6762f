"""ONNX Runtime's CUDA provider: the bundle's graphs on an NVIDIA GPU, without engines to build first.

TF32 is off and cuDNN's algorithms are chosen by heuristic, so that a new frame size costs no search. Inputs and outputs are
bound: arrays, so that each is copied once, or addresses on the GPU, where pixels stay there (`resident`). ONNX Runtime itself goes
on without a provider that does not load: here that is an error.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np

from fexruntime.arrays import F32, Values
from fexruntime.backends.base import Located, Place, Resident, Spec
from fexruntime.backends.onnx_bytes import types_of
from fexruntime.backends.onnxruntime import import_onnxruntime
from fexruntime.bundle import BundleNetwork
from fexruntime.driver import Gpu, gpu
from fexruntime.errors import BundleError, EnvironmentMissingError, InferenceError, one_line
from fexruntime.manifest import Variant

PROVIDER = "CUDAExecutionProvider"
INSTALL = "pip uninstall -y onnxruntime && pip install 'fexport[gpu]'"


def preload(runtime: Any) -> None:
    """Load CUDA's and cuDNN's wheels, where those are how they were installed. What ONNX Runtime prints of others is kept from stdout, where
    rows may be written: a session says what is missing.
    """
    if hasattr(runtime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):
            runtime.preload_dlls()


class OnnxRuntimeCuda:
    """One network of a bundle in an ONNX Runtime session on the GPU.

    Raises EnvironmentMissingError without a GPU, the provider, or a library that it needs (CUDA's, cuDNN), naming it.
    """

    reads: ClassVar[tuple[str, ...]] = ("onnx",)
    devices: ClassVar[tuple[str, ...]] = ("cuda",)

    def __init__(self, network: BundleNetwork, variant: Variant, place: Place) -> None:
        index = place.device_of(network.role).index or 0
        self._gpu: Gpu = gpu(index)
        self._ort = import_onnxruntime()
        if PROVIDER not in self._ort.get_available_providers():
            raise EnvironmentMissingError(f"this ONNX Runtime ({self._ort.__version__}) has no {PROVIDER}: {INSTALL}")
        self._name, self.spec = network.row.name, Spec(network.record.inputs, network.record.outputs)
        self._device, self._index = f"cuda:{index}", index
        self._model = partial(network.read, variant.model)
        model = self._model()
        self._types = types_of(model)
        self._session = self.session(model)
        self._provider = str(self._session.get_providers()[0])
        self._only_what_is_read = self._ort.RunOptions()
        self._only_what_is_read.only_execute_path_to_fetches = True

    def infer(self, inputs: Values, out: Values | None = None) -> dict[str, F32]:
        """Run the network; see `Backend.infer`."""
        try:
            binding = self._session.io_binding()
            for name, value in inputs.items():
                binding.bind_cpu_input(name, value)
            names = [t.name for t in self.spec.outputs] if out is None else list(out)
            for name in names:
                if out is None:
                    binding.bind_output(name, "cpu")
                else:
                    array = out[name]
                    binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
            self._session.run_with_iobinding(binding, self._only_what_is_read)
        except Exception as error:  # ONNX Runtime's errors have no common base of their own
            shapes = ", ".join(f"{n} {list(v.shape)}" for n, v in inputs.items())
            raise InferenceError(f"ONNX Runtime could not run {self._name} on {shapes}: {one_line(error)}") from error
        if out is not None:
            return dict(out)
        return dict(zip(names, binding.copy_outputs_to_cpu(), strict=True))

    def share(self) -> OnnxRuntimeCuda:
        """Itself: a session may be run from several threads at once."""
        return self

    def resident(self, memory: Any) -> Resident:
        """A session of its own on somebody's stream (a `cuda.Cuda`), which takes addresses; arrays can be given no more."""
        self._session = None
        return _Resident(self, self._model(), memory)

    def close(self) -> None:
        """Drop the session and its memory."""
        self._session = None

    def describe(self) -> dict[str, Any]:
        """What is in use: provider as the session says, GPU, precision, version."""
        return {
            "backend": "onnxruntime-cuda",
            "version": self._ort.__version__,
            "provider": self._provider,
            "device": f"{self._device} ({self._gpu.name}, {self._gpu.capability}, driver {self._gpu.driver})",
            **self._types.said(),
            "threads": None,
        }

    def session(self, model: bytes, stream: int | None = None) -> Any:
        """A session of a graph on this GPU, which works in a stream of its own, or in this one."""
        options = self._ort.SessionOptions()
        options.log_severity_level = 4  # a provider that does not load is said below, once
        options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        settings = {"device_id": str(self._index), "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
        if stream is not None:
            settings["user_compute_stream"] = str(stream)
        preload(self._ort)
        try:
            session = self._ort.InferenceSession(model, options, providers=[(PROVIDER, settings)])
        except Exception as error:  # no common base, as above
            if "lib" in str(error) and ".so" in str(error):
                raise EnvironmentMissingError(_missing(str(error))) from error
            raise BundleError(f"ONNX Runtime cannot load {self._name}: {one_line(error)}") from error
        if session.get_providers()[0] != PROVIDER:
            raise EnvironmentMissingError(_missing(""))
        return session


class _Resident:
    """A session in a caller's stream, which reads and writes where the caller says."""

    most: Mapping[str, tuple[int, ...]] | None = None
    versions: tuple[int, ...] | None = None
    """It allocates as it runs, so that no run can be captured."""

    def __init__(self, owner: OnnxRuntimeCuda, model: bytes, memory: Any) -> None:
        self.used: set[int] = set()
        self.spec, self._owner, self._memory = owner.spec, owner, memory
        self._session = owner.session(model, memory.stream)
        self._unwaited = owner._ort.RunOptions()
        self._unwaited.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def enqueue(self, inputs: Mapping[str, Located], outputs: Mapping[str, Located]) -> None:
        self._memory.enter()
        try:
            binding = self._session.io_binding()
            for bind, given in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
                for name, (address, shape) in given.items():
                    bind(name, "cuda", self._owner._index, np.float32, list(shape), address)
            self._session.run_with_iobinding(binding, self._unwaited)
        except Exception as error:  # no common base, as above
            shapes = ", ".join(f"{n} {list(shape)}" for n, (_, shape) in inputs.items())
            raise InferenceError(
                f"ONNX Runtime could not run {self._owner._name} on {shapes}: {one_line(error)}"
            ) from error

    def close(self) -> None:
        self._session = None


def _missing(said: str) -> str:
    """The sentence for a provider that is there and does not load, with the library if the loader named one."""
    libraries = [w.strip("':,()") for w in said.split() if w.startswith("lib") and ".so" in w]
    named = (
        libraries[-1] if libraries else "CUDA's or cuDNN's libraries"
    )  # the provider is named first, then what it lacks
    return f"ONNX Runtime's {PROVIDER} does not load ({named} missing): pip install 'onnxruntime-gpu[cuda,cudnn]'"

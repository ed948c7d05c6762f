"""ONNX Runtime on the CPU: threads that do not fight, optimised graphs kept between runs.

Sessions whose idle threads spin fight each other, which costs a third of a frame's time. Two cures are as fast as
each other (`benchmarks/thread_pools.py`). By default every session's threads sleep as soon as its run ends. With
`shared_pool` all sessions of the process share ONNX Runtime's global pool; that is not the default because ONNX
Runtime then refuses every session with threads of its own, so a service's other models would stop loading.

Layout-optimised graphs are kept between runs: see `graph_cache`.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fexruntime.backends.base import Arrays, Spec
from fexruntime.backends.graph_cache import OptimisedGraph
from fexruntime.bundle import BundleNetwork
from fexruntime.errors import BundleError, EnvironmentMissingError, InputError

F32 = NDArray[np.float32]
PROVIDER = "CPUExecutionProvider"
_log = logging.getLogger("fexport.onnxruntime")
_process_pool: dict[str, int] = {}
"""{"threads": n} once this process has a global pool of our making: ONNX Runtime allows one, for good."""
_pool_lock = threading.Lock()


class OnnxRuntimeBackend:
    """One network of a bundle in an ONNX Runtime session.

    `threads` is the number of CPU threads (None: all cores); `cache` the folder of optimised graphs (None: no cache);
    `shared_pool` puts all sessions of the process on one pool (see above).
    Raises EnvironmentMissingError without onnxruntime, BundleError if the model is not the verified one.
    """

    def __init__(
        self, network: BundleNetwork, threads: int | None, cache: Path | None, shared_pool: bool = False
    ) -> None:
        try:
            import onnxruntime as ort
        except ImportError:
            raise EnvironmentMissingError(
                "the backend 'onnxruntime' needs ONNX Runtime: pip install 'fexport[cpu]'"
            ) from None
        self._ort = ort
        if PROVIDER not in ort.get_available_providers():
            raise EnvironmentMissingError(f"this ONNX Runtime has no {PROVIDER}: {ort.get_available_providers()}")
        self.threads = _checked_threads(threads)
        self._shared_pool = _join_process_pool(ort, self.threads, shared_pool)
        self._session = self._load(network, cache)
        if self._session.get_providers() != [PROVIDER]:
            raise EnvironmentMissingError(f"asked for {PROVIDER}, got {self._session.get_providers()}")
        self.spec = Spec(network.entry["inputs"][0]["name"], tuple(network.input_shape), tuple(network.output_names))
        self._precision = str(network.entry.get("precision", "fp32"))

    def infer(self, inputs: Arrays, out: dict[str, F32] | None = None) -> dict[str, F32]:
        """Run the network; see `Backend.infer`."""
        if out is None:
            values = self._session.run(list(self.spec.output_names), dict(inputs))
            return dict(zip(self.spec.output_names, values, strict=True))
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_cpu_input(name, value)
        for name in self.spec.output_names:
            array = out[name]
            binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        self._session.run_with_iobinding(binding)
        return out

    def warmup(self, shapes: list[tuple[int, ...]]) -> None:
        """Run once on zeros of each shape."""
        for shape in shapes:
            self.infer({self.spec.input_name: np.zeros(shape, np.float32)})

    def close(self) -> None:
        """Drop the session and its memory."""
        self._session = None

    def describe(self) -> dict[str, Any]:
        """What is in use: provider, device, precision, threads, pool, version."""
        return {
            "backend": "onnxruntime",
            "version": self._ort.__version__,
            "provider": PROVIDER,
            "device": "cpu",
            "precision": self._precision,
            "threads": self.threads,
            "thread_pool": "shared by the process" if self._shared_pool else "one for each network",
        }

    def _options(self) -> Any:
        options = self._ort.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        if self._shared_pool:
            options.use_per_session_threads = False
        else:
            options.intra_op_num_threads = self.threads
            options.add_session_config_entry("session.force_spinning_stop", "1")
        return options

    def _load(self, network: BundleNetwork, cache: Path | None) -> Any:
        model = network.model.checked_path()
        options = self._options()
        levels = self._ort.GraphOptimizationLevel
        if cache is None:
            return self._session_of(model, options)
        graph = OptimisedGraph(cache, network.model.sha256, self._ort.__version__)
        try:
            if graph.is_whole():
                options.graph_optimization_level = levels.ORT_DISABLE_ALL
                return self._session_of(graph.path, options)
            with graph.being_written() as path:
                if path is not None:
                    options.optimized_model_filepath = str(path)
                return self._session_of(model, options)
        except BundleError as error:  # a full disk, or a graph that this build of ONNX Runtime cannot read after all
            _log.info("loading without the cache: %s", error)
            return self._session_of(model, self._options())

    def _session_of(self, model: Path, options: Any) -> Any:
        try:
            return self._ort.InferenceSession(str(model), options, providers=[PROVIDER])
        except Exception as error:  # ONNX Runtime's errors have no common base of their own
            raise BundleError(f"ONNX Runtime cannot load {str(model)!r}: {error}") from error


def available_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _checked_threads(threads: int | None) -> int:
    if threads is None:
        return available_cores()
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError(f"threads must be a whole number of 1 or more, not {threads!r}")
    return threads


def _join_process_pool(ort: Any, threads: int, wanted: bool) -> bool:
    """Whether this session uses the process's pool; makes it if it is wanted and not there."""
    with _pool_lock:
        if not _process_pool:
            if not wanted:
                return False
            try:
                ort.set_global_thread_pool_sizes(threads, 1)
            except Exception as error:  # ONNX Runtime's errors have no common base of their own
                raise EnvironmentMissingError(
                    "shared_pool cannot be had: ONNX Runtime's global thread pool was already made in this process "
                    f"({error})"
                ) from None
            _process_pool["threads"] = threads
    if _process_pool["threads"] != threads:
        raise InputError(
            f"this process shares a pool of {_process_pool['threads']} threads, made once: threads={threads} cannot be had"
        )
    return True

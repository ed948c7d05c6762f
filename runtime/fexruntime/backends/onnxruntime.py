"""ONNX Runtime on the CPU: threads that do not fight, optimised graphs kept between runs.

Sessions whose idle threads spin fight each other, which costs a third of a frame's time. Two cures are as fast as
each other (`benchmarks/thread_pools.py`). By default every session's threads sleep as soon as its run ends. With
`shared_pool` all sessions of the process share ONNX Runtime's global pool; that is not the default because ONNX
Runtime then refuses every session with threads of its own, so a service's other models would stop loading.

Layout-optimised graphs are kept in the device's store: loading one takes half the time and memory of optimising again.
A graph is laid out for one ONNX Runtime version and one CPU, so its key has both.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import threading
import weakref
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fexruntime.arrays import F32, Values
from fexruntime.backends.base import Place, Spec
from fexruntime.backends.onnx_bytes import Types, types_in, types_of
from fexruntime.bundle import BundleNetwork
from fexruntime.errors import (
    BundleError,
    EnvironmentMissingError,
    InferenceError,
    InputError,
    OutOfMemoryError,
    is_short_of_memory,
    one_line,
)
from fexruntime.manifest import Variant

PROVIDER = "CPUExecutionProvider"
_log = logging.getLogger("fexruntime.onnxruntime")
SILENT = 4
"""Severity of what ONNX Runtime says by itself of a run: only what ends the process."""
LARGE_BYTES = 48 << 20
"""Inputs of more bytes than this (a frame of four megapixels) are run with the arena given back afterwards: it would stay as large
for as long as the session lives. Smaller ones keep it, which is faster."""
_process_pool: dict[str, int] = {}
"""{"threads": n} once this process has a global pool of our making: ONNX Runtime allows one, for good."""
_pool_lock = threading.Lock()
_sessions: weakref.WeakSet[Any] = weakref.WeakSet()
"""Every session of this process, for what has to be done in a fork of it."""


class OnnxRuntime:
    """One network of a bundle in an ONNX Runtime session.

    Raises EnvironmentMissingError without onnxruntime, BundleError if the model is not the verified one.
    """

    reads: ClassVar[tuple[str, ...]] = ("onnx",)
    devices: ClassVar[tuple[str, ...]] = ("cpu",)

    def __init__(self, network: BundleNetwork, variant: Variant, place: Place) -> None:
        self._ort = import_onnxruntime()
        if PROVIDER not in self._ort.get_available_providers():
            raise EnvironmentMissingError(f"this ONNX Runtime has no {PROVIDER}: {self._ort.get_available_providers()}")
        self._name = network.row.name
        self.threads = place.threads_of(network.role)
        self._shared_pool = place.shared_pool
        if self._shared_pool:
            _join_process_pool(self._ort, self.threads)
        elif _process_pool:
            raise InputError(
                "this process has put ONNX Runtime on one shared pool (shared_pool=True), for good: sessions with threads of "
                "their own cannot be had any more; give shared_pool=True here too"
            )
        self._session, self._types = self._load(network, variant, place)
        _sessions.add(self._session)
        if self._session.get_providers() != [PROVIDER]:
            raise EnvironmentMissingError(f"asked for {PROVIDER}, got {self._session.get_providers()}")
        self.spec = Spec(network.record.inputs, network.record.outputs)
        self._only_what_is_read = self._ort.RunOptions()
        self._plain = self._ort.RunOptions()
        self._only_what_is_read.only_execute_path_to_fetches = True
        self._outputs = [t.name for t in self.spec.outputs]
        self._shrinking = self._ort.RunOptions()
        self._shrinking.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._shrinking_only = self._ort.RunOptions()
        self._shrinking_only.only_execute_path_to_fetches = True
        self._shrinking_only.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        for how in (self._only_what_is_read, self._plain, self._shrinking, self._shrinking_only):
            how.log_severity_level = SILENT  # a run that fails is an error of ours, in one sentence

    def infer(self, inputs: Values, out: Values | None = None) -> dict[str, F32]:
        """Run the network; see `Backend.infer`."""
        large = sum(v.nbytes for v in inputs.values()) > LARGE_BYTES
        try:
            if out is None:
                values = self._session.run(self._outputs, dict(inputs), self._shrinking if large else self._plain)
                return dict(zip(self._outputs, values, strict=True))
            binding = self._session.io_binding()
            for name, value in inputs.items():
                binding.bind_cpu_input(name, value)
            for name, array in out.items():
                binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
            if large:
                how = self._shrinking if len(out) == len(self._outputs) else self._shrinking_only
            else:
                how = self._plain if len(out) == len(self._outputs) else self._only_what_is_read
            self._session.run_with_iobinding(binding, how)
        except Exception as error:  # ONNX Runtime's errors have no common base of their own
            shapes = ", ".join(f"{n} {list(v.shape)}" for n, v in inputs.items())
            if is_short_of_memory(error):
                raise OutOfMemoryError(f"there is not enough memory to run {self._name} on {shapes}") from error
            raise InferenceError(f"ONNX Runtime could not run {self._name} on {shapes}: {one_line(error)}") from error
        return dict(out)

    def share(self) -> OnnxRuntime:
        """Itself: a session may be run from several threads at once."""
        return self

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
            **self._types.said(),
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

    def _load(self, network: BundleNetwork, variant: Variant, place: Place) -> tuple[Any, Types]:
        """(session, what the graph's weights are)."""
        store = place.store()
        key = {
            "kind": "optimised ONNX graph",
            "network": network.row.name,
            "model_sha256": variant.model.sha256,
            "onnxruntime": self._ort.__version__,
            "cpu": cpu_features(),
        }
        kept = store.find(key) if store else None
        if kept is not None:
            try:
                options = self._options()
                options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_DISABLE_ALL
                # of the bundle's graph: optimising widens the weights of a lower precision
                with variant.model.opened(network.folder) as verified:
                    types = types_in(verified)
                return self._session_of(str(kept), options), types
            except (
                BundleError,
                OSError,
                ValueError,
            ) as error:  # this ONNX Runtime cannot read it after all; or it is gone
                _log.info("loading without the store: %s", error)
                store = None
        model = network.read(variant.model)
        types = types_of(model)
        if store is not None:
            try:
                with store.writing(key) as path:
                    options = self._options()
                    if path is not None:
                        options.optimized_model_filepath = str(path)
                    return self._session_of(model, options), types
            except BundleError as error:  # a full disk
                _log.info("loading without the store: %s", error)
        return self._session_of(model, self._options()), types

    def _session_of(self, model: bytes | str, options: Any) -> Any:
        try:
            session = self._ort.InferenceSession(model, options, providers=[PROVIDER])
        except Exception as error:  # ONNX Runtime's errors have no common base of their own
            raise BundleError(f"ONNX Runtime cannot load {self._name}: {one_line(error)}") from error
        # kept by the Python class to start again with other providers, which never happens here: the model, once more
        session._model_bytes = None
        return session


def import_onnxruntime() -> Any:
    """The onnxruntime module, its telemetry off; EnvironmentMissingError with the fix if it is not there.

    From 1.29 on ONNX Runtime collects and sends by default on Linux too, unless this is set before it is imported.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise EnvironmentMissingError(
            f"the backend 'onnxruntime' needs ONNX Runtime ({error}): pip install 'fexport[cpu]'"
        ) from None
    disable = getattr(onnxruntime, "disable_telemetry_events", None)  # where the user's variable left it on
    if disable is not None:
        disable()
    return onnxruntime


@lru_cache(maxsize=1)
def cpu_features() -> str:
    """A text that differs between CPUs for which engines lay out or compile graphs differently."""
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    lines = [line for line in info.splitlines() if line.lower().startswith(("flags", "features"))]
    return f"{platform.machine()} {' '.join(sorted(set(lines[0].split()))) if lines else platform.processor()}"


def _join_process_pool(ort: Any, threads: int) -> None:
    """Make the process's one pool, or join it; EnvironmentMissingError or InputError if that cannot be."""
    with _pool_lock:
        if not _process_pool:
            make = getattr(ort, "set_global_thread_pool_sizes", None)
            if make is None:
                raise EnvironmentMissingError(
                    f"shared_pool needs ONNX Runtime 1.23 or newer, this is {ort.__version__}: pip install -U onnxruntime"
                )
            try:
                make(threads, 1)
            except Exception as error:  # ONNX Runtime's errors have no common base of their own
                raise EnvironmentMissingError(
                    "shared_pool cannot be had: ONNX Runtime's global thread pool was already made in this process "
                    f"({one_line(error)})"
                ) from None
            _process_pool["threads"] = threads
    if _process_pool["threads"] != threads:
        raise InputError(
            f"this process shares a pool of {_process_pool['threads']} threads, made once: threads={threads} cannot be had"
        )


def _keep_sessions_for_good() -> None:
    """In a fork: never destroy the parent's sessions, since that waits for threads which the fork does not have."""
    for session in _sessions:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_sessions_for_good)

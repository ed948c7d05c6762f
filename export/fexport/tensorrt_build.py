"""ONNX graph -> TensorRT engine, by what the TensorRT that is there can do, never by its version.

Strongly typed where that exists: precision is in the graph then. Where it does not (8.6), the graph is fp32 and half
precision is a flag, with the nodes of `islands` held to fp32. TF32 is off. Needs no torch.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fexruntime.driver import Gpu
from fexruntime.engines import Profile
from fexruntime.errors import EnvironmentMissingError, InputError

Say = Callable[[str], None]
_HARDWARE = {"none": "NONE", "ampere-plus": "AMPERE_PLUS", "same-capability": "SAME_COMPUTE_CAPABILITY"}
_LIBRARIES = ("CUBLAS", "CUBLAS_LT", "CUDNN")
_SAID = 3
"""Errors of the log that a message repeats."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How engines are built. `dla` is the core of a Jetson's deep learning accelerator; None: the GPU alone.

    `islands` are names of ONNX nodes that stay fp32 where precision is a flag; of `moved` (they move values, or are indices) those do
    that the engine has a layer of floats for.
    """

    precision: str | None = None
    """None: what a network was built in."""
    workspace_mb: int = 2048
    level: int = 3
    tf32: bool = False
    version_compatible: bool = False
    hardware: str = "none"
    refit: bool = False
    dla: int | None = None
    libraries: bool = False
    """Whether cuBLAS and cuDNN may serve as tactic sources, where TensorRT still has them."""
    islands: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.hardware not in _HARDWARE:
            raise InputError(f"no hardware compatibility {self.hardware!r}: use {', '.join(_HARDWARE)}")
        if self.precision not in (None, "fp32", "fp16", "bf16", "int8"):
            raise InputError(f"no precision {self.precision!r} for an engine: use fp32, fp16, bf16, int8")
        if self.workspace_mb < 1 or not 0 <= self.level <= 5:
            raise InputError(f"workspace {self.workspace_mb} MB must be 1 or more, level {self.level} in 0..5")

    def shown(self) -> str:
        """As an engine's key has them."""
        said = [f"level {self.level}", f"workspace {self.workspace_mb} MB", f"hardware {self.hardware}"]
        for name in ("tf32", "version_compatible", "refit", "libraries"):
            said += [name] * bool(getattr(self, name))
        if self.islands:  # hundreds of names
            said.append(
                f"islands {hashlib.sha256(' '.join((*self.islands, '', *self.moved)).encode()).hexdigest()[:16]}"
            )
        return ", ".join([*said, *([f"dla {self.dla}"] if self.dla is not None else [])])


def build_engine(
    trt: Any,
    model: bytes,
    profiles: Sequence[Profile],
    options: EngineOptions,
    cache: Path | None = None,
    say: Say = lambda text: None,
) -> bytes:
    """The serialised engine of a graph. `cache` is a file of timings: read if it is there, written back, under a lock.

    Raises EnvironmentMissingError with the last errors of TensorRT's log, and InputError for an option that it has not.
    """
    logger = _logger(trt)
    builder = trt.Builder(logger)
    typed = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    network = builder.create_network(_network_flags(trt, typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        errors = [parser.get_error(k).desc() for k in range(parser.num_errors)]
        raise EnvironmentMissingError(f"TensorRT {trt.__version__} cannot read the graph: {_last(errors, logger)}")
    config = builder.create_builder_config()
    _configure(trt, config, options)
    if not typed:
        _pin(trt, config, network, options)
    for profile in profiles:
        wanted = builder.create_optimization_profile()
        for name in profile.most:
            wanted.set_shape(name, profile.least[name], profile.best[name], profile.most[name])
        config.add_optimization_profile(wanted)
    if hasattr(trt, "IProgressMonitor") and hasattr(config, "progress_monitor"):
        config.progress_monitor = _monitor(trt, say)
    with _Timings(config, cache):
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EnvironmentMissingError(f"TensorRT {trt.__version__} could not build the engine: {_last([], logger)}")
    return bytes(plan)


def _network_flags(trt: Any, typed: bool) -> int:
    kinds = trt.NetworkDefinitionCreationFlag
    flags = 1 << int(kinds.EXPLICIT_BATCH) if hasattr(kinds, "EXPLICIT_BATCH") else 0
    return flags | (1 << int(kinds.STRONGLY_TYPED) if typed else 0)


def _configure(trt: Any, config: Any, options: EngineOptions) -> None:
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
    config.builder_optimization_level = options.level
    (config.set_flag if options.tf32 else config.clear_flag)(trt.BuilderFlag.TF32)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.refit:
        config.set_flag(trt.BuilderFlag.REFIT)
    if options.hardware != "none":
        level = _HARDWARE[options.hardware]
        if not hasattr(trt.HardwareCompatibilityLevel, level):
            raise InputError(f"TensorRT {trt.__version__} has no hardware compatibility {options.hardware!r}")
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    if options.dla is not None:
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = options.dla
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    if not options.libraries and hasattr(trt.TacticSource, "CUDNN"):
        sources = config.get_tactic_sources()
        for name in _LIBRARIES:
            sources &= ~(1 << int(getattr(trt.TacticSource, name)))
        config.set_tactic_sources(sources)


def _pin(trt: Any, config: Any, network: Any, options: EngineOptions) -> None:
    """Half precision where it is a flag: every layer that came from a node of `islands` (or `moved`) stays fp32."""
    if options.precision in (None, "fp32"):
        return
    config.set_flag(trt.BuilderFlag.FP16)
    if options.precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)
    if not options.islands:
        return
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    wanted, held = {*options.islands, *options.moved}, set()
    for k in range(network.num_layers):
        layer = network.get_layer(k)
        node = layer.metadata.partition("[ONNX Layer: ")[2].rstrip("]").partition(" | ")[0]
        if node not in wanted:
            continue
        held.add(node)
        floats = [n for n in range(layer.num_outputs) if layer.get_output(n).dtype in (trt.float32, trt.float16)]
        if not floats:  # sizes and indices have no precision
            continue
        layer.precision = trt.float32
        for output in floats:
            layer.set_output_type(output, trt.float32)
    lost = sorted(set(options.islands) - held)
    if lost:
        raise InputError(f"the precision plan names nodes that no layer came from: {', '.join(lost[:3])}")


class _Timings:
    """A file of timings, held by one build at a time: what was measured before is not measured again."""

    def __init__(self, config: Any, path: Path | None) -> None:
        self._config, self._path = config, path
        self._lock: Any = None

    def __enter__(self) -> None:
        if self._path is None:
            return
        self._lock = self._path.with_suffix(".lock").open("w", encoding="utf-8")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        known = self._path.read_bytes() if self._path.is_file() else b""
        cache = self._config.create_timing_cache(known)
        if not self._config.set_timing_cache(cache, False):  # another TensorRT's or GPU's: begin anew
            self._config.set_timing_cache(self._config.create_timing_cache(b""), False)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self._path is None:
            return
        try:
            if error is None:
                made = self._path.with_suffix(".new")
                made.write_bytes(bytes(self._config.get_timing_cache().serialize()))
                made.replace(self._path)
        finally:
            self._lock.close()


def timing_cache(folder: Path, version: str, gpu: Gpu) -> Path:
    """The file of timings of a TensorRT, GPU and driver."""
    words = "-".join((version, gpu.name, gpu.driver))
    return folder / f"timings-{''.join(c if c.isalnum() or c in '-.' else '_' for c in words)}.cache"


def _logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]  # the module is known when it runs
        """Keeps errors, for messages."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(" ".join(text.split()))

    return Logger()


def _monitor(trt: Any, say: Say) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Says which phase is under way. Called from TensorRT's threads, which no exception may reach."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            say(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return True

        def phase_finish(self, phase_name: str) -> None:
            pass

    return Monitor()


def _last(errors: Sequence[str], logger: Any) -> str:
    said = [*errors, *logger.errors][-_SAID:]
    return "; ".join(said) if said else "it gave no reason"

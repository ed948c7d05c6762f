"""TensorRT on an NVIDIA GPU: the engines that `fexport engines` made here of a bundle's graphs.

The engine is shared; each runner has its own stream, and for each profile an execution context and buffers at the
profile's maximum. Shapes and addresses are set when they change. Every profile is run once when the network is loaded.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from fexruntime.arrays import F32, Values
from fexruntime.backends.base import Located, Place, Resident, Spec
from fexruntime.bundle import BundleNetwork
from fexruntime.driver import Gpu, gpu
from fexruntime.engines import Profile, Shape, find, import_tensorrt
from fexruntime.errors import EnvironmentMissingError, InferenceError, InputError, one_line
from fexruntime.manifest import Variant


class Memory(Protocol):
    """A GPU's memory and one stream of it, as a runner uses them."""

    stream: int
    """The stream's handle."""

    def empty(self, size_bytes: int) -> Any:
        """A buffer."""
        ...

    def address(self, buffer: Any) -> int:
        """Where it is."""
        ...

    def write(self, buffer: Any, array: NDArray[Any]) -> None:
        """Copy a host array to the beginning of a buffer, in the stream's order."""
        ...

    def read(self, buffer: Any, out: NDArray[Any]) -> None:
        """Copy the beginning of a buffer into a host array, and wait for it."""
        ...

    def close(self) -> None:
        """Release the stream and every buffer."""
        ...


class TensorRT:
    """One network of a bundle as a TensorRT engine.

    Raises EnvironmentMissingError without a GPU, TensorRT, or an engine that was made here of this very graph.
    """

    reads: ClassVar[tuple[str, ...]] = ("onnx",)
    devices: ClassVar[tuple[str, ...]] = ("cuda",)
    target: ClassVar[str] = "tensorrt"

    def __init__(self, network: BundleNetwork, variant: Variant, place: Place) -> None:
        # asked first: without a GPU TensorRT's Runtime ends the process
        here = gpu(place.device_of(network.role).index)
        variant.model.check(network.folder)  # what runs was made from it: a bundle that was changed must not run
        self._open(import_tensorrt(), here, network, variant, place)

    def _open(self, trt: Any, here: Gpu, network: BundleNetwork, variant: Variant, place: Place) -> None:
        path, self.note = find(place.store(), network, variant, trt.__version__, here)
        self._trt, self._gpu, self._name = trt, here, network.row.name
        self._current = self.memory() if here.index else None  # TensorRT works on the thread's GPU
        self._logger = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(self._logger)
        if "version_compatible" in self.note["options"]:
            self._runtime.engine_host_code_allowed = True
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise EnvironmentMissingError(
                f"TensorRT {trt.__version__} refuses the engine of {self._name}: "
                f"make it again with `fexport engines {network.folder}`"
            )
        self._lock = threading.Lock()
        self._profiles = _profiles(trt, self._engine, [t.name for t in network.record.inputs])
        batch = max(next(iter(p.most.values()))[0] for p in self._profiles)
        self.spec = Spec(network.record.inputs, network.record.outputs, batch)
        self._own: _Runner | None = None

    @property
    def _runner(self) -> _Runner:
        if self._own is None:
            self._own = _Runner(self)
        return self._own

    def infer(self, inputs: Values, out: Values | None = None) -> dict[str, F32]:
        """Run the network, in parts if there are more items than its largest profile takes; see `Backend.infer`."""
        items, most = len(next(iter(inputs.values()))), self.spec.largest_batch or 1
        if items <= most:
            return self._runner.run(inputs, out)
        parts = []
        for start in range(0, items, most):
            part = slice(start, start + most)
            given = None if out is None else {n: v[part] for n, v in out.items()}
            parts.append(self._runner.run({n: v[part] for n, v in inputs.items()}, given))
        return dict(out) if out is not None else {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}

    def share(self) -> TensorRT:
        """Another runner of the same engine, with a stream, contexts and buffers of its own."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._own = _Runner(other)
        return other

    def resident(self, memory: Any) -> Resident:
        """A runner on somebody's memory and stream (a `cuda.Cuda`), every profile run once."""
        return _Resident(self, memory)

    def memory(self) -> Memory:
        """Memory and a stream of the GPU, for one runner."""
        from fexruntime.cuda import Cuda

        return Cuda(self._gpu.index)

    def close(self) -> None:
        """Release this runner; the engine goes with the last one."""
        if self._own is not None:
            self._own.close()
        if self._current is not None:
            self._current.close()
        self._engine = self._runtime = None

    def describe(self) -> dict[str, Any]:
        """What is in use: version, GPU, precision, the frames or batches of each profile, how the engine was built."""
        return {
            "backend": "tensorrt",
            "version": self._trt.__version__,
            "device": f"cuda:{self._gpu.index} ({self._gpu.name}, {self._gpu.capability}, driver {self._gpu.driver})",
            "precision": self.note["precision"],
            "profiles": self.note["profiles"],
            "options": self.note["options"],
            "threads": None,
        }


def _profiles(trt: Any, engine: Any, inputs: list[str]) -> list[Profile]:
    """The profiles of an engine, as it says."""
    made = []
    for k in range(engine.num_optimization_profiles):
        ranges = {n: [tuple(s) for s in engine.get_tensor_profile_shape(n, k)] for n in inputs}
        made.append(Profile(*({n: shapes[which] for n, shapes in ranges.items()} for which in range(3))))
    return made


def _fitting(owner: TensorRT, shapes: Mapping[str, Shape]) -> int:
    """The profile for these shapes; InputError that names the option if there is none."""
    for index, profile in enumerate(owner._profiles):
        if profile.holds(shapes):
            return index
    asked = ", ".join(f"{n} {list(s)}" for n, s in shapes.items())
    last = next(iter(shapes.values()))
    size = f"--profile {last[-2]}x{last[-1]}" if len(last) == 4 else "other batches"
    raise InputError(
        f"the TensorRT engine of {owner._name} was not made for {asked}: it has {owner.note['profiles']}; "
        f"make it with `fexport engines BUNDLE {size}`"
    )


class _Bucket:
    """A profile with its context and buffers."""

    def __init__(self, owner: TensorRT, memory: Memory, index: int, profile: Profile) -> None:
        self.profile = profile
        with owner._lock:  # contexts are made one at a time; running them side by side is fine
            self.context = owner._engine.create_execution_context()
        if self.context is None or not self.context.set_optimization_profile_async(index, memory.stream):
            raise EnvironmentMissingError(
                f"there is not enough GPU memory to run {owner._name}: fewer workspaces or profiles"
            )
        self.shapes: dict[str, Shape] = {}
        self.addresses: dict[str, int] = {}
        self.changes = 0
        """How often a shape or an address was set."""
        self.buffers: dict[str, Any] = {}
        self.set_shapes(profile.most, owner._name)
        for name in (*profile.most, *(t.name for t in owner.spec.outputs)):
            size = int(np.prod(self.context.get_tensor_shape(name))) * np.dtype(np.float32).itemsize
            self.buffers[name] = memory.empty(size)
            self.set_address(name, memory.address(self.buffers[name]))

    def set_address(self, name: str, address: int) -> None:
        if self.addresses.get(name) != address:
            self.context.set_tensor_address(name, address)
            self.addresses[name] = address
            self.changes += 1

    def set_shapes(self, shapes: Mapping[str, Shape], name: str) -> None:
        if self.shapes == shapes:
            return
        for tensor, shape in shapes.items():
            if not self.context.set_input_shape(tensor, shape):
                raise InferenceError(f"TensorRT does not take {tensor} {list(shape)} for {name}")
        self.shapes = dict(shapes)
        self.changes += 1


class _Runner:
    """One caller's contexts, stream and buffers."""

    def __init__(self, owner: TensorRT) -> None:
        self._owner, self._memory = owner, owner.memory()
        try:
            self._buckets = [_Bucket(owner, self._memory, k, p) for k, p in enumerate(owner._profiles)]
            for bucket in self._buckets:
                self._run(bucket, {n: np.zeros(s, np.float32) for n, s in bucket.profile.most.items()}, None)
        except BaseException:
            self._memory.close()
            raise

    def run(self, inputs: Values, out: Values | None) -> dict[str, F32]:
        shapes = {name: value.shape for name, value in inputs.items()}
        bucket = self._buckets[_fitting(self._owner, shapes)]
        return self._run(bucket, inputs, out)

    def _run(self, bucket: _Bucket, inputs: Values, out: Values | None) -> dict[str, F32]:
        name, memory = self._owner._name, self._memory
        try:
            bucket.set_shapes({n: tuple(v.shape) for n, v in inputs.items()}, name)
            for tensor, value in inputs.items():
                memory.write(bucket.buffers[tensor], np.ascontiguousarray(value, np.float32))
            done = bucket.context.execute_async_v3(memory.stream)
        except RuntimeError as error:
            raise InferenceError(f"TensorRT could not run {name}: {one_line(error)}") from error
        if not done:
            raise InferenceError(f"TensorRT could not run {name} on {bucket.shapes}")
        answer = {}
        for output in self._owner.spec.outputs:
            if out is not None and output.name not in out:  # computed all the same, but not copied back
                continue
            shape = tuple(bucket.context.get_tensor_shape(output.name))
            answer[output.name] = np.empty(shape, np.float32) if out is None else out[output.name]
            memory.read(bucket.buffers[output.name], answer[output.name])
        return answer

    def close(self) -> None:
        self._buckets = []
        self._memory.close()


class _Resident:
    """Contexts on a caller's stream, which read and write where the caller says."""

    def __init__(self, owner: TensorRT, memory: Any) -> None:
        self._owner, self._memory, self.spec = owner, memory, owner.spec
        self.used: set[int] = set()
        shapes = [profile.most for profile in owner._profiles]
        self.most: Mapping[str, Shape] | None = {
            n: max((s[n] for s in shapes), key=lambda s: int(np.prod(s))) for n in shapes[0]
        }
        self._buckets = [_Bucket(owner, memory, k, p) for k, p in enumerate(owner._profiles)]
        for bucket in self._buckets:
            self._enqueue(bucket)
        memory.synchronise()
        for bucket in self._buckets:  # they were for this first run
            for buffer in bucket.buffers.values():
                memory.free(buffer)
            bucket.buffers = {}

    @property
    def versions(self) -> tuple[int, ...]:
        return tuple(bucket.changes for bucket in self._buckets)

    def enqueue(self, inputs: Mapping[str, Located], outputs: Mapping[str, Located]) -> None:
        shapes = {name: shape for name, (_, shape) in inputs.items()}
        index = _fitting(self._owner, shapes)
        bucket = self._buckets[index]
        self.used.add(index)
        bucket.set_shapes(shapes, self._owner._name)
        for name, (address, _) in (*inputs.items(), *outputs.items()):
            bucket.set_address(name, address)
        self._memory.enter()
        self._enqueue(bucket)

    def _enqueue(self, bucket: _Bucket) -> None:
        if not bucket.context.execute_async_v3(self._memory.stream):
            raise InferenceError(f"TensorRT could not run {self._owner._name} on {bucket.shapes}")

    def close(self) -> None:
        self._buckets = []

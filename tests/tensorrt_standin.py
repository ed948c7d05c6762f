"""A TensorRT that has exactly the names of a real version, records what is called, and runs engines with ONNX Runtime.

The names are read off the real bindings (goldens/tensorrt_api.json): a call that a version lacks is an AttributeError here.
"""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime

TABLES = json.loads((Path(__file__).parent / "goldens" / "tensorrt_api.json").read_text(encoding="utf-8"))
VERSIONS = tuple(TABLES)
MAGIC = b"stand-in plan "


class _Limited:
    """An object that has the members of a class of the real module, and no others, whether they are read or set."""

    _table: frozenset[str] = frozenset()

    def __getattribute__(self, name):
        table = object.__getattribute__(self, "_table")
        if not name.startswith("_") and name not in table and name not in _own(self):
            raise AttributeError(f"this TensorRT's {type(self).__name__} has no {name}")
        return object.__getattribute__(self, name)

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return None  # a property that nobody has set

    def __setattr__(self, name, value):
        if not name.startswith("_") and name not in self._table and name not in _own(self):
            raise AttributeError(f"this TensorRT's {type(self).__name__} has no {name}")
        object.__setattr__(self, name, value)


def _own(thing):
    """What subclasses in the code under test add to a logger or monitor of theirs."""
    return object.__getattribute__(thing, "_free")


def standin(version, fails=None, queue=None):
    """(module, calls): `calls` lists what was done. `fails`: "parse", "build" or "deserialise" does not work then.

    `queue(stream, function)` puts a run into a stream; without it runs are done at once.
    """
    names, calls = TABLES[version], []
    trt = SimpleNamespace(__version__=version, float32="FLOAT", float16="HALF")

    def kind(name, free=(), **members):
        lacking = {m for m in members if not m.startswith("_")} - set(names[name])
        for member in lacking:
            del members[member]
        return type(name, (_Limited,), {"_table": frozenset(names[name]), "_free": frozenset(free), **members})

    def enum(name):
        return SimpleNamespace(**{member: k for k, member in enumerate(names[name])})

    for name in (
        "BuilderFlag",
        "NetworkDefinitionCreationFlag",
        "MemoryPoolType",
        "TacticSource",
        "HardwareCompatibilityLevel",
        "DeviceType",
    ):
        setattr(trt, name, enum(name))

    def record(what):
        return lambda self, *given: calls.append((what, *given))

    levels = {n: n for n in ("ERROR", "INTERNAL_ERROR", "INFO", "VERBOSE", "WARNING")}
    trt.ILogger = kind("ILogger", ("errors",), __init__=lambda self: None, **levels)
    trt.Logger = kind("Logger", (), __init__=lambda self, severity: None, **levels)
    if "IProgressMonitor" in names:
        trt.IProgressMonitor = kind("IProgressMonitor", (), __init__=lambda self: None)

    layer = kind(
        "ILayer",
        ("dtypes",),
        num_outputs=property(lambda self: len(self.dtypes)),
        get_output=lambda self, k: SimpleNamespace(dtype=self.dtypes[k]),
        set_output_type=lambda self, *given: calls.append(("set_output_type", self.metadata, *given)),
    )

    class State:
        model: bytes = b""

    state = State()

    def layers():
        made = []
        model = onnx.shape_inference.infer_shapes(onnx.load_from_string(state.model))
        values = (*model.graph.value_info, *model.graph.output)
        floats = {v.name for v in values if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
        for node in model.graph.node:
            one = layer()
            one.dtypes = ["FLOAT" if name in floats else "INT32" for name in node.output]
            one.metadata = f"[ONNX Layer: {node.name} | doc]"
            made.append(one)
        return made

    network_class = kind("INetworkDefinition", get_layer=lambda self, k: state.layers[k])
    network_class.num_layers = property(lambda self: len(state.layers))
    profile_class = kind("IOptimizationProfile", __init__=lambda self: object.__setattr__(self, "_shapes", {}))
    if True:

        def set_shape(self, name, least, best, most):
            self._shapes[name] = (least, best, most)

        profile_class.set_shape = set_shape

    class Cache(kind("ITimingCache")):
        def __init__(self, data):
            object.__setattr__(self, "_data", data)

        def serialize(self):
            return self._data + b"timed;"

    class Config(kind("IBuilderConfig")):
        def __init__(self):
            object.__setattr__(self, "_profiles", [])

        def set_flag(self, flag):
            calls.append(("set_flag", names["BuilderFlag"][flag]))

        def clear_flag(self, flag):
            calls.append(("clear_flag", names["BuilderFlag"][flag]))

        def get_tactic_sources(self):
            return (1 << len(names["TacticSource"])) - 1

        def set_memory_pool_limit(self, pool, size):
            calls.append(("set_memory_pool_limit", names["MemoryPoolType"][pool], size))

        def set_tactic_sources(self, sources):
            calls.append(("sources", [n for k, n in enumerate(names["TacticSource"]) if sources >> k & 1]))

        def add_optimization_profile(self, profile):
            self._profiles.append(profile._shapes)
            return len(self._profiles) - 1

        def create_timing_cache(self, data):
            return Cache(data)

        def set_timing_cache(self, cache, ignore_mismatch):
            calls.append(("set_timing_cache", cache._data))
            if cache._data.startswith(b"other"):
                return False
            object.__setattr__(self, "_cache", cache)
            return True

        def get_timing_cache(self):
            return self._cache

    class Builder(kind("Builder")):
        def __init__(self, logger):
            object.__setattr__(self, "_logger", logger)

        def create_network(self, flags):
            calls.append(
                ("create_network", [n for k, n in enumerate(names["NetworkDefinitionCreationFlag"]) if flags >> k & 1])
            )
            return network_class()

        def create_builder_config(self):
            return Config()

        def create_optimization_profile(self):
            return profile_class()

        def build_serialized_network(self, network, config):
            monitor = (
                getattr(config, "progress_monitor", None) if "progress_monitor" in names["IBuilderConfig"] else None
            )
            if monitor is not None:
                monitor.phase_start("Tactics", None, 2)
                assert monitor.step_complete("Tactics", 0) is True
                monitor.phase_finish("Tactics")
            if fails == "build":
                self._logger.log(trt.ILogger.ERROR, "no tactic\nfits")
                return None
            return MAGIC + json.dumps(config._profiles).encode() + b"\0" + state.model

    class Parser(kind("OnnxParser")):
        def __init__(self, network, logger):
            pass

        num_errors = 1

        def parse(self, model):
            state.model = model
            state.layers = layers()
            return fails != "parse"

        def get_error(self, k):
            return SimpleNamespace(desc=lambda: "unsupported operator")

    class Context(kind("IExecutionContext")):
        def __init__(self, profiles, session):
            for name, value in (
                ("_profiles", profiles),
                ("_session", session),
                ("_shapes", {}),
                ("_at", {}),
                ("_index", 0),
            ):
                object.__setattr__(self, name, value)

        def set_optimization_profile_async(self, index, stream):
            object.__setattr__(self, "_index", index)
            return True

        def set_input_shape(self, name, shape):
            calls.append(("set_input_shape", name, tuple(shape)))
            least, _, most = self._profiles[self._index][name]
            self._shapes[name] = tuple(shape)
            return all(a <= n <= b for a, n, b in zip(least, shape, most, strict=True))

        def set_tensor_address(self, name, address):
            calls.append(("set_tensor_address", name))
            self._at[name] = address
            return True

        def get_tensor_shape(self, name):
            return self._shapes[name] if name in self._shapes else self._answer()[name].shape

        def execute_async_v3(self, stream_handle):
            if fails == "run":
                return False
            at, shapes = dict(self._at), dict(self._shapes)

            def run():
                given = {n: _at(at[n], s).copy() for n, s in shapes.items()}
                for name, value in self._answer(given).items():
                    _at(at[name], value.shape)[...] = value

            run() if queue is None else queue(stream_handle, run)
            return True

        def _answer(self, given=None):
            given = given or {n: np.zeros(s, np.float32) for n, s in self._shapes.items()}
            outputs = [o.name for o in self._session.get_outputs()]
            return dict(zip(outputs, self._session.run(outputs, given), strict=True))

    class Engine(kind("ICudaEngine")):
        def __init__(self, data):
            said, _, model = data.removeprefix(MAGIC).partition(b"\0")
            object.__setattr__(self, "_profiles", json.loads(said))
            object.__setattr__(
                self, "_session", onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
            )

        @property
        def num_optimization_profiles(self):
            return len(self._profiles)

        def get_tensor_profile_shape(self, name, index):
            return self._profiles[index][name]

        def create_execution_context(self):
            calls.append(("create_execution_context",))
            return Context(self._profiles, self._session)

    class Runtime(kind("Runtime")):
        def __init__(self, logger):
            calls.append(("Runtime",))

        def deserialize_cuda_engine(self, data):
            return None if fails == "deserialise" or not data.startswith(MAGIC) else Engine(data)

    trt.Builder, trt.OnnxParser, trt.Runtime = Builder, Parser, Runtime
    return trt, calls


def _at(address, shape):
    count = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address)).reshape(shape)


class HostMemory:
    """A GPU's memory for the backend, on the CPU; counts what is not closed."""

    open = 0

    def __init__(self):
        self.stream = 7
        HostMemory.open += 1

    def empty(self, size_bytes):
        return np.full(size_bytes, 0xFF, np.uint8)

    def address(self, buffer):
        return buffer.ctypes.data

    def write(self, buffer, array):
        assert array.nbytes <= buffer.nbytes
        buffer[: array.nbytes] = array.reshape(-1).view(np.uint8)

    def read(self, buffer, out):
        assert out.flags.c_contiguous
        out[...] = buffer[: out.nbytes].view(np.float32).reshape(out.shape)

    def close(self):
        HostMemory.open -= 1

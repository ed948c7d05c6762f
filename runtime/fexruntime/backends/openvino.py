"""OpenVINO on the CPU, Intel GPUs and NPUs: the bundle's ONNX graphs, in full precision unless another artefact was asked for.

OpenVINO would choose bfloat16 by itself on CPUs that have it; what runs here is the precision of the artefact. One in bfloat16
is computed in it where the CPU can, but for the layers that its plan keeps in fp32 (OpenVINO lowers dense ones all the same:
`describe` counts what it kept); elsewhere its weights are bfloat16's and
the arithmetic fp32's, as in ONNX Runtime (`describe` says which). float16 graphs are computed in fp32 too: CPUs have no float16.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

import numpy as np

from fexruntime.arrays import F32, Values
from fexruntime.backends.base import CPU, Device, Place, Spec
from fexruntime.backends.onnx_bytes import FULL, Types, types_in, types_of
from fexruntime.backends.onnxruntime import cpu_features
from fexruntime.bundle import BundleNetwork
from fexruntime.errors import BundleError, EnvironmentMissingError, InferenceError, one_line
from fexruntime.manifest import Variant
from fexruntime.memory import MappedFile, give_back, write_to_map

BF16, INT8 = "bf16", "int8"
SHAPES = 32
"""Shapes of inputs that are remembered: frames of ever other sizes would be too many."""
_log = logging.getLogger("fexruntime.openvino")


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A compiled model, the types read off its graph, the names of the layers that were marked as not to be lowered."""

    compiled: Any
    types: Types
    marked: frozenset[str] = frozenset()
    file: MappedFile | None = None
    """Where its weights are, if they are not its own. OpenVINO does not hold it: whoever holds the model has to."""


class OpenVino:
    """One network of a bundle in OpenVINO.

    Raises EnvironmentMissingError without openvino or the device asked for, BundleError if the model is not the verified one.
    """

    reads: ClassVar[tuple[str, ...]] = ("onnx",)
    devices: ClassVar[tuple[str, ...]] = ("cpu", "gpu", "npu")
    target: ClassVar[str] = "openvino"

    def __init__(self, network: BundleNetwork, variant: Variant, place: Place) -> None:
        self._ov = import_openvino()
        self._name = network.row.name
        self.threads = place.threads_of(network.role)
        self.spec = Spec(network.record.inputs, network.record.outputs)
        core = self._ov.Core()
        device = place.device_of(network.role)
        in_bfloat16 = (
            variant.precision == BF16
            and device.kind == CPU
            and BF16.upper() in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        )
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": BF16 if in_bfloat16 else "f32",
            "NUM_STREAMS": 1,
        }
        if device.kind == CPU:
            settings["INFERENCE_NUM_THREADS"] = self.threads
        # what is there is looked up for others alone: the CPU always is, and looking loads the drivers of GPUs and NPUs
        named = CPU.upper() if device == Device() else device_name(device, core.available_devices)
        kept = _kept_in_fp32(network, variant) if in_bfloat16 else frozenset()
        loaded = self._load(core, network, variant, place, named, settings, kept)
        self._compiled, self._types = loaded.compiled, loaded.types
        self._device = str(device)
        computes = self._computes_in()
        if not _is_full(computes) and not in_bfloat16:
            raise EnvironmentMissingError(
                f"{str(device)!r} computes in {computes}, {self._name} may be computed in fp32 alone"
            )
        self._kept = _kept_layers(self._compiled, loaded.marked)
        self._request = self._compiled.create_infer_request()
        self._shapes: set[tuple[tuple[int, ...], ...]] = set()
        self._file = loaded.file  # the last: an object lets go of what it has in this order, and the others read it

    def _load(
        self,
        core: Any,
        network: BundleNetwork,
        variant: Variant,
        place: Place,
        device: str,
        settings: dict[str, Any],
        kept: frozenset[str],
    ) -> _Loaded:
        """The network, from the store where it was compiled before, else compiled and kept there."""
        # compiling takes most of the time to load, and twice the memory; what is marked is known of a graph that was read alone
        store = place.store() if device == CPU.upper() and not kept else None
        if store is None:
            return self._compile(core, network, variant, device, settings, kept)
        key = {
            "kind": "compiled OpenVINO model",
            "network": network.row.name,
            "model_sha256": variant.model.sha256,
            "openvino": self._ov.__version__,
            "cpu": cpu_features(),
            "settings": json.dumps(settings, sort_keys=True),
        }
        path = store.find(key)
        if path is None:
            made = self._compile(core, network, variant, device, settings, kept)
            try:
                with store.writing(key) as place_to_write:
                    if place_to_write is not None:
                        write_to_map(place_to_write, made.compiled.export_model().getbuffer())
            except RuntimeError as error:  # OpenVINO cannot export it: it is compiled again next time
                _log.info("nothing was kept of %s: %s", self._name, one_line(error, -1))
            path = store.find(key)
            if path is None:
                return made
            types = made.types
            del made  # the one that is kept reads its weights off the file, which needs no memory of the process's own
        else:
            with variant.model.opened(network.folder) as verified:
                types = types_in(verified)
        try:
            file = MappedFile(path)
            blob = self._ov.Tensor(file.bytes, shared_memory=True)
            return _Loaded(core.import_model(blob, device, settings), types, file=file)
        except (OSError, RuntimeError, ValueError) as error:  # it is gone; or this OpenVINO cannot read it after all
            _log.info("loading without the store: %s", one_line(error, -1))
            return self._compile(core, network, variant, device, settings, kept)

    def _compile(
        self,
        core: Any,
        network: BundleNetwork,
        variant: Variant,
        device: str,
        settings: dict[str, Any],
        kept: frozenset[str],
    ) -> _Loaded:
        """The network compiled from the bundle's graph."""
        model = network.read(variant.model)
        marked: frozenset[str] = frozenset()
        try:
            read = core.read_model(model)
            if kept:
                read, marked = with_precise_layers(self._ov, core, read, kept)
            compiled = core.compile_model(read, device, settings)
        except Exception as error:  # OpenVINO's errors are RuntimeError and its own
            raise BundleError(f"OpenVINO cannot load {self._name}: {one_line(error, -1)}") from error
        return _Loaded(compiled, types_of(model), marked)

    def _computes_in(self) -> str:
        return str(self._compiled.get_property("INFERENCE_PRECISION_HINT"))

    def infer(self, inputs: Values, out: Values | None = None) -> dict[str, F32]:
        """Run the network; see `Backend.infer`."""
        try:
            self._request.infer(dict(inputs), share_inputs=True)
        except Exception as error:
            shapes = ", ".join(f"{n} {list(v.shape)}" for n, v in inputs.items())
            raise InferenceError(f"OpenVINO could not run {self._name} on {shapes}: {one_line(error, -1)}") from error
        given = tuple(value.shape for value in inputs.values())
        if self._file is not None and given not in self._shapes and len(self._shapes) < SHAPES:
            # the first run on a shape lays its weights out anew: most of the file is not looked at again, and what that took is free
            self._shapes.add(given)
            self._file.give_back()
            give_back()
        names = [t.name for t in self.spec.outputs] if out is None else out
        found = {name: self._request.get_tensor(name).data for name in names}
        if out is None:
            return {name: np.array(value) for name, value in found.items()}
        for name, value in found.items():
            out[name][...] = value
        return dict(out)

    def share(self) -> OpenVino:
        """Another request of the same compiled network: one request is one thread's."""
        other = object.__new__(OpenVino)
        other.__dict__.update(self.__dict__)
        other._request = self._compiled.create_infer_request()
        return other

    def close(self) -> None:
        """Drop the network and its memory, the file that it reads last."""
        self._request = self._compiled = self._file = None

    def describe(self) -> dict[str, Any]:
        """What is in use: version, device, precision and threads as the compiled network says."""
        hint = self._computes_in()
        computed = INT8 if self._types.computed == INT8 else FULL if _is_full(hint) else BF16
        on_cpu = self._device.startswith(CPU)
        return {
            "backend": "openvino",
            "version": self._ov.__version__.split("-")[0],
            "device": self._device,
            **Types(computed, self._types.stored).said(),
            **({"arithmetic": f"bf16 and fp32 ({self._kept})"} if computed == BF16 else {}),
            "threads": int(self._compiled.get_property("INFERENCE_NUM_THREADS")) if on_cpu else 1,
        }


def device_name(device: Device, seen: Sequence[str]) -> str:
    """OpenVINO's name of a device, of those that it sees ("CPU"; one GPU is "GPU", several "GPU.0", "GPU.1").

    Raises EnvironmentMissingError, with what it sees, for one that is not there.
    """
    kind = device.kind.upper()
    numbered = kind if device.index is None else f"{kind}.{device.index}"
    if numbered in seen:
        return numbered
    if device.index in (None, 0):
        alike = [name for name in seen if name in (kind, f"{kind}.0")]
        if alike:
            return alike[0]
    raise EnvironmentMissingError(
        f"no device {str(device)!r}: OpenVINO sees {', '.join(seen) or 'none'} here (a GPU needs Intel's compute runtime, an NPU its driver)"
    )


def _kept_in_fp32(network: BundleNetwork, variant: Variant) -> frozenset[str]:
    """Names of the tensors that the artefact's plan has in fp32."""
    if variant.plan is None:
        return frozenset()
    return frozenset(json.loads(network.read(variant.plan))["fp32_tensors"])


def _kept_layers(compiled: Any, marked: frozenset[str]) -> str:
    """How many of the layers that were marked are really computed in fp32, read off what was compiled."""
    found = [
        str(op.get_rt_info()["runtimePrecision"].value)
        for op in (compiled.get_runtime_model().get_ops() if marked else ())
        if marked.intersection(str(op.get_rt_info()["originalLayersNames"].value).split(","))
    ]
    floats = [kind for kind in found if kind in ("f32", BF16)]
    return f"{floats.count('f32')} of {len(floats)} marked layers"


def with_precise_layers(ov: Any, core: Any, model: Any, tensors: frozenset[str]) -> tuple[Any, frozenset[str]]:
    """(the model, with the layers that make these tensors marked as not to be lowered; their names).

    OpenVINO knows the mark ("precise") and takes it from its own files alone: set from Python it is lost. So the model is
    written and read once more. A node may have become several layers, of which the last alone has the tensor's name: the
    others are known by having none.
    """
    with tempfile.TemporaryDirectory(prefix="fexport-") as folder:
        text, weights = (os.path.join(folder, f"model.{end}") for end in ("xml", "bin"))
        ov.serialize(model, text, weights)
        tree = ElementTree.parse(text)
        layers = {layer.get("id"): layer for layer in tree.getroot().iterfind("layers/layer")}
        feeds: dict[str | None, list[str | None]] = {}
        for edge in tree.getroot().iterfind("edges/edge"):
            feeds.setdefault(edge.get("to-layer"), []).append(edge.get("from-layer"))
        waiting = [i for i, layer in layers.items() if tensors.intersection(_tensor_names(layer))]
        marked: set[str | None] = set()
        while waiting:
            here = waiting.pop()
            if here in marked or layers[here].get("type") in ("Const", "Parameter", "Result"):
                continue
            marked.add(here)
            waiting += [i for i in feeds.get(here, ()) if not _tensor_names(layers[i])]
        for here in marked:
            layer = layers[here]
            marks = layer.find("rt_info")
            if marks is None:
                marks = ElementTree.Element("rt_info")
                layer.insert(0 if layer.find("data") is None else 1, marks)
            ElementTree.SubElement(marks, "attribute", {"name": "precise", "version": "0"})
        tree.write(text)
        with open(weights, "rb") as file:
            again = core.read_model(Path(text).read_bytes(), ov.Tensor(np.frombuffer(file.read(), np.uint8)))
    return again, frozenset(str(layers[here].get("name")) for here in marked)


def _tensor_names(layer: ElementTree.Element) -> list[str]:
    return [n for port in layer.iterfind("output/port") for n in (port.get("names") or "").split(",") if n]


def _is_full(hint: str) -> bool:
    return "float32" in hint or "f32" in hint


def import_openvino() -> Any:
    """The openvino module, without its telemetry: that package makes an identity in the user's home when it is imported.

    OpenVINO goes on without it where it cannot be imported, so it is made not to be, for that moment.
    """
    hidden = "openvino_telemetry"
    if "openvino" not in sys.modules and hidden not in sys.modules:
        sys.modules[hidden] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError as error:
        raise EnvironmentMissingError(
            f"the backend 'openvino' needs OpenVINO ({error}): pip install 'fexport[openvino]'"
        ) from None
    finally:
        if sys.modules.get(hidden, hidden) is None:
            del sys.modules[hidden]
    return openvino

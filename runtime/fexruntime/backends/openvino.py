"""OpenVINO on the CPU, Intel GPUs and NPUs: the bundle's ONNX graphs, in full precision unless another artefact was asked for.

OpenVINO would choose bfloat16 by itself on CPUs that have it; what runs here is the precision of the graph.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from fexruntime.arrays import F32, Values
from fexruntime.backends.base import CPU, Device, Place, Spec
from fexruntime.backends.onnx_bytes import precision_of
from fexruntime.bundle import BundleNetwork
from fexruntime.errors import BundleError, EnvironmentMissingError, InferenceError, one_line
from fexruntime.manifest import Variant


class OpenVino:
    """One network of a bundle in OpenVINO.

    Raises EnvironmentMissingError without openvino or the device asked for, BundleError if the model is not the verified one.
    """

    reads: ClassVar[tuple[str, ...]] = ("onnx",)
    devices: ClassVar[tuple[str, ...]] = ("cpu", "gpu", "npu")

    def __init__(self, network: BundleNetwork, variant: Variant, place: Place) -> None:
        self._ov = import_openvino()
        self._name = network.row.name
        self.threads = place.cores
        self.spec = Spec(network.record.inputs, network.record.outputs)
        model = network.read(variant.model)
        self._precision = precision_of(model)
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": 1,
        }
        device = place.device_of(network.role)
        if device.kind == CPU:
            settings["INFERENCE_NUM_THREADS"] = self.threads
        core = self._ov.Core()
        named = device_name(device, core.available_devices)
        try:
            self._compiled: Any = core.compile_model(core.read_model(model), named, settings)
        except Exception as error:  # OpenVINO's errors are RuntimeError and its own
            raise BundleError(f"OpenVINO cannot load {self._name}: {one_line(error, -1)}") from error
        self._device = str(device)
        computes = self._computes_in()
        if not _is_full(computes):
            raise EnvironmentMissingError(f"{str(device)!r} computes in {computes}, {self._name} was asked for in fp32")
        self._request = self._compiled.create_infer_request()

    def _computes_in(self) -> str:
        return str(self._compiled.get_property("INFERENCE_PRECISION_HINT"))

    def infer(self, inputs: Values, out: Values | None = None) -> dict[str, F32]:
        """Run the network; see `Backend.infer`."""
        try:
            self._request.infer(dict(inputs), share_inputs=True)
        except Exception as error:
            shapes = ", ".join(f"{n} {list(v.shape)}" for n, v in inputs.items())
            raise InferenceError(f"OpenVINO could not run {self._name} on {shapes}: {one_line(error, -1)}") from error
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
        """Drop the network and its memory."""
        self._request = self._compiled = None

    def describe(self) -> dict[str, Any]:
        """What is in use: version, device, precision and threads as the compiled network says."""
        hint = self._computes_in()
        on_cpu = self._device.startswith(CPU)
        return {
            "backend": "openvino",
            "version": self._ov.__version__.split("-")[0],
            "device": self._device,
            "precision": self._precision if _is_full(hint) else hint,
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

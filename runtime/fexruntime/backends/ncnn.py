"""ncnn: Winograd convolutions on the CPU, on x86 with and without AVX-512 and on ARM; any GPU that Vulkan drives.

Everything that would round (half precision, bfloat16, int8) is off: fp32 is as near to torch as ONNX Runtime's. ncnn has
no batch axis; items run one after another. Its threads are OpenMP's.

ncnn chooses how to do each 3x3 convolution by rules that do not see the CPU's caches: mostly Winograd's F(4x4). `NcnnSmallTiles` has the
same network with F(2x2) alone, which pads small maps less and streams half the weights, for up to four fifths more multiplications (a
third on maps of 14 x 14). Which is faster is the CPU's to say, so both are there for `fexport tune` to measure.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from fexruntime.arrays import F32, Values
from fexruntime.backends.base import Device, Place, Spec
from fexruntime.bundle import BundleNetwork
from fexruntime.contracts.ncnn import SMALL_TILES_BACKEND
from fexruntime.errors import BundleError, EnvironmentMissingError, InferenceError
from fexruntime.manifest import Variant

ROUNDING = (
    "use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_packed", "use_bf16_storage",
    "use_int8_packed", "use_int8_storage", "use_int8_arithmetic", "use_int8_inference",
)  # fmt: skip
SPINS = 20_000
"""How often an idle thread of ncnn's OpenMP looks for work before it sleeps: some tenths of a millisecond, longer than what lies between
layers. libgomp's own 300 000 keep a core for several milliseconds behind a network, which the next one's threads wait for."""
_SPINNING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
_importing = threading.Lock()


class Ncnn:
    """One network of a bundle in ncnn.

    Raises EnvironmentMissingError without ncnn or the device asked for, BundleError if its files are not the verified ones.
    """

    reads: ClassVar[tuple[str, ...]] = ("ncnn",)
    devices: ClassVar[tuple[str, ...]] = ("cpu", "vulkan")
    name: ClassVar[str] = "ncnn"
    off: ClassVar[tuple[str, ...]] = ()
    """Ways to convolve that it does without: ncnn's options."""

    def __init__(self, network: BundleNetwork, variant: Variant, place: Place) -> None:
        self._ncnn = import_ncnn()
        self._network = network.row.name
        self.threads = place.threads_of(network.role)
        self.spec = Spec(network.record.inputs, network.record.outputs)
        (weights,) = variant.parts
        self._net: Any = self._ncnn.Net()
        device = place.device_of(network.role)
        for option in (*ROUNDING, *self.off):
            setattr(self._net.opt, option, False)
        self._net.opt.num_threads = self.threads
        self._device = "cpu" if device.kind == "cpu" else self._on_vulkan(device)
        with variant.model.opened(network.folder) as text, weights.opened(network.folder) as data:
            if self._net.load_param(text) or self._net.load_model(data):
                raise BundleError(f"ncnn cannot load {self._network}: build the bundle again with this ncnn")

    def _on_vulkan(self, device: Device) -> str:
        """Have the network run on a Vulkan device; its number and name."""
        index = device.index or 0
        seen = vulkan_devices(self._ncnn)
        if index >= len(seen):
            there = "; ".join(f"{n}: {name}" for n, name in enumerate(seen)) or "none"
            raise EnvironmentMissingError(
                f"no device {str(device)!r} for {self._network}: Vulkan devices that ncnn sees here: {there}"
                + ("" if seen else " (it needs a GPU's Vulkan driver; on Debian, mesa-vulkan-drivers has Mesa's)")
            )
        self._net.opt.use_vulkan_compute = True
        self._net.set_vulkan_device(index)
        return f"vulkan:{index} {seen[index]}"

    def infer(self, inputs: Values, out: Values | None = None) -> dict[str, F32]:
        """Run the network on each item; see `Backend.infer`."""
        names = [t.name for t in self.spec.outputs] if out is None else list(out)
        items = [self._item(item, names) for item in zip(*(inputs[t.name] for t in self.spec.inputs), strict=True)]
        found = {name: [answers[name] for answers in items] for name in names}
        if out is None:
            return {name: np.stack(values) for name, values in found.items()}
        for name, values in found.items():
            for slot, value in zip(out[name], values, strict=True):
                slot[...] = value
        return dict(out)

    def _item(self, item: tuple[F32, ...], names: Sequence[str]) -> dict[str, F32]:
        extractor = self._net.create_extractor()
        for tensor, value in zip(self.spec.inputs, item, strict=True):
            whole = np.ascontiguousarray(value)  # a Mat of it holds no reference: it has to outlive the copy
            extractor.input(tensor.name, self._ncnn.Mat(whole).clone())  # with ncnn's own row alignment
        answers = {}
        for name in names:  # ncnn runs the layers that what is extracted needs
            code, found = extractor.extract(name)
            if code:
                shapes = ", ".join(str(list(value.shape)) for value in item)
                raise InferenceError(f"ncnn could not run {self._network} on {shapes} (code {code})")
            answers[name] = np.array(found)
        return answers

    def share(self) -> Ncnn:
        """Itself: a network that is loaded does not change, and each item has an extractor of its own."""
        return self

    def close(self) -> None:
        """Drop the network and its memory."""
        self._net = None

    def describe(self) -> dict[str, Any]:
        """What is in use: version, device, precision as the options say, threads."""
        opt = self._net.opt
        precision = "fp32" if not any(getattr(opt, option) for option in ROUNDING) else "reduced"
        said: dict[str, Any] = {
            "backend": self.name,
            "version": self._ncnn.__version__,
            "device": self._device,
            "precision": precision,
            "threads": opt.num_threads,
        }
        if self.off:
            said["off"] = list(self.off)
        if opt.use_vulkan_compute:  # kinds of layers that ncnn has no shader for: it computes those on the CPU
            said["layers_on_cpu"] = sorted({layer.type for layer in self._net.layers() if not layer.support_vulkan})
        return said


class NcnnSmallTiles(Ncnn):
    """The same, with the smallest of Winograd's tiles alone. On a CPU: ncnn's rules for GPUs are others."""

    devices = ("cpu",)
    name = SMALL_TILES_BACKEND
    off = ("use_winograd43_convolution", "use_winograd63_convolution")


def vulkan_devices(ncnn: Any) -> list[str]:
    """Names of the Vulkan devices that ncnn sees, by number."""
    return [ncnn.get_gpu_info(n).device_name() for n in range(ncnn.get_gpu_count())]


def import_ncnn() -> Any:
    """The ncnn module, its idle threads told to sleep soon, unless the user's environment says how they wait.

    Its libgomp reads that from the environment as it is loaded, and from nowhere else; the variable is there for that moment.
    """
    with _importing:
        told = "ncnn" in sys.modules or any(name in os.environ for name in _SPINNING)
        if not told:
            os.environ[_SPINNING[0]] = str(SPINS)
        try:
            import ncnn
        except ImportError as error:
            raise EnvironmentMissingError(
                f"the backend 'ncnn' needs ncnn ({error}): pip install 'fexport[ncnn]'"
            ) from None
        finally:
            if not told:
                os.environ.pop(_SPINNING[0], None)
    return ncnn

"""Networks that are models of their own in the Triton server inside which this runs: each run is a call of that model.

Only in a model of Triton's Python backend (business logic scripting): `fexport triton --steps` writes the models, and the one that
embeds this package fills `STEPS` before it makes its detector. Triton batches, schedules and places each of them for itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import numpy as np

from fexruntime.arrays import F32, Values
from fexruntime.backends.base import Place, Spec
from fexruntime.bundle import BundleNetwork
from fexruntime.errors import EnvironmentMissingError, InferenceError, one_line
from fexruntime.manifest import Variant


@dataclass(frozen=True, slots=True)
class Step:
    """The model of a role: its name, the most items of a call, what runs it."""

    model: str
    engine: str
    largest_batch: int | None = None
    """None: of any number of items, which are not to be parted."""


STEPS: dict[str, Step] = {}
"""By role. A process of Triton's Python backend is one model's, so there is one such table."""


class Triton:
    """One network of a bundle that another model of the same server runs.

    Raises EnvironmentMissingError outside Triton's Python backend, or where no model was named for the role.
    """

    reads: ClassVar[tuple[str, ...]] = ("onnx",)
    devices: ClassVar[tuple[str, ...]] = ("cpu",)

    def __init__(self, network: BundleNetwork, variant: Variant, place: Place) -> None:
        try:
            self._utils: Any = import_module("triton_python_backend_utils")
        except ImportError:
            raise EnvironmentMissingError(
                "the backend 'triton' runs inside a Triton server alone: write a model for one with `fexport triton`"
            ) from None
        if network.role not in STEPS:
            raise EnvironmentMissingError(f"no Triton model was named for {network.role}: see `fexport triton --steps`")
        self._step, self._precision = STEPS[network.role], variant.precision
        self.spec = Spec(network.record.inputs, network.record.outputs, self._step.largest_batch)

    def infer(self, inputs: Values, out: Values | None = None) -> dict[str, F32]:
        """Call the model, in parts if there are more items than it takes; see `Backend.infer`."""
        names = [t.name for t in self.spec.outputs] if out is None else list(out)
        items = len(next(iter(inputs.values())))
        most = self._step.largest_batch or items
        parts = [self._call({n: v[at : at + most] for n, v in inputs.items()}, names) for at in range(0, items, most)]
        whole = {name: np.concatenate([p[name] for p in parts]) if len(parts) > 1 else parts[0][name] for name in names}
        if out is None:
            return whole
        for name, value in whole.items():
            out[name][...] = value
        return dict(out)

    def share(self) -> Triton:
        """Itself: it holds nothing."""
        return self

    def close(self) -> None:
        """The model is the server's."""

    def describe(self) -> dict[str, Any]:
        """What is in use: the model, and what runs it there."""
        return {
            "backend": "triton",
            "version": None,
            "device": f"model {self._step.model}",
            "engine": self._step.engine,
            "precision": self._precision,
            "threads": None,
        }

    def _call(self, inputs: Values, names: list[str]) -> dict[str, F32]:
        utils, model = self._utils, self._step.model
        request = utils.InferenceRequest(
            model_name=model,
            requested_output_names=names,
            inputs=[utils.Tensor(name, np.ascontiguousarray(value)) for name, value in inputs.items()],
            preferred_memory=utils.PreferredMemory(utils.TRITONSERVER_MEMORY_CPU, 0),
        )
        response = request.exec()
        if response.has_error():
            raise InferenceError(f"Triton's model {model} could not be run: {one_line(response.error().message())}")
        found = {name: utils.get_output_tensor_by_name(response, name) for name in names}
        return {name: np.asarray(tensor.as_numpy(), np.float32) for name, tensor in found.items()}

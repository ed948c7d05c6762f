"""Does a bundle still answer here what it answered when it was verified? A check that needs no torch.

Every artefact of a bundle has a recorded input and the outputs that the verified one gave for it. It is run as a
detector would run it, from the device's store too.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from fexruntime.arrays import F64
from fexruntime.backends import open_variant
from fexruntime.backends.base import Place
from fexruntime.bundle import Bundle, BundleNetwork
from fexruntime.contracts import Gate, gates_of
from fexruntime.differences import UNITS, gate_difference
from fexruntime.errors import BundleError, EnvironmentMissingError
from fexruntime.manifest import Variant


@dataclass(frozen=True, slots=True)
class CanonicalCheck:
    """One output of one artefact against its recorded value: largest difference and its limit, in the task's unit."""

    role: str
    network: str
    artefact: str
    output: str
    task: str
    unit: str
    max: float
    limit: float

    @property
    def passed(self) -> bool:
        """Within the limit (NaN is not)."""
        return bool(self.max <= self.limit)


def check_canonical(
    bundle: Bundle, place: Place | None = None, on_missing: Callable[[EnvironmentMissingError], None] | None = None
) -> list[CanonicalCheck]:
    """Run every artefact of a bundle on its recorded input and compare, on the backend of `place` if that would take it.

    Raises BundleError if a file is not the one that was verified, or if there is nothing recorded for an output. An
    artefact whose backend is not installed raises EnvironmentMissingError, or is handed to `on_missing` and left out.
    """
    checks: list[CanonicalCheck] = []
    for network in bundle.networks.values():
        for variant in network.record.variants:
            try:
                checks += checks_of(network, variant, _place_of(network, variant, place or Place()))
            except EnvironmentMissingError as error:
                if on_missing is None:
                    raise
                on_missing(error)
    return checks


def _place_of(network: BundleNetwork, variant: Variant, place: Place) -> Place:
    """Where an artefact is run: what no detector runs on a backend, since that has a graph of its own or this is another's, is run
    where it was held to torch.
    """
    name = place.backend_of(network.role)
    if name in variant.verified_on or network.variant(variant.precision, (variant.kind,), name) == variant:
        return place
    return dataclasses.replace(place, backend=next(iter(variant.verified_on), name))


def checks_of(network: BundleNetwork, variant: Variant, place: Place) -> Iterator[CanonicalCheck]:
    """Run one artefact on its recorded input and compare: a check an output and task. Errors as of `check_canonical`."""
    name = network.row.name
    with np.load(io.BytesIO(network.read(variant.canonical))) as file:
        recorded = dict(file)
    inputs, outputs = ([t.name for t in tensors] for tensors in (network.record.inputs, network.record.outputs))
    missing = [k for k in (*(f"input.{n}" for n in inputs), *(f"output.{n}" for n in outputs)) if k not in recorded]
    if missing:
        raise BundleError(
            f"the recorded answers of {name} lack {', '.join(missing)}: nothing can be compared; build the bundle again"
        )
    runner = open_variant(network, variant, place)
    try:
        given = {n: recorded[f"input.{n}"] for n in inputs}
        found = runner.infer(given)
    finally:
        runner.close()
    gates = [g for g in gates_of(name, variant.precision) if g.output in outputs]
    ungated = set(outputs) - {g.output for g in gates}
    if ungated:
        raise BundleError(f"{name} has no gate for {', '.join(sorted(ungated))}: nothing can be compared")
    expected = {n: recorded[f"output.{n}"] for n in outputs}
    for gate in gates:
        gap = gate_difference(gate, expected, found, network.choice.crop_size, given)
        worst = _worst(gate, gap)
        artefact = f"{variant.precision} {variant.form}"
        yield CanonicalCheck(
            network.role, name, artefact, gate.output, gate.task, UNITS.get(gate.task, ""), worst, variant.limit(gate)
        )


def _worst(gate: Gate, gap: F64) -> float:
    if not gap.size:
        return float("nan")
    return float(gap.max() if gate.by == "max" else np.percentile(gap, 99))

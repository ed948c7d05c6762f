"""Verification: does the artefact answer what the torch network answers, on faces and noise, in the task's own unit?

The gate of a build, and `fexport verify` later. A difference beyond the contract's tolerance, or a value that is not
finite, fails. The action-unit graph picks each AU's nearest neighbours: where two candidates tie to within round-off the
pick may flip and AU values jump, on any pair of runtimes. Such faces are left out of the outputs that depend on the pick,
and counted in the report.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fexport.networks.multitask import Multitask, unit
from fexruntime.contracts import Network, Tolerance
from fexruntime.tolerances import UNITS, difference

F32 = NDArray[np.float32]
Runner = Callable[[F32], dict[str, F32]]
TIE_MARGIN = 1e-5
"""Neighbours whose cosines differ by less may swap places between runtimes."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Differences of one output, in its task's unit, on one kind of input."""

    output: str
    task: str
    unit: str
    kind: str
    limit: float
    max: float
    p99: float
    mean: float
    values: int

    @property
    def passed(self) -> bool:
        """Within the limit (NaN is not)."""
        return bool(self.max <= self.limit)


@dataclass(slots=True)
class Report:
    """What verifying one network found."""

    network: str
    against: str
    differences: list[Difference] = field(default_factory=list)
    not_finite: dict[str, int] = field(default_factory=dict)
    near_ties: int = 0
    faces: int = 0

    @property
    def passed(self) -> bool:
        """Every difference within its limit, every value finite, and something compared for every output."""
        return not self.not_finite and not self.not_compared and all(d.passed for d in self.differences)

    @property
    def not_compared(self) -> list[str]:
        """Outputs of which no value was left to compare."""
        seen: dict[str, int] = {}
        for d in self.differences:
            seen[d.output] = seen.get(d.output, 0) + d.values
        return [output for output, values in seen.items() if not values]

    def as_json(self) -> dict[str, Any]:
        """The report as plain values."""
        rows = [asdict(d) | {"passed": d.passed} for d in self.differences]
        return {
            "network": self.network,
            "against": self.against,
            "passed": self.passed,
            "inputs": self.faces,
            "near_ties_left_out": self.near_ties,
            "not_finite": self.not_finite,
            "not_compared": self.not_compared,
            "differences": rows,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Report:
        """The report that `as_json` wrote."""
        rows = [{k: v for k, v in row.items() if k != "passed"} for row in value["differences"]]
        return cls(
            value["network"],
            value["against"],
            [Difference(**row) for row in rows],
            value["not_finite"],
            value["near_ties_left_out"],
            value["inputs"],
        )


def compare(
    network: Network, module: nn.Module, run: Runner, cases: dict[str, list[F32]], chip_size: int, against: str
) -> Report:
    """Hold `run` (an artefact) to `module` (torch) on `cases`, by the contract's tolerances."""
    report = Report(network.name, against)
    names = [t.name for t in network.outputs]
    for kind, inputs in cases.items():
        gathered: dict[int, list[NDArray[np.float64]]] = {}
        for value in inputs:
            expected, steady = _reference(module, value, names)
            found = run(value)
            report.faces += len(value)
            report.near_ties += int((~steady).sum())
            for name in expected:
                bad = int((~np.isfinite(found[name])).sum())
                if bad:
                    report.not_finite[name] = report.not_finite.get(name, 0) + bad
            for k, tolerance in enumerate(network.tolerances):
                if tolerance.output in expected:
                    rows = steady if tolerance.output in _depend_on_neighbours(module) else slice(None)
                    a, b = expected[tolerance.output][rows], found[tolerance.output][rows]
                    gathered.setdefault(k, []).append(difference(tolerance, a, b, chip_size))
        for k, parts in gathered.items():
            report.differences.append(_summary(network.tolerances[k], kind, np.concatenate(parts)))
    return report


def _reference(module: nn.Module, value: F32, names: Iterable[str]) -> tuple[dict[str, F32], NDArray[np.bool_]]:
    """Torch's outputs by name, and which inputs are free of near-ties."""
    margins: list[torch.Tensor] = []
    with _neighbour_margins(module, margins), torch.inference_mode():
        outputs = module(torch.from_numpy(value))
    if isinstance(outputs, torch.Tensor):
        outputs = (outputs,)
    steady = margins[0].numpy() > TIE_MARGIN if margins else np.ones(len(value), bool)
    return {n: o.numpy() for n, o in zip(names, outputs, strict=False)}, steady


@contextlib.contextmanager
def _neighbour_margins(module: nn.Module, margins: list[torch.Tensor]) -> Iterator[None]:
    """Append the margins of the faces that a multitask network sees inside the block to `margins`."""
    if not isinstance(module, Multitask):
        yield
        return
    k = module.config.knn_k

    def note(fgg: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        margins.append(neighbour_margin(inputs[0], k))

    handle = module.fgg.register_forward_pre_hook(note)
    try:
        yield
    finally:
        handle.remove()


def steadiest(module: nn.Module, value: F32) -> int:
    """Which input of a batch is furthest from a tie of neighbours (the first, for a network without them)."""
    if not isinstance(module, Multitask):
        return 0
    margins: list[torch.Tensor] = []
    with _neighbour_margins(module, margins), torch.inference_mode():
        module(torch.from_numpy(value))
    return int(margins[0].argmax())


def neighbour_margin(v: torch.Tensor, k: int) -> torch.Tensor:
    """Least gap, per face, between the last cosine that makes an AU's top k+1 and the first that does not."""
    v_unit = unit(v)
    ranked = v_unit.matmul(v_unit.transpose(1, 2)).sort(dim=-1, descending=True).values
    return (ranked[..., k] - ranked[..., k + 1]).amin(dim=-1)


def _depend_on_neighbours(module: nn.Module) -> tuple[str, ...]:
    if not isinstance(module, Multitask):
        return ()
    return ("au", "emotion", "valence_arousal") if module.config.emotion_use_au_prob else ("au",)


def _summary(tolerance: Tolerance, kind: str, values: NDArray[np.float64]) -> Difference:
    empty = not len(values)
    return Difference(
        output=tolerance.output,
        task=tolerance.task,
        unit=UNITS.get(tolerance.task, ""),
        kind=kind,
        limit=tolerance.limit,
        max=0.0 if empty else float(np.max(values)),
        p99=0.0 if empty else float(np.percentile(values, 99)),
        mean=0.0 if empty else float(np.mean(values)),
        values=len(values),
    )

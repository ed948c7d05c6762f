"""Verification: does the artefact answer what the torch network answers, on faces and noise, in the task's own unit?

The gate of a build, and `fexport verify` later. A difference beyond the contract's gate, a value that is not finite, or
an output of which nothing was compared on faces, fails. Some networks decide between candidates (the action-unit
graph picks each AU's nearest neighbours): where two tie to within round-off the pick may flip and values jump, on any
pair of runtimes. Such faces are left out of the outputs that depend on the pick, and counted in the report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fexport.modules import Loaded
from fexport.samples import Cases
from fexport.session import Case, Runner
from fexruntime.arrays import F32, F64
from fexruntime.contracts import Gate, gates_of
from fexruntime.contracts.precision import FULL
from fexruntime.differences import UNITS, gate_difference
from fexruntime.errors import VerificationError
from fexruntime.manifest import ANY, gate_name

TIE_MARGIN = 1e-5
"""Candidates whose likeness differs by less may swap places between runtimes in fp32."""
NOISE = "noise"
DECISIVE = "faces"
"""The kind of input on which every output has to be compared; the others are there for corners."""


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
    """How many were compared; with 0 the others say nothing."""
    by: str = "max"
    """Which of them has to be within the limit."""
    columns: tuple[int, ...] | None = None

    @property
    def gate(self) -> str:
        """The gate that it was held to, as a manifest's losses call it."""
        return gate_name(self.output, self.columns, self.task)

    @property
    def judged(self) -> float:
        """The difference that is held to the limit."""
        return self.max if self.by == "max" else self.p99

    @property
    def passed(self) -> bool:
        """Within the limit (NaN is not)."""
        return not self.values or bool(self.judged <= self.limit)


@dataclass(slots=True)
class Report:
    """What verifying one artefact of a network found."""

    network: str
    precision: str
    against: str
    outputs: tuple[str, ...]
    """Every output that has to be compared."""
    differences: list[Difference] = field(default_factory=list)
    not_finite: dict[str, int] = field(default_factory=dict)
    near_ties: int = 0
    inputs: int = 0
    target: str = ANY
    """What the artefact was made for."""

    @property
    def passed(self) -> bool:
        """Every difference within its limit, every value finite, and something compared for every output."""
        return not self.not_finite and not self.not_compared and all(d.passed for d in self.differences)

    @property
    def measured(self) -> bool:
        """Whether all that can be wrong is how far numbers are: every value finite, every output compared."""
        finite = all(np.isfinite(d.judged) for d in self.differences if d.values)
        return finite and not self.not_finite and not self.not_compared

    @property
    def not_compared(self) -> list[str]:
        """Outputs of which a gate had nothing to compare on faces, or for which there is no gate."""
        compared: dict[str, list[int]] = {}
        for d in self.differences:
            if d.kind == DECISIVE:
                compared.setdefault(d.output, []).append(d.values)
        return [name for name in self.outputs if not all(compared.get(name, [0]))] or (
            [] if self.outputs else ["anything"]
        )

    def as_json(self) -> dict[str, Any]:
        """The report as plain values."""
        rows = [asdict(d) | {"passed": d.passed} for d in self.differences]
        return {
            "network": self.network,
            "precision": self.precision,
            "against": self.against,
            "passed": self.passed,
            "inputs": self.inputs,
            "near_ties_left_out": self.near_ties,
            "outputs": list(self.outputs),
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
            value["precision"],
            value["against"],
            tuple(value["outputs"]),
            [Difference(**row | {"columns": row["columns"] and tuple(row["columns"])}) for row in rows],
            value["not_finite"],
            value["near_ties_left_out"],
            value["inputs"],
        )


def compare(
    loaded: Loaded,
    run: Runner,
    cases: Cases,
    crop_size: int,
    precision: str,
    against: str,
    limit: Callable[[Gate], float] = lambda gate: gate.limit,
) -> Report:
    """Hold `run` (an artefact) to the network's torch module on `cases`, by the contract's gates for that precision.

    `limit` is how far an artefact may be by a gate, where that is not the gate's own. Noise is no face: of a lower precision
    it is only asked that what it answers there is finite.
    Raises VerificationError if the artefact has other outputs than the network.
    """
    network = loaded.network
    gates = gates_of(network.name, precision)
    tied = loaded.recipe.tied_outputs(loaded.module)
    report = Report(network.name, precision, against, loaded.outputs)
    for kind, inputs in cases.items():
        gathered: dict[Gate, list[F64]] = {}
        for case in inputs:
            expected, steady = reference(loaded, case)
            found = run(case)
            if set(found) != set(expected):
                raise VerificationError(
                    f"{network.name} answers {', '.join(sorted(found))}; torch answers {', '.join(sorted(expected))}"
                )
            report.inputs += len(case[0])
            report.near_ties += int((~steady).sum())
            for name, value in found.items():
                bad = int((~np.isfinite(value)).sum())
                if bad:
                    report.not_finite[name] = report.not_finite.get(name, 0) + bad
            if precision != FULL and kind == NOISE:
                continue
            given = {t.name: array for t, array in zip(network.inputs, case, strict=True)}
            for gate in gates:
                if gate.output in expected:
                    rows = steady if gate.output in tied else slice(None)
                    gap = gate_difference(gate, expected, found, crop_size, given, rows)
                    gathered.setdefault(gate, []).append(gap)
        report.differences += [_summary(gate, limit(gate), kind, np.concatenate(p)) for gate, p in gathered.items()]
    return report


def reference(loaded: Loaded, case: Case) -> tuple[dict[str, F32], NDArray[np.bool_]]:
    """Torch's outputs by name, and which inputs are free of near-ties."""
    margins: list[torch.Tensor] = []
    with loaded.recipe.watch_ties(loaded.module, margins), torch.inference_mode():
        outputs = loaded.module(*(torch.from_numpy(array) for array in case))
    if isinstance(outputs, torch.Tensor):
        outputs = (outputs,)
    if len(outputs) != len(loaded.outputs):
        raise VerificationError(
            f"{loaded.network.name}'s module gives {len(outputs)} outputs; its row and checkpoint have "
            f"{len(loaded.outputs)}: {', '.join(loaded.outputs)}"
        )
    steady = margins[0].numpy() > TIE_MARGIN if margins else np.ones(len(case[0]), bool)
    return {n: o.numpy() for n, o in zip(loaded.outputs, outputs, strict=True)}, steady


def steadiest(loaded: Loaded, case: Case) -> int:
    """Which input of a batch is furthest from a tie (the first, for a network that has none)."""
    margins: list[torch.Tensor] = []
    with loaded.recipe.watch_ties(loaded.module, margins), torch.inference_mode():
        loaded.module(*(torch.from_numpy(array) for array in case))
    return int(margins[0].argmax()) if margins else 0


def ties(loaded: Loaded, cases: Sequence[Case]) -> tuple[list[NDArray[np.bool_]], tuple[str, ...]]:
    """(for each case, which of its inputs are free of near-ties; the outputs that jump at a tie), as `compare` counts them."""
    tied = loaded.recipe.tied_outputs(loaded.module)
    if not tied:  # torch need not run
        return [np.ones(len(case[0]), bool) for case in cases], ()
    return [reference(loaded, case)[1] for case in cases], tied


def _summary(gate: Gate, limit: float, kind: str, values: F64) -> Difference:
    empty = not len(values)
    return Difference(
        output=gate.output,
        task=gate.task,
        unit=UNITS.get(gate.task, ""),
        kind=kind,
        limit=limit,
        max=0.0 if empty else float(np.max(values)),
        p99=0.0 if empty else float(np.percentile(values, 99)),
        mean=0.0 if empty else float(np.mean(values)),
        values=len(values),
        by=gate.by,
        columns=gate.columns,
    )

"""What lowering each part of a network costs, in its heads' own units, and which parts to lower.

Parts are groups of nodes by the first steps of their names. Each is lowered alone and compared with the fp32 graph on faces;
its gain is the share of the network's multiplications that it does. The proposal adds parts by cost for gain, cheapest
first: every prefix of that order is a point of the front of speed against error, measured as a whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from fexcalibration.chips import Inputs
from fexcalibration.ranges import Range
from fexport import onnx_export, session, verify
from fexport.modules import Loaded
from fexport.onnx_graph import Graph
from fexport.precision import cast, magnitudes, quantise
from fexport.precision.lower import batches
from fexport.precision.plan import WEIGHTED, PrecisionPlan, plan_of
from fexruntime.contracts import Gate, Network, gates_of
from fexruntime.contracts.precision import FULL
from fexruntime.differences import gate_difference
from fexruntime.errors import InputError
from fexruntime.manifest import gate_name

Say = Callable[[str], None]
FRONT_POINTS = 8


@dataclass(frozen=True, slots=True)
class Cost:
    """What lowering some parts costs: by gate, the difference that it judges; the worst of those over their budgets."""

    parts: tuple[str, ...]
    share: float
    """Of the network's multiplications."""
    differences: Mapping[str, float]
    over_budget: float
    """Largest difference over its budget: 1 is just within."""
    worst_face: int
    """Which input differs most."""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """A network's parts, the dearest first, and the front: the first parts of the proposal, then more of them."""

    network: str
    precision: str
    faces: int
    parts: tuple[Cost, ...]
    front: tuple[Cost, ...]
    budgets: Mapping[str, float]
    near_ties: int
    """Inputs on which candidates tie to within round-off: left out of `tied`, as the gate of a build leaves them out."""
    tied: tuple[str, ...]
    """Outputs that jump at a tie."""

    @property
    def proposal(self) -> Cost | None:
        """The largest point of the front that is within every budget."""
        within = [c for c in self.front if c.over_budget <= 1.0]
        return max(within, key=lambda c: c.share) if within else None


def analyse(
    model: onnx.ModelProto,
    loaded: Loaded,
    crop_size: int,
    precision: str,
    cases: Sequence[Inputs],
    ranges: Mapping[str, Range],
    depth: int = 2,
    say: Say = lambda text: None,
) -> Sensitivity:
    """Lower every part of `model` (prepared, fp32) alone, then the cheapest together. `ranges` serve int8."""
    network = loaded.network
    reached = magnitudes.magnitudes(model, cases) if precision == "fp16" else None
    plan = plan_of(model, network.name, precision, reached)
    work = _multiplications(model, cases[0])
    members = _parts(model, plan, depth)
    outputs = {o.name for o in model.graph.output}
    gates = [g for g in gates_of(network.name, precision) if g.output in outputs]
    whole = batches(cases)
    run = session.onnx_runner(onnx_export.serialise(model))
    truth = [run(case) for case in whole]
    steady, tied = verify.ties(loaded, whole)
    if tied and not any(s.any() for s in steady):
        raise InputError(
            f"each of the {len(cases)} inputs of {network.name} is near a tie, where {', '.join(tied)} cannot be compared: give more pictures"
        )
    rows = {gate: steady if gate.output in tied else None for gate in gates}

    def cost(parts: Sequence[str]) -> Cost:
        chosen = {name for part in parts for name in members[part]}
        types = {n: (k if n in chosen else FULL) for n, k in plan.types.items()}
        lowered = _lowered(model, dataclasses.replace(plan, types=types), ranges)
        share = sum(work.get(n, 0.0) for n in chosen) / max(sum(work.values()), 1.0)
        return _cost(tuple(parts), share, lowered, network, crop_size, rows, whole, truth)

    single = []
    for k, part in enumerate(members):
        say(f"{part}, {k + 1} of {len(members)} parts")
        single.append(cost([part]))
    order = sorted(single, key=lambda c: c.over_budget / max(c.share, 1e-6))
    names = [c.parts[0] for c in order]
    front = []
    for count in sorted({round(n) for n in np.linspace(1, len(names), min(FRONT_POINTS, len(names)))}):
        say(f"the {count} cheapest parts together")
        front.append(cost(names[:count]))
    budgets = {gate_name(g.output, g.columns, g.task): g.limit for g in gates}
    dearest = tuple(sorted(single, key=lambda c: -c.over_budget))
    near_ties = sum(int((~s).sum()) for s in steady)
    return Sensitivity(network.name, precision, len(cases), dearest, tuple(front), budgets, near_ties, tied)


def _lowered(model: onnx.ModelProto, plan: PrecisionPlan, ranges: Mapping[str, Range]) -> onnx.ModelProto:
    return quantise.quantised(model, plan, ranges) if plan.precision == "int8" else cast.lowered(model, plan)


def _cost(
    parts: tuple[str, ...],
    share: float,
    lowered: onnx.ModelProto,
    network: Network,
    crop_size: int,
    gates: Mapping[Gate, Sequence[NDArray[np.bool_]] | None],
    cases: Sequence[session.Case],
    truth: Sequence[Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]],
) -> Cost:
    """`gates` has, for a gate of an output that jumps at ties, which inputs of each case have none."""
    run = session.onnx_runner(onnx_export.serialise(lowered))
    differences: dict[str, float] = {}
    worst, worst_face, seen = -1.0, 0, 0
    gathered: dict[Gate, list[float]] = {}
    for k, (case, expected) in enumerate(zip(cases, truth, strict=True)):
        found = run(case)
        for row in range(len(case[0])):
            one = slice(row, row + 1)
            given = {t.name: a[one] for t, a in zip(network.inputs, case, strict=True)}
            a, b = ({n: v[one] for n, v in answer.items()} for answer in (expected, found))
            for gate, steady in gates.items():
                if steady is not None and not steady[k][row]:
                    continue
                gap = gate_difference(gate, a, b, crop_size, given)
                gathered.setdefault(gate, []).extend(gap.tolist())
                over = float(np.nan_to_num(gap, nan=np.inf).max(initial=0.0)) / max(gate.limit, 1e-9)
                if over > worst:
                    worst, worst_face = over, seen
            seen += 1
    over_budget = 0.0
    for gate, values in gathered.items():
        judged = float(np.max(values) if gate.by == "max" else np.percentile(values, 99)) if values else 0.0
        judged = (
            judged if np.isfinite(judged) else np.inf
        )  # what is not a number is no answer: the dearest part there is
        differences[gate_name(gate.output, gate.columns, gate.task)] = judged
        over_budget = max(over_budget, judged / gate.limit if gate.limit else 2.0 * judged)
    return Cost(parts, share, differences, over_budget, worst_face)


def _parts(model: onnx.ModelProto, plan: PrecisionPlan, depth: int) -> dict[str, list[str]]:
    """Lowered nodes by the first steps of their names, in the graph's order; only parts that have a layer with weights."""
    weighted = {n.name for n in model.graph.node if n.op_type in WEIGHTED}
    found: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.name in plan.lowered:
            found.setdefault("/".join(node.name.split("/")[: depth + 1]), []).append(node.name)
    return {part: names for part, names in found.items() if weighted & set(names)}


def _multiplications(model: onnx.ModelProto, case: Inputs) -> dict[str, float]:
    """By node with weights: multiplications for this input (weights times positions)."""
    graph = Graph(model)
    layers = [n for n in model.graph.node if n.op_type in WEIGHTED]
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    known = {o.name for o in watched.graph.output}
    for node in layers:
        if node.output[0] not in known:
            watched.graph.output.append(
                onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None)
            )
    answers = session.onnx_runner(onnx_export.serialise(watched))(case)
    work = {}
    for node in layers:
        weights = next((v for v in (graph.value(name) for name in node.input[:2]) if v is not None), None)
        out = answers[node.output[0]]
        if weights is None:
            continue
        if node.op_type in ("Conv", "ConvTranspose"):
            positions = out.size / out.shape[1]
            work[node.name] = float(positions * weights.size)
        else:
            work[node.name] = float(out.size / out.shape[-1] * weights.size)
    return work

"""A network in a lower precision: from the same weights again, planned, lowered, held to torch on faces it never saw."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from fexcalibration import METHODS
from fexcalibration import ranges as calibrated
from fexcalibration.chips import Inputs
from fexport import onnx_passes, session, steps, tensorrt_lint, verify
from fexport.modules import Loaded
from fexport.onnx_passes.prelu_as_min import prelu_as_min
from fexport.plan import NCNN, OPENVINO, TENSORRT, Part
from fexport.precision import cast, magnitudes, quantise, smooth, tensorrt
from fexport.precision.plan import PrecisionPlan, plan_of, plan_of_weights
from fexruntime.bundle import BundleNetwork
from fexruntime.contracts.precision import INT8_WEIGHTS_ALONE, ISLANDS
from fexruntime.engines import FLAGGED
from fexruntime.errors import InputError
from fexruntime.manifest import ANY, FileRecord, NetworkRecord, Variant

Say = Callable[[str], None]
HELD_OUT = "held-out"
"""Kind of the inputs that came from the caller's own pictures, and that nothing was measured on."""
_BATCH = 8
_UNSUITABLE = {
    "fp16": ("float16-constants", "channels-in-blocks", "prelu-as-sum"),
    "bf16": ("float16-constants", "channels-in-blocks", "prelu-as-sum"),
    "int8": ("float16-constants", "channels-in-blocks", "channels-in-conv", "prelu-as-sum", "prelu-as-depthwise"),
}


@dataclass(frozen=True, slots=True)
class Faces:
    """What a network was given on the caller's pictures (nothing, where none were given)."""

    calibration: Sequence[Inputs] = ()
    held_out: Sequence[Inputs] = ()


@dataclass(frozen=True, slots=True)
class _Graph:
    """A graph, its plan, and how many places each pass rewrote."""

    model: onnx.ModelProto
    plan: PrecisionPlan
    passes: dict[str, int]


@dataclass(frozen=True, slots=True)
class Lowering:
    """One network on its way to a lower precision; `known` and `method` are int8's ranges."""

    part: Part
    loaded: Loaded
    plain: onnx.ModelProto
    precision: str
    faces: Faces
    known: calibrated.Ranges | None = None
    method: str = METHODS[0]

    @property
    def name(self) -> str:
        """The network's name."""
        return self.loaded.network.name

    def ranges(self) -> dict[str, calibrated.Range]:
        """Of each tensor that int8 needs one of."""
        assert self.known is not None  # int8 is not begun without
        return self.known.by(self.method)

    def of_weights_alone(self, target: str) -> bool:
        """Whether int8 is of weights alone there."""
        return self.precision == "int8" and target in INT8_WEIGHTS_ALONE.get(self.name, ())

    def source(self, target: str = ANY) -> _Graph:
        """What is lowered for `target`: fp32, with a plan."""
        model, passes = prepared(self.plain, self.precision, target)
        plan = self.plan_of(model, self.precision)
        if self.known is not None:
            evened = smooth.smooth(model, plan, self.known.channels)
            passes |= {"even-channels": evened} if evened else {}
        return _Graph(model, plan, passes)

    def plan_of(self, model: onnx.ModelProto, precision: str) -> PrecisionPlan:
        """The plan of a graph of this network."""
        if precision != "fp16":
            return plan_of(model, self.name, precision)
        known = _apart(steps.cases_of(self.loaded, self.part.choice)[verify.DECISIVE])
        reached = magnitudes.magnitudes(model, [*known[:-1], *self.faces.calibration])
        plan = plan_of(model, self.name, precision, reached)
        magnitudes.check_range(model, plan, magnitudes.magnitudes(model, [known[-1], *self.faces.held_out]))
        return plan

    def for_any(self, source: _Graph) -> _Graph:
        """The graph that every engine reads."""
        if self.known is None:
            return dataclasses.replace(source, model=cast.lowered(source.model, source.plan))
        if self.of_weights_alone(ANY):
            model = copy.deepcopy(self.plain)
            passes = onnx_passes.apply(model, [n for n in onnx_passes.FOR_ANY if n != "float16-constants"])
            _with_names(model)
            model, stored = quantise.with_int8_weights(model)
            return _Graph(model, plan_of_weights(model, stored), passes)
        return dataclasses.replace(source, model=quantise.quantised(source.model, source.plan, self.ranges()))

    def for_openvino(self) -> _Graph | None:
        """OpenVINO's own graph, of a network that runs faster there in another form. In float16 it computes nothing: none."""
        if self.precision == "fp16" or self.of_weights_alone(OPENVINO):
            return None
        source = self.source(OPENVINO)
        if not onnx_passes.is_worth_its_own(source.model, source.passes, self.precision):
            return None
        if self.known is None:
            return dataclasses.replace(source, model=cast.lowered(source.model, source.plan))
        # what follows a convolution (its slopes, GELU, the next layer's rounding) is done in its kernel, on floats
        floats = (*quantise.PRODUCTS, "Conv")
        model = quantise.quantised(source.model, source.plan, self.ranges(), answers_floats=floats)
        return dataclasses.replace(source, model=model)

    def for_tensorrt(self, source: _Graph, for_any: _Graph) -> Iterator[tuple[str, str, _Graph | None]]:
        """(target, version, graph): one that says its types itself, and one whose precision is a flag (None: it has none)."""
        if self.known is None:
            yield TENSORRT, "10.3", for_any
            yield FLAGGED, "8.6", source if self.precision == "fp16" else None
            return
        both = tensorrt.mixed(source.plan, self.plan_of(source.model, "fp16"))
        typed = tensorrt.typed_int8(source.model, source.plan, both, self.ranges())
        yield TENSORRT, "10.3", _Graph(typed, both, source.passes)
        flagged = quantise.quantised(source.model, source.plan, self.ranges(), symmetric=True, float_weights=True)
        yield FLAGGED, "8.6", _Graph(flagged, both, source.passes)


def prepared(plain: onnx.ModelProto, precision: str, target: str = ANY) -> tuple[onnx.ModelProto, dict[str, int]]:
    """The exported graph as it is lowered from: rewritten, its constants in one place, every node with a name of its own."""
    model = copy.deepcopy(plain)
    names = onnx_passes.FOR_OPENVINO if target == OPENVINO else onnx_passes.FOR_ANY
    done = onnx_passes.apply(model, [n for n in names if n not in _UNSUITABLE[precision]])
    if precision == "int8" and target != OPENVINO:  # which has PReLU in its convolutions' kernels
        done |= {"prelu-as-min": count} if (count := prelu_as_min(model)) else {}
    _with_names(model)
    return model, done


def _with_names(model: onnx.ModelProto) -> None:
    """Constants in one place, every node with a name of its own."""
    cast.hoist_constants(model)
    taken: set[str] = set()
    for node in model.graph.node:
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}:{node.output[0]}"
        taken.add(node.name)


def can_be_lowered(network: str) -> bool:
    """Whether there is a row that says how."""
    return network in ISLANDS


def check_faces(loaded: Loaded, faces: Faces) -> None:
    """InputError if a network was given nothing on the caller's pictures."""
    if not faces.calibration:
        raise InputError(
            f"no face reached {loaded.network.name} on these pictures: give some whose faces the whole pipeline reads"
        )


def measured_ranges(plain: onnx.ModelProto, loaded: Loaded, faces: Faces, sha256: str, say: Say) -> calibrated.Ranges:
    """Ranges of everything that int8 would need of this network, of its plain graph."""
    check_faces(loaded, faces)
    model, _ = prepared(plain, "int8")
    plan = plan_of(model, loaded.network.name, "int8")
    channels = {n: [float(f"{v:.6g}") for v in r] for n, r in smooth.uneven(model, plan, faces.calibration).items()}
    smooth.smooth(model, plan, channels)
    names = quantise.tensors_to_calibrate(model, plan)
    found = calibrated.measure(model, faces.calibration, names, say)
    return calibrated.Ranges(loaded.network.name, digests_of(loaded), len(faces.calibration), sha256, found, channels)


def digests_of(loaded: Loaded) -> tuple[str, ...]:
    """What tells one set of weights from another: their digests, the seed of made-up ones."""
    return tuple(w.sha256 or f"stand-in {w.seed}" for w in loaded.records)


def lower(
    staging: Path,
    role: str,
    part: Part,
    loaded: Loaded,
    plain: onnx.ModelProto,
    record: NetworkRecord,
    precision: str,
    targets: tuple[str, ...],
    faces: Faces,
    ranges: calibrated.Ranges | None,
    method: str,
    progress: steps.Progress,
) -> steps.Made:
    """Replace a network's artefacts by ones of a lower precision, verified by that precision's budgets."""
    progress(role, f"lowering {loaded.network.name} to {precision}")
    known = check_ranges(loaded, ranges) if precision == "int8" else None
    lowering = Lowering(part, loaded, plain, precision, faces, known, method)

    def artefact(graph: _Graph, target: str, verified_on: tuple[str, ...], plan: FileRecord) -> Variant:
        return steps.graph_artefact(
            staging, role, part, loaded, record.inputs, graph.model, precision, target, verified_on, plan
        )

    def planned(graph: _Graph, target: str = "") -> FileRecord:
        name = ".".join((role, precision, *([target] if target else ()), "plan.json"))
        return steps.write(staging, name, graph.plan.as_json())

    source = lowering.source()
    for_any = lowering.for_any(source)
    passes = for_any.passes
    plan = planned(for_any)
    variants = [artefact(for_any, ANY, steps.verified_on(targets), plan)]
    if OPENVINO in targets and (own := lowering.for_openvino()) is not None:
        own_variant = artefact(own, OPENVINO, (OPENVINO,), planned(own, OPENVINO))
        variants = steps.beside(variants[0], own_variant)
        passes = passes | steps.named_for(own.passes, OPENVINO)
    not_held = {NCNN: f"its {precision} artefact is an ONNX graph"} if NCNN in targets else {}
    for target, version, graph in lowering.for_tensorrt(source, for_any) if TENSORRT in targets else ():
        if graph is None:
            not_held[target] = f"TensorRT {version} has no {precision}"
        elif found := tensorrt_lint.lint(graph.model, version):
            not_held[target] = str(found[0])
            progress(role, f"not for TensorRT {version}: {found[0]}")
        elif graph is not for_any:
            its_plan = plan if graph.plan is for_any.plan else planned(graph, TENSORRT)
            variants.append(artefact(graph, target, targets[:1], its_plan))
            passes = passes | (steps.named_for(graph.passes, TENSORRT) if graph.passes != for_any.passes else {})
    made = dataclasses.replace(record, variants=tuple(variants), passes=passes, not_held=not_held)
    progress(role, f"verifying {loaded.network.name} in {precision}")
    network = BundleNetwork(role, part.stage, part.choice, loaded.network, made, staging)
    made = steps.with_own_answers(network, part, loaded)
    network = dataclasses.replace(network, record=made)
    reports = steps.compare_artefacts(network, loaded, more={HELD_OUT: batches(faces.held_out)})
    return steps.Made(made, reports)


def with_losses(made: steps.Made) -> steps.Made:
    """The same, with what is beyond its budget written down, each artefact's own; what is not finite, or not compared, has no
    place there, and stays a failure. Reports keep their budgets.
    """
    variants = []
    for variant in made.record.variants:
        losses: dict[str, float] = {}
        for report in made.reports.values():
            if report.target != variant.target:
                continue
            for d in report.differences:
                if not d.passed and np.isfinite(d.judged):
                    losses[d.gate] = max(losses.get(d.gate, 0.0), d.judged)
        variants.append(dataclasses.replace(variant, loss=losses))
    return steps.Made(dataclasses.replace(made.record, variants=tuple(variants)), made.reports)


def batches(inputs: Sequence[Inputs]) -> list[session.Case]:
    """Single inputs as cases of several, those of one shape together."""
    found: dict[tuple[tuple[int, ...], ...], list[Inputs]] = {}
    for one in inputs:
        found.setdefault(tuple(a.shape for a in one), []).append(one)
    return [
        tuple(np.concatenate(arrays) for arrays in zip(*group[start : start + _BATCH], strict=True))
        for group in found.values()
        for start in range(0, len(group), _BATCH)
    ]


def _apart(cases: Sequence[session.Case]) -> list[session.Case]:
    """The different inputs of cases, one in each."""
    found: dict[bytes, session.Case] = {}
    for case in cases:
        for row in range(len(case[0])):
            one = tuple(np.ascontiguousarray(a[row : row + 1]) for a in case)
            found.setdefault(b"".join(a.tobytes() for a in one), one)
    return list(found.values())


def check_ranges(loaded: Loaded, ranges: calibrated.Ranges | None) -> calibrated.Ranges:
    """These ranges; InputError if there are none, or they are of other weights."""
    name = loaded.network.name
    if ranges is None:
        raise InputError(
            f"there are no ranges for {name}: make a file that has it, fexport calibrate FILE PICTURES --bundle BUNDLE, of a bundle with "
            "the same networks"
        )
    if ranges.weights != digests_of(loaded):
        raise InputError(f"the ranges of {name} were measured on other weights: calibrate again, with these")
    return ranges

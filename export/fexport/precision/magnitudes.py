"""How large the values of a graph become: every tensor's largest |value| on calibration faces, in fp32.

ONNX Runtime computes float16's sums in fp32 on a CPU, so a sum that passes float16's range does not show there: it is found
here. A sum of squares is a tensor of its own where a pass made it one; for the reductions that hide theirs it is the root's square.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper

from fexport import onnx_graph
from fexport.precision.plan import PrecisionPlan
from fexport.session import Case, onnx_runner
from fexruntime.contracts.precision import FP16_LARGEST
from fexruntime.errors import VerificationError

_HIDDEN_SQUARES = ("ReduceL2",)
SQUARES = ".squares"
"""Ending of the name under which a reduction's hidden sum of squares is told."""


def magnitudes(model: onnx.ModelProto, cases: Iterable[Case]) -> dict[str, float]:
    """Largest |value| of every float tensor of `model` over `cases`; inf for one that is not finite."""
    watched = copy.deepcopy(model)
    outputs = {o.name for o in watched.graph.output}
    inferred = onnx.shape_inference.infer_shapes(watched)
    names = [v.name for v in inferred.graph.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT]
    made = {name for node in watched.graph.node for name in node.output}
    for name in (n for n in names if n in made and n not in outputs):
        watched.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    run = onnx_runner(watched.SerializeToString())
    inputs = [i.name for i in model.graph.input]
    found: dict[str, float] = {}
    for case in cases:
        for row in range(len(case[0])):  # one at a time: every tensor of a network is held at once
            one = tuple(array[row : row + 1] for array in case)
            for name, value in (dict(zip(inputs, one, strict=True)) | run(one)).items():
                if value.size:
                    largest = float(np.abs(value).max())
                    found[name] = max(found.get(name, 0.0), largest if np.isfinite(largest) else float("inf"))
    for node in model.graph.node:
        if node.op_type in _HIDDEN_SQUARES and node.output[0] in found:
            found[node.output[0] + SQUARES] = found[node.output[0]] ** 2
    return found


def check_range(model: onnx.ModelProto, plan: PrecisionPlan, found: dict[str, float]) -> None:
    """VerificationError if a node that the plan computes in float16 passes its range on the faces that were measured."""
    for node in onnx_graph.Graph(model).proto.node:
        if node.name not in plan.lowered or plan.precision != "fp16":
            continue
        for name in (*node.input, *node.output, *(f"{o}{SQUARES}" for o in node.output)):
            if found.get(name, 0.0) > FP16_LARGEST:
                raise VerificationError(
                    f"{node.op_type} {node.name} would overflow in float16: {name} reaches {found[name]:.3g}, float16 ends "
                    f"at {FP16_LARGEST:.0f}; keep it in fp32"
                )

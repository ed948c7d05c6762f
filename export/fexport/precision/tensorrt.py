"""Graphs for TensorRT in a lower precision: where types are the graph's (10 and later), and where they are a flag (8.6).

Strongly typed, an engine computes what the graph says: float16 with casts, or for int8 QuantizeLinear and DequantizeLinear with
float16 scales (opset 19) and float16 between them; with float32 scales everything that is not int8 would be fp32. Weakly
typed, it is given the fp32 graph (or int8's with float32 scales, opset 17) and half precision as a flag; what stays fp32 is the
plan's "pins".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper, version_converter

from fexport import onnx_graph
from fexport.precision import cast, quantise
from fexport.precision.plan import PrecisionPlan
from fexruntime.arrays import F32
from fexruntime.contracts.precision import FULL

TYPED_OPSET, TYPED_IR = 19, 9
"""The first opset whose quantisers take float16 scales, and its IR."""
_QUANTISERS = ("QuantizeLinear", "DequantizeLinear")
_SMALLEST = np.float32(2.0**-24)
"""float16's smallest number above 0."""


def mixed(int8: PrecisionPlan, fp16: PrecisionPlan) -> PrecisionPlan:
    """int8's plan, in which what is not int8 is float16 where that may be."""
    types, why = dict(int8.types), dict(int8.why)
    for name, kind in fp16.types.items():
        if types.get(name, FULL) == FULL:  # nodes that were put in since then have none
            types[name], why[name] = kind, fp16.why[name]
    return dataclasses.replace(int8, types=types, why=why, pins=fp16.pins)


def typed_int8(
    model: onnx.ModelProto, plan: PrecisionPlan, both: PrecisionPlan, ranges: Mapping[str, quantise.Range]
) -> onnx.ModelProto:
    """`model` (prepared, fp32) with int8 as `plan` says and float16 as `both` does; VerificationError if that is no valid graph."""
    made = quantise.quantised(model, plan, ranges, symmetric=True)
    made = version_converter.convert_version(made, TYPED_OPSET)
    made.ir_version = TYPED_IR
    del made.graph.value_info[:]  # the converter's, of before types change
    _fit_scales(made)
    types = {
        n.name: "fp16" if n.op_type in _QUANTISERS or both.types.get(n.name, FULL) != FULL else FULL
        for n in made.graph.node
    }
    return cast.lowered(made, PrecisionPlan("fp16", types, {}))


def _fit_scales(model: onnx.ModelProto) -> None:
    """Scales as float16 will have them, and int8 weights rounded by those."""
    graph = onnx_graph.Graph(model)
    tensors = {t.name: t for t in model.graph.initializer}
    done: dict[str, F32] = {}
    for node in model.graph.node:
        if node.op_type not in _QUANTISERS:
            continue
        name = node.input[1]
        before = graph.value(name)
        assert before is not None  # the quantiser's are constants
        if name not in done:
            done[name] = np.maximum(before.astype(np.float32), _SMALLEST).astype(np.float16).astype(np.float32)
        after, weight = done[name], graph.value(node.input[0])
        if weight is None or weight.dtype != np.int8:
            continue
        axis = int(onnx_graph.attribute(node, "axis", 1))
        shape = [-1 if k == axis and after.size > 1 else 1 for k in range(weight.ndim)]
        again = np.rint(weight * (before.reshape(shape) / after.reshape(shape)))
        tensors[node.input[0]].CopyFrom(
            numpy_helper.from_array(np.clip(again, -127, 127).astype(np.int8), node.input[0])
        )
    for name, scale in done.items():
        tensors[name].CopyFrom(numpy_helper.from_array(scale, name))

"""The cast pass: an fp32 graph -> one whose planned nodes compute in float16, or whose weights are stored in bfloat16.

Inputs and outputs stay fp32; casts stand where types change, once a tensor. Opset 17 stays.

bfloat16 is stored, not typed: `Conv` takes it from opset 22 on, and ONNX Runtime's CPU has no kernels for it. The graph holds
bfloat16 weights behind casts, ONNX Runtime computes on them in fp32, and OpenVINO computes in bfloat16 where the plan says so.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fexport import onnx_graph
from fexport.precision.plan import PrecisionPlan
from fexruntime.contracts.precision import FP16_LARGEST
from fexruntime.errors import VerificationError

STORED = 4096
"""Weights with at least this many values are stored in the low type though fp32 nodes read them: they are cast when loaded."""
_FLOAT_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_KEEPS_FP32 = {"Resize": (1, 2)}
"""Inputs that an operator takes in fp32 whatever its type."""


def lowered(model: onnx.ModelProto, plan: PrecisionPlan) -> onnx.ModelProto:
    """A copy of `model` as the plan says. Raises VerificationError if it would not be a valid graph."""
    model = copy.deepcopy(model)
    hoist_constants(model)
    if plan.precision == "fp16":
        _retype(model, plan)
    _store_weights(model, plan)
    onnx_graph.tidy(model)
    onnx_graph.check(model)
    return model


def hoist_constants(model: onnx.ModelProto) -> None:
    """Constant nodes, and Identity nodes on constants, become initialisers: a type is changed in one place."""
    graph = onnx_graph.Graph(model)
    gone = []
    for node in graph.proto.node:
        if node.op_type in ("Constant", "Identity") and node.output[0] not in graph.outputs:
            value = graph.value(node.output[0])
            if value is not None:
                graph.add_initialiser(node.output[0], value)
                gone.append(node.output[0])
    kept = [n for n in graph.proto.node if n.output[0] not in gone]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _retype(model: onnx.ModelProto, plan: PrecisionPlan) -> None:
    low = _FLOAT_TYPES[plan.precision]
    floats = _float_tensors(model)
    weights = {t.name: t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}
    outputs = {o.name for o in model.graph.output}
    is_low: dict[str, bool] = {}  # by tensor: the type that its maker gives it
    cast: dict[tuple[str, bool], str] = {}
    nodes: list[onnx.NodeProto] = []

    def wanted(name: str, as_low: bool) -> str:
        """The name under which a tensor is to be had in that type."""
        if is_low.get(name, False) == as_low:
            return name
        if (name, as_low) not in cast:
            cast[name, as_low] = f"{name}.as_{plan.precision if as_low else 'fp32'}"
            if name in weights:
                model.graph.initializer.append(_as_type(weights[name], cast[name, as_low], plan.precision))
            else:
                nodes.append(_cast(name, cast[name, as_low], low if as_low else TensorProto.FLOAT))
        return cast[name, as_low]

    for node in model.graph.node:
        here = node.name in plan.lowered
        for i, name in enumerate(node.input):
            if name in floats:
                node.input[i] = wanted(name, here and i not in _KEEPS_FP32.get(node.op_type, ()))
        nodes.append(node)
        for i, name in enumerate(node.output):
            if name not in floats or not here:
                continue
            if name in outputs:  # the graph's edge is fp32
                node.output[i] = f"{name}.low"
                nodes.append(_cast(f"{name}.low", name, TensorProto.FLOAT))
                is_low[f"{name}.low"] = True
            else:
                is_low[name] = True
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _store_weights(model: onnx.ModelProto, plan: PrecisionPlan) -> None:
    """Large fp32 weights -> the low type, and a cast behind each."""
    casts = []
    readers = [name for node in model.graph.node for name in node.input]
    for tensor in list(model.graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or int(np.prod(tensor.dims)) < STORED or tensor.name not in readers:
            continue
        if plan.precision == "fp16" and np.abs(numpy_helper.to_array(tensor)).max() > FP16_LARGEST:
            continue
        stored = _as_type(tensor, f"{tensor.name}.stored", plan.precision)
        casts.append(_cast(stored.name, tensor.name, TensorProto.FLOAT))
        model.graph.initializer.remove(tensor)
        model.graph.initializer.append(stored)
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _as_type(tensor: TensorProto, name: str, precision: str) -> TensorProto:
    value = numpy_helper.to_array(tensor)
    if precision == "fp16":
        if np.abs(value).max(initial=0.0) > FP16_LARGEST:
            raise VerificationError(
                f"the constant {tensor.name} reaches {np.abs(value).max():.3g}: float16 ends at {FP16_LARGEST:.0f}"
            )
        return numpy_helper.from_array(value.astype(np.float16), name)
    # round to nearest, ties to even, on the upper half of the bits
    bits = value.astype(np.float32).view(np.uint32)
    upper = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return helper.make_tensor(name, TensorProto.BFLOAT16, value.shape, upper.tobytes(), raw=True)


def _cast(source: str, target: str, kind: Any) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}/cast", to=kind)


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    inferred = onnx.shape_inference.infer_shapes(model)
    values = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    found = {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    return found | {t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}

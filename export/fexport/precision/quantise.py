"""int8 graphs: QuantizeLinear and DequantizeLinear about the planned operators, with scales from calibrated ranges.

Weights are symmetric, a scale a channel. Activations: unsigned with a zero point for CPUs (U8S8, which ONNX Runtime and
OpenVINO fuse into VNNI's products), symmetric and signed for TensorRT (S8S8). Both come from the same ranges. Where int8 is no
faster the weights alone are int8.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import onnx
from onnx import TensorProto, helper

from fexport import onnx_graph
from fexport.precision.cast import STORED
from fexport.precision.plan import PrecisionPlan
from fexruntime.errors import VerificationError

Range = tuple[float, float]
PRODUCTS = ("MatMul", "Gemm")
"""ONNX Runtime and OpenVINO have products of int8 that answer floats: one rounding and two passes less, where an fp32 node reads them."""


def tensors_to_calibrate(
    model: onnx.ModelProto, plan: PrecisionPlan, answers_floats: tuple[str, ...] = ()
) -> list[str]:
    """Names of the tensors that need a range: what the planned nodes read and give, constants left out.

    What operators of `answers_floats` give needs none, unless a planned node reads it.
    """
    constants = {t.name for t in model.graph.initializer}
    constants |= {o for n in model.graph.node if n.op_type == "Constant" for o in n.output}
    floats = _floats(model)
    found: dict[str, None] = {}
    for node in model.graph.node:
        if node.name in plan.lowered:
            for name in (*node.input, *(() if node.op_type in answers_floats else node.output)):
                if name and name not in constants and name in floats:
                    found[name] = None
    return list(found)


def quantised(
    model: onnx.ModelProto,
    plan: PrecisionPlan,
    ranges: Mapping[str, Range],
    symmetric: bool = False,
    float_weights: bool = False,
    answers_floats: tuple[str, ...] = PRODUCTS,
) -> onnx.ModelProto:
    """A copy of `model` whose planned nodes are done in int8. `symmetric`: activations too, and biases not at all, as TensorRT
    wants them. `float_weights`: weights stay float32 and are quantised in the graph, as TensorRT 8.6 wants them.
    `answers_floats`: operators whose results are rounded to int8 for int8 readers alone; `symmetric` ones have none.

    Raises VerificationError if a planned tensor has no range.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    needed = tensors_to_calibrate(model, plan, () if symmetric else answers_floats)
    lacking = [name for name in needed if name not in ranges]
    if lacking:
        raise VerificationError(f"{lacking[0]} has no calibrated range ({len(lacking)} tensors have none)")
    model = copy.deepcopy(model)
    operators = sorted({n.op_type for n in model.graph.node if n.name in plan.lowered})
    excluded = [n.name for n in model.graph.node if n.op_type in operators and n.name not in plan.lowered]
    data = TensorsData(
        CalibrationMethod.MinMax, {n: (np.float32(low), np.float32(high)) for n, (low, high) in ranges.items()}
    )
    activations = QuantType.QInt8 if symmetric else QuantType.QUInt8
    options: dict[str, object] = {
        "WeightSymmetric": True,
        "ActivationSymmetric": symmetric,
        "QuantizeBias": not symmetric,
        "AddQDQPairToWeight": float_weights,
    }
    if not symmetric:
        options["OpTypesToExcludeOutputQuantization"] = list(answers_floats)
    with _quietly():
        quantiser = QDQQuantizer(
            model, True, False, QuantType.QInt8, activations, data, [], excluded, operators, options
        )
        quantiser.quantize_model()
    made: onnx.ModelProto = quantiser.model.model
    _spare_fp32_nodes(made, plan)
    made.producer_name, made.producer_version = "fexport", ""
    onnx_graph.tidy(made)
    onnx_graph.check(made)
    return made


def with_int8_weights(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """A copy of `model` whose large weights are int8, a symmetric scale an output channel, and the names of the nodes that they
    are of. What computes is fp32.

    A Cast and a Mul stand behind each: engines fold them when they load, and the graph is theirs as if nothing had been done.
    DequantizeLinear they keep, for kernels of int8.
    """
    model = copy.deepcopy(model)
    graph = onnx_graph.Graph(model)
    wide: dict[str, str] = {}
    new: list[onnx.NodeProto] = []
    names = []
    for node in graph.proto.node:
        if node.op_type not in ("Conv", *PRODUCTS) or onnx_graph.attribute(node, "group", 1) != 1:
            continue
        weights, name = graph.value(node.input[1]), node.input[1]
        if weights is None or weights.size < STORED:
            continue
        names.append(node.name)
        if name not in wide:
            wide[name] = f"{name}.wide"
            rows_are_outputs = node.op_type == "Conv" or onnx_graph.attribute(node, "transB", 0)
            outputs = 0 if rows_are_outputs else weights.ndim - 1
            others = tuple(axis for axis in range(weights.ndim) if axis != outputs)
            scale = np.maximum(np.abs(weights).max(axis=others, keepdims=True) / 127, np.finfo(np.float32).tiny)
            values = np.clip(np.rint(weights / scale), -127, 127).astype(np.int8)
            stored = graph.add_initialiser(f"{name}.int8", values)
            by = graph.add_initialiser(f"{name}.scale", scale.astype(np.float32))
            new.append(helper.make_node("Cast", [stored], [f"{name}.cast"], f"{name}/cast", to=TensorProto.FLOAT))
            new.append(helper.make_node("Mul", [f"{name}.cast", by], [wide[name]], f"{name}/scale"))
        node.input[1] = wide[name]
    nodes = [*new, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx_graph.tidy(model)
    onnx_graph.check(model)
    return model, names


def _spare_fp32_nodes(model: onnx.ModelProto, plan: PrecisionPlan) -> None:
    """What one fp32 node gives another is not rounded on the way because an int8 node reads it too.

    The quantiser gives all readers of a tensor its rounded values. What an int8 node gave stays rounded: an engine fuses it
    with the rounding only if nothing reads it before.
    """
    graph = onnx_graph.Graph(model)
    for node in graph.proto.node:
        if node.name in plan.lowered or node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for k, name in enumerate(node.input):
            back = graph.producer.get(name)
            to = graph.producer.get(back.input[0]) if back is not None and back.op_type == "DequantizeLinear" else None
            if to is None or to.op_type != "QuantizeLinear":
                continue
            source = graph.producer.get(to.input[0])
            if source is None or source.name not in plan.lowered:
                node.input[k] = to.input[0]


def _floats(model: onnx.ModelProto) -> set[str]:
    inferred = onnx.shape_inference.infer_shapes(model)
    values = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    return {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT}


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the quantiser's remarks on the root logger about every tensor that it leaves alone."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)

"""int8 graphs: QuantizeLinear and DequantizeLinear about the planned operators, with scales from calibrated ranges.

Weights are symmetric, a scale a channel. Activations: unsigned with a zero point for CPUs (U8S8, which ONNX Runtime and
OpenVINO fuse into VNNI's products), symmetric and signed for TensorRT (S8S8). Both come from the same ranges.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import onnx
from onnx import TensorProto

from fexport import onnx_graph
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

"""Channels that reach far further than the others, evened out before they are quantised together.

An int8 tensor has one scale: a channel of a hundredfold reach leaves the others two bits. The input of such a layer is divided
by a number a channel, and its weights are multiplied by it, which changes nothing in fp32 (G. Xiao et al., "SmoothQuant",
ICML 2023, with alpha = 1/2: reach moves half-way from values to weights).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from fexcalibration.chips import Inputs
from fexcalibration.ranges import channel_maxima
from fexport.onnx_graph import Graph, attribute, static_shapes
from fexport.precision.plan import PrecisionPlan
from fexruntime.arrays import F32

UNEVEN = 4.0
"""Inputs are evened out where their furthest channel reaches so many times further than their median one."""


def uneven(model: onnx.ModelProto, plan: PrecisionPlan, cases: Sequence[Inputs]) -> dict[str, list[float]]:
    """Largest |value| of each channel, of the inputs of planned layers that are uneven on `cases`."""
    axes = {node.input[0]: axis for node, axis, _ in _layers(model, plan)}
    found = channel_maxima(model, cases, axes)
    return {
        name: [float(v) for v in reach]
        for name, reach in found.items()
        if reach.max() > UNEVEN * max(float(np.median(reach)), 1e-12)
    }


def smooth(model: onnx.ModelProto, plan: PrecisionPlan, reach: Mapping[str, Sequence[float]]) -> int:
    """Even out, in place, what is in `reach`; answers how many layers' inputs."""
    count, shapes = 0, static_shapes(model)
    layers = [(n.name, axis, w_axis) for n, axis, w_axis in _layers(model, plan) if n.input[0] in reach]
    for name, axis, w_axis in layers:
        graph = Graph(model)
        node = next(n for n in graph.proto.node if n.name == name)
        source, weights = node.input[0], graph.value(node.input[1])
        assert weights is not None
        scale = _scale(np.asarray(reach[source], np.float64), weights, w_axis)
        shape = [1] * weights.ndim
        shape[w_axis] = -1
        divisor = (1.0 / scale).astype(np.float32)
        # [C,1,1] where channels are followed by rows and columns
        divisor = divisor.reshape(-1, *([1] * (weights.ndim - 2))) if axis == 1 and node.op_type == "Conv" else divisor
        evened = f"{source}.evened.{count}"
        node.input[0] = evened
        node.input[1] = graph.add_initialiser(
            f"{node.input[1]}.evened.{count}", (weights.astype(np.float64) * scale.reshape(shape)).astype(np.float32)
        )
        by = graph.add_initialiser(f"{evened}.by", divisor)
        producer = graph.producer.get(source)
        factor = _factor_of_each_channel(graph, producer, source, shapes)
        if producer is None or factor is None:
            before, new = name, helper.make_node("Mul", [source, by], [evened], name=f"{name}/even")
        else:  # there is a factor already: no pass over the map for another
            before, new = producer.name, helper.make_node("Mul", [producer.input[factor], by], [by + ".all"])
            new.name = f"{name}/even"
            producer.input[factor], producer.output[0] = new.output[0], evened
        at = next(i for i, n in enumerate(model.graph.node) if n.name == before)
        model.graph.node.insert(at, new)
        count += 1
    return count


def _factor_of_each_channel(
    graph: Graph, producer: onnx.NodeProto | None, name: str, shapes: Mapping[str, Sequence[int | str]]
) -> int | None:
    """Which input of a product is one number a channel, the other a map that it makes `name` of; None if that is no such
    product, or others read what it makes.
    """
    if producer is None or producer.op_type != "Mul" or len(graph.consumers[name]) != 1 or name in graph.outputs:
        return None
    single = [all(n == 1 for n in shapes.get(given, ["?"])[1:]) for given in producer.input]
    vector = [sum(n != 1 for n in shapes.get(given, [])[1:]) == 1 for given in producer.input]
    return vector.index(True) if vector.count(True) == 1 and not any(single) else None


def _scale(
    reach: np.ndarray[tuple[int, ...], np.dtype[np.float64]], weights: F32, w_axis: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    others = tuple(a for a in range(weights.ndim) if a != w_axis)
    of_weights = np.abs(weights).max(axis=others).astype(np.float64)
    scale = np.sqrt(np.maximum(reach, 1e-6) / np.maximum(of_weights, 1e-6))
    return np.asarray(np.clip(scale, 1e-3, 1e4))


def _layers(model: onnx.ModelProto, plan: PrecisionPlan) -> list[tuple[onnx.NodeProto, int, int]]:
    """(node, axis of its input's channels, axis of its weights' inputs) of the planned layers that mix channels."""
    graph = Graph(model)
    found = []
    for node in graph.proto.node:
        if node.name not in plan.lowered or len(node.input) < 2:
            continue
        weights = graph.value(node.input[1])
        if weights is None or graph.value(node.input[0]) is not None:
            continue
        if node.op_type == "Conv" and attribute(node, "group", 1) == 1:
            found.append((node, 1, 1))
        elif node.op_type == "MatMul" and weights.ndim == 2:
            found.append((node, -1, 0))
        elif node.op_type == "Gemm" and not attribute(node, "transA", 0):
            found.append((node, -1, 1 if attribute(node, "transB", 0) else 0))
    return found

"""Fold a constant that is added in front of a linear layer into that layer's own bias: W(x + b) + c = Wx + (Wb + c).

GRN's shift stands there, added over four times the channels: a pass over memory that the bias does for nothing.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from fexport.onnx_graph import Graph


def fold_shift(model: onnx.ModelProto) -> int:
    """Fold every Add of a constant vector that only a MatMul with constant weights and a bias reads; answers how many."""
    count = 0
    for node in [n for n in model.graph.node if n.op_type == "Add"]:
        graph = Graph(model)
        product = graph.only_consumer(node.output[0], "MatMul")
        outer = None if product is None else graph.only_consumer(product.output[0], "Add")
        if product is None or outer is None or product.input[0] != node.output[0]:
            continue
        shift, (source, _) = _vector(graph, node)
        bias, (_, bias_name) = _vector(graph, outer)
        weight = graph.value(product.input[1])
        if shift is None or bias is None or weight is None or weight.ndim != 2 or len(shift) != len(weight):
            continue
        if len(bias) != weight.shape[1]:
            continue
        moved = (shift.astype(np.float64) @ weight.astype(np.float64) + bias).astype(np.float32)
        name = graph.add_initialiser(f"{product.output[0]}.shift_folded", moved)
        product.input[0] = source
        outer.input[list(outer.input).index(bias_name)] = name
        model.graph.node.remove(node)
        count += 1
    return count


def _vector(graph: Graph, node: onnx.NodeProto) -> tuple[NDArray[np.float32] | None, tuple[str, str]]:
    """(the constant vector that an Add adds, (what it is added to, its name)); None where it adds no such."""
    for at in (0, 1):
        value = graph.value(node.input[at])
        if value is not None and value.ndim == 1:
            return value, (node.input[1 - at], node.input[at])
    return None, ("", "")

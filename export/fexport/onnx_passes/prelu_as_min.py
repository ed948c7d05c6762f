"""PReLU as relu(x) + a·min(x, 0): for int8, whose engines have kernels for these and none for PRelu.

Exact: one of the two summands is zero.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from fexport.onnx_graph import Graph


def prelu_as_min(model: onnx.ModelProto) -> int:
    """Rewrite every PRelu; answers how many."""
    found = [n for n in model.graph.node if n.op_type == "PRelu"]
    for node in found:
        graph = Graph(model)
        x, slope, out = node.input[0], node.input[1], node.output[0]
        zero = graph.add_initialiser(f"{out}.zero", np.zeros((), np.float32))
        new = [
            helper.make_node("Relu", [x], [f"{out}.relu"]),
            helper.make_node("Min", [x, zero], [f"{out}.below"]),
            helper.make_node("Mul", [f"{out}.below", slope], [f"{out}.negative"]),
            helper.make_node("Add", [f"{out}.relu", f"{out}.negative"], [out]),
        ]
        graph.replace([node], new, f"{node.name}/min")
    return len(found)

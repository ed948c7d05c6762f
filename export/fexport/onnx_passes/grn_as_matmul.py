"""Global response normalisation's sum over the map as a matrix product with a row of ones.

ONNX Runtime has no fast path for a reduction over the two middle axes of [B,H,W,C] (a tenth of the multitask
network's time); ones[1,HW] · x² is a matrix product, a hundredth.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from fexport.onnx_graph import Graph, attribute, static_shapes


def grn_as_matmul(model: onnx.ModelProto) -> int:
    """Rewrite every ReduceL2 over axes 1 and 2 of a [B,H,W,C] tensor; answers how many."""
    shapes = static_shapes(model)
    count = 0
    for node in [n for n in model.graph.node if n.op_type == "ReduceL2"]:
        shape = shapes.get(node.input[0], [])
        if len(shape) != 4 or list(attribute(node, "axes", [])) != [1, 2] or not attribute(node, "keepdims", 1):
            continue
        sizes = [v for v in shape[1:] if isinstance(v, int) and v > 0]
        if len(sizes) != 3:
            continue
        height, width, channels = sizes
        graph = Graph(model)
        x, out = node.input[0], node.output[0]
        cells = height * width
        ones = f"grn.ones_{cells}"
        if ones not in graph.initialisers:
            graph.add_initialiser(ones, np.ones((1, cells), np.float32))
        flat = graph.add_initialiser(f"{out}.flat", np.array([0, cells, channels], np.int64))
        back = graph.add_initialiser(f"{out}.back", np.array([0, 1, 1, channels], np.int64))
        new = [
            helper.make_node("Reshape", [x, flat], [f"{out}.x"]),
            helper.make_node("Mul", [f"{out}.x", f"{out}.x"], [f"{out}.squares"]),
            helper.make_node("MatMul", [ones, f"{out}.squares"], [f"{out}.sum"]),
            helper.make_node("Sqrt", [f"{out}.sum"], [f"{out}.norm"]),
            helper.make_node("Reshape", [f"{out}.norm", back], [out]),
        ]
        graph.replace([node], new, f"{node.name}/matmul")
        count += 1
    return count

"""PReLU as x + (1-a)·relu(-x), in two 1x1 depthwise convolutions: a third less memory traffic than `prelu_as_depthwise`.

relu(-x) is one convolution by -1 with its activation fused, the sum is fused into the other, and both stay in the blocked
layout of ONNX Runtime's convolutions. Positive values are exact; negative ones are within two roundings of x itself, not of
a·x: nothing in float32, but for lower precisions `prelu_as_depthwise` is the better one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper

from fexport.onnx_graph import Graph


def prelu_as_sum(model: onnx.ModelProto) -> int:
    """Rewrite every PRelu with a slope per channel; answers how many."""
    count = 0
    for node in [n for n in model.graph.node if n.op_type == "PRelu"]:
        graph = Graph(model)
        slope = graph.value(node.input[1])
        if slope is None or slope.ndim != 3 or slope.shape[1:] != (1, 1):
            continue
        channels = len(slope)
        x, out = node.input[0], node.output[0]
        kernel = slope.reshape(channels, 1, 1, 1).astype(np.float64)
        minus = graph.add_initialiser(f"{out}.minus", np.full_like(kernel, -1, np.float32))
        rest = graph.add_initialiser(f"{out}.rest", (1.0 - kernel).astype(np.float32))
        attributes: dict[str, Any] = {"kernel_shape": [1, 1], "group": channels}
        new = [
            helper.make_node("Conv", [x, minus], [f"{out}.negated"], **attributes),
            helper.make_node("Relu", [f"{out}.negated"], [f"{out}.below"]),
            helper.make_node("Conv", [f"{out}.below", rest], [f"{out}.change"], **attributes),
            helper.make_node("Add", [f"{out}.change", x], [out]),
        ]
        for k, new_node in enumerate(new):
            new_node.name = f"{node.name}/sum/{k}"
        graph.replace([node], new)
        count += 1
    return count

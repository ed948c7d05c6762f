"""PReLU as two 1x1 depthwise convolutions: a·x + (1-a)·relu(x).

ONNX Runtime's PRelu kernel is slow and breaks the blocked layout that its convolutions run in (it is two thirds of
MobileFaceNet's time). Depthwise convolutions stay in that layout, and the sum is fused into the second. Negative values
are exact; positive ones are within one unit in the last place for slopes in [0,1], as trained ones are, and within two
for slopes in [-0.5,1.5].
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from fexport.onnx_graph import Graph


def with_slopes_a_channel(model: onnx.ModelProto) -> Iterator[tuple[Graph, onnx.NodeProto, NDArray[Any]]]:
    """(graph, PRelu, slopes [C,1,1,1]) of every PRelu with a slope per channel, which may be replaced before the next."""
    for node in [n for n in model.graph.node if n.op_type == "PRelu"]:
        graph = Graph(model)
        slope = graph.value(node.input[1])
        if slope is not None and slope.ndim == 3 and slope.shape[1:] == (1, 1):
            yield graph, node, slope.reshape(-1, 1, 1, 1)


def prelu_as_depthwise(model: onnx.ModelProto) -> int:
    """Rewrite every PRelu with a slope per channel; answers how many."""
    count = 0
    for graph, node, slopes in with_slopes_a_channel(model):
        x, out = node.input[0], node.output[0]
        kernel = slopes.astype(np.float32)
        below = graph.add_initialiser(f"{node.input[1]}.below", kernel)
        above = graph.add_initialiser(f"{node.input[1]}.above", (1.0 - kernel.astype(np.float64)).astype(np.float32))
        attributes: dict[str, Any] = {"kernel_shape": [1, 1], "group": len(slopes)}
        new = [
            helper.make_node("Relu", [x], [f"{out}.relu"]),
            helper.make_node("Conv", [x, below], [f"{out}.linear"], **attributes),
            helper.make_node("Conv", [f"{out}.relu", above], [f"{out}.positive"], **attributes),
            helper.make_node("Add", [f"{out}.linear", f"{out}.positive"], [out]),
        ]
        graph.replace([node], new, f"{node.name}/depthwise")
        count += 1
    return count

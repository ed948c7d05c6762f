"""Channels of zeros that are put behind an image's own, as a 1x1 convolution by the identity.

A Pad leaves the blocked layout that ONNX Runtime's convolutions run in, so what is round it is reordered twice; a convolution
stays in it, and the sum that follows is fused into it. Finite values are exact: each is multiplied by 1 and added to zeros.
The identity is made by the graph, of constants alone, which engines fold: it would be most of a small file.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from fexport.onnx_graph import Graph, attribute


def channels_in_conv(model: onnx.ModelProto) -> int:
    """Rewrite every Pad that adds channels of zeros, and nothing else, behind those of an image; answers how many."""
    count, channels = 0, channels_of(model)
    for pad in [n for n in model.graph.node if n.op_type == "Pad"]:
        graph = Graph(model)
        given, added = channels.get(pad.input[0]), added_channels(graph, pad)
        if given is None or not added:
            continue
        out = pad.output[0]
        shape = graph.add_initialiser(f"{out}.shape", np.array([given + added, given], np.int64))
        axes = graph.add_initialiser(f"{out}.axes", np.array([2, 3], np.int64))
        zero = helper.make_tensor("value", onnx.TensorProto.FLOAT, [1], [0.0])
        new = [
            helper.make_node("ConstantOfShape", [shape], [f"{out}.zeros"], value=zero),
            helper.make_node("EyeLike", [f"{out}.zeros"], [f"{out}.identity"]),
            helper.make_node("Unsqueeze", [f"{out}.identity", axes], [f"{out}.kernel"]),
            helper.make_node("Conv", [pad.input[0], f"{out}.kernel"], [out], kernel_shape=[1, 1]),
        ]
        graph.replace([pad], new, f"{pad.name}/channels")
        count += 1
    return count


def added_channels(graph: Graph, pad: onnx.NodeProto) -> int:
    """How many channels of zeros a Pad puts behind an image's own; 0 where it does anything else."""
    amounts = graph.value(pad.input[1])
    fill = graph.value(pad.input[2]) if len(pad.input) > 2 and pad.input[2] else None
    plain = attribute(pad, "mode", b"constant") == b"constant" and (fill is None or not fill.any())
    if not plain or amounts is None or len(amounts) != 8 or amounts[5] < 1 or np.count_nonzero(amounts) != 1:
        return 0
    return int(amounts[5])


def channels_of(model: onnx.ModelProto) -> dict[str, int]:
    """How many channels each image [N,C,H,W] has, where that is known."""
    shaped = onnx.shape_inference.infer_shapes(model).graph
    weights = {t.name for t in model.graph.initializer}
    axes = {v.name: v.type.tensor_type.shape.dim for v in (*shaped.input, *shaped.value_info, *shaped.output)}
    return {k: int(v[1].dim_value) for k, v in axes.items() if len(v) == 4 and v[1].dim_value and k not in weights}

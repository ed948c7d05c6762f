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
    count = 0
    for pad in [n for n in model.graph.node if n.op_type == "Pad"]:
        graph = Graph(model)
        pads = graph.value(pad.input[1])
        fill = graph.value(pad.input[2]) if len(pad.input) > 2 and pad.input[2] else None
        plain = attribute(pad, "mode", b"constant") == b"constant" and (fill is None or not fill.any())
        given = _channels(model, pad.input[0])
        if pads is None or len(pads) != 8 or not plain or given is None:
            continue
        added = int(pads[5])
        if added < 1 or any(int(v) for k, v in enumerate(pads) if k != 5):
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
        for k, node in enumerate(new):
            node.name = f"{pad.name}/channels/{k}"
        graph.replace([pad], new)
        count += 1
    return count


def _channels(model: onnx.ModelProto, name: str) -> int | None:
    """How many channels an image [N,C,H,W] has; None where that is not known."""
    shaped = onnx.shape_inference.infer_shapes(model).graph
    for value in (*shaped.input, *shaped.value_info):
        axes = value.type.tensor_type.shape.dim
        if value.name == name and len(axes) == 4:
            return int(axes[1].dim_value) or None
    return None

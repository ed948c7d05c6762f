"""Paddings whose amounts are known, as plain constants; zeros that are put round an image before a convolution, as that convolution's own padding.

The exporter computes a Pad's amounts in the graph, by a dozen nodes of constants alone. TensorFlow pads an even image of stride 2 at its end alone, which torch's convolutions cannot say and ONNX's can.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from fexport.onnx_graph import Graph, attribute


def pad_in_conv(model: onnx.ModelProto) -> int:
    """Rewrite every Pad that only a Conv reads and that pads height and width with zeros; answers how many."""
    # all of them first: after a replacement, a node that was listed before is no longer the graph's
    count = sum(_amounts(model, n) for n in model.graph.node if n.op_type == "Pad")
    for pad in [n for n in model.graph.node if n.op_type == "Pad"]:
        graph = Graph(model)
        conv = graph.only_consumer(pad.output[0], "Conv")
        pads = graph.value(pad.input[1])
        fill = graph.value(pad.input[2]) if len(pad.input) > 2 and pad.input[2] else None
        zeros = fill is None or not fill.any()
        plain = attribute(pad, "mode", b"constant") == b"constant"
        if conv is None or conv.input[0] != pad.output[0] or pads is None or not (zeros and plain):
            continue
        amounts = [int(v) for v in pads]
        if len(amounts) != 8 or any(amounts[k] for k in (0, 1, 4, 5)) or min(amounts) < 0:
            continue
        own = attribute(conv, "pads", [0, 0, 0, 0])
        merged = [int(a) + int(b) for a, b in zip(own, (*amounts[2:4], *amounts[6:8]), strict=True)]
        new = helper.make_node("Conv", [pad.input[0], *conv.input[1:]], conv.output, name=conv.name)
        new.attribute.extend(a for a in conv.attribute if a.name != "pads")
        new.attribute.append(helper.make_attribute("pads", merged))
        graph.replace([pad, conv], [new])
        count += 1
    return count


def _amounts(model: onnx.ModelProto, pad: onnx.NodeProto) -> int:
    """Put the value of a Pad's amounts in their place, if only constants go into it; answers whether that was done."""
    graph = Graph(model)
    name = pad.input[1]
    if graph.value(name) is not None:
        return 0
    needed: list[onnx.NodeProto] = []
    todo = [name]
    while todo:
        node = graph.producer.get(todo.pop())
        if node is None:
            return 0  # a constant would be a node here; this depends on an input or a weight
        needed.append(node)
        todo += [i for i in node.input if i]
    made = {n.output[0]: n for n in needed}
    inner = [n for n in model.graph.node if n.output[0] in made]
    out = helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None)
    part = helper.make_model(helper.make_graph(inner, "amounts", [], [out]), opset_imports=model.opset_import)
    part.ir_version = model.ir_version
    (value,) = ReferenceEvaluator(part).run(None, {})
    pad.input[1] = graph.add_initialiser(f"{pad.output[0]}.pads", np.asarray(value, np.int64))
    return 1

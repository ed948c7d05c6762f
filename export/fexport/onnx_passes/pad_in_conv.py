"""Zeros that are put round an image before a convolution, as that convolution's own padding.

TensorFlow pads an even image of stride 2 at its end alone, which torch's convolutions cannot say and ONNX's can.
"""

from __future__ import annotations

import onnx
from onnx import helper

from fexport.onnx_graph import Graph, attribute


def pad_in_conv(model: onnx.ModelProto) -> int:
    """Rewrite every Pad that only a Conv reads and that pads height and width with zeros; answers how many."""
    count = 0
    for pad in [n for n in model.graph.node if n.op_type == "Pad"]:
        graph = Graph(model)
        conv = graph.only_consumer(pad.output[0], "Conv")
        pads = graph.value(pad.input[1])
        fill = graph.value(pad.input[2]) if len(pad.input) > 2 and pad.input[2] else None
        zeros = fill is None or not fill.any()
        if conv is None or conv.input[0] != pad.output[0] or pads is None or not zeros or attribute(pad, "mode", b"constant") != b"constant":
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

"""Channels rounded up to what one block of ONNX Runtime's convolutions holds, where a graph adds channels of zeros anyway.

A block is sixteen channels on AVX-512 (eight elsewhere) and is computed whole, so 24 channels cost what 32 do. With zeros for
weights and biases the new channels hold zeros, and a Pad from 24 to 28 has nothing left to add: it goes, and with it the
way out of the blocked layout and back. So do depthwise convolutions and poolings of channels that fill no block.
What is put round the weights is said in the graph, of constants alone, which engines fold: it would be a fifth of a small file.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from fexport.onnx_graph import Graph, attribute
from fexport.onnx_passes.channels_in_conv import added_channels, channels_of

BLOCK = 16
_ALIKE = frozenset(("Add", "MaxPool", "Pad", "Relu"))
"""What makes zeros of channels of zeros, beside a convolution without weights for them."""


def channels_in_blocks(model: onnx.ModelProto) -> int:
    """Widen the images of a graph in which that makes Pads superfluous; answers how many Pads went."""
    graph, channels = Graph(model), channels_of(model)
    wide = _that_may_be_wider(graph, channels)
    more = {name: -channels[name] % BLOCK for name in wide}
    pads = [n for n in graph.proto.node if n.op_type == "Pad" and n.output[0] in wide]
    gone = [p for p in pads if _filled(p, channels, more) == 0]
    if not gone:
        return 0
    for pad in pads:
        amounts = np.zeros(8, np.int64)
        amounts[5] = _filled(pad, channels, more)
        pad.input[1] = graph.add_initialiser(f"{pad.output[0]}.amounts", amounts)
    new: list[onnx.NodeProto] = []
    for conv in [n for n in graph.proto.node if n.op_type == "Conv"]:
        out, given = (more.get(name, 0) for name in (conv.output[0], conv.input[0]))
        depthwise = attribute(conv, "group", 1) > 1
        if depthwise and out:
            for kept in [a for a in conv.attribute if a.name == "group"]:
                kept.i += out
        for place, added in ((1, [out, 0 if depthwise else given, 0, 0]), (2, [out])):
            if len(conv.input) > place and any(added):
                called = f"{conv.output[0]}.wide{place}"
                ends = graph.add_initialiser(f"{called}.ends", np.array([0] * len(added) + added, np.int64))
                new.append(helper.make_node("Pad", [conv.input[place], ends], [called], name=called))
                conv.input[place] = called
    graph.proto.node.extend(new)
    for pad in gone:
        for reader in graph.consumers[pad.output[0]]:
            for place, name in enumerate(reader.input):
                if name == pad.output[0]:
                    reader.input[place] = pad.input[0]
    for value in [v for v in graph.proto.value_info if v.name in wide]:
        graph.proto.value_info.remove(value)
    return len(gone)


def _filled(pad: onnx.NodeProto, channels: dict[str, int], more: dict[str, int]) -> int:
    """How many channels a Pad is left to add."""
    before, after = pad.input[0], pad.output[0]
    return channels[after] + more[after] - channels[before] - more[before]


def _that_may_be_wider(graph: Graph, channels: dict[str, int]) -> set[str]:
    """Images that are made and read by nothing but what can have more channels of zeros."""
    wide = {
        node.output[0]
        for node in graph.proto.node
        if node.output[0] in channels
        and node.output[0] not in graph.outputs
        and (added_channels(graph, node) > 0 if node.op_type == "Pad" else node.op_type in _ALIKE | {"Conv"})
        and all(r.op_type in _ALIKE | {"Conv"} for r in graph.consumers[node.output[0]])
        and all(r.input[0] == node.output[0] for r in graph.consumers[node.output[0]] if r.op_type == "Conv")
    }
    before = -1
    while before != len(wide):
        before = len(wide)
        for node in graph.proto.node:
            group = attribute(node, "group", 1) if node.op_type == "Conv" else 0
            if group == 1:
                continue  # what it reads and what it gives have nothing to do with each other
            images = [name for name in (*node.input, node.output[0]) if name in channels]
            alike = node.op_type in _ALIKE or all(channels[name] == group for name in images)
            if node.op_type == "Add" and any(name not in channels for name in node.input):
                alike = False  # a constant: it has the old number of channels, or is no zero in the new ones
            if not alike or not wide.issuperset(images):
                wide.difference_update(images)
    return wide

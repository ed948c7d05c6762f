"""One convolution for all the 1x1 convolutions that read the same map and are averaged over it afterwards.

The action-unit branch has twenty of 512 to 512 channels, each with its ReLU and its mean over the map; as one of
512 to 10240 it reads its input once and runs as one large product.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from fexport.onnx_graph import Graph, attribute


def fuse_parallel_convs(model: onnx.ModelProto) -> int:
    """Fuse groups of Conv 1x1 -> Relu -> ReduceMean -> Unsqueeze, joined by one Concat; answers how many groups."""
    count = 0
    for join in [n for n in model.graph.node if n.op_type == "Concat"]:
        graph = Graph(model)
        branches = [_branch(graph, name) for name in join.input]
        if len(branches) < 2 or any(b is None for b in branches):
            continue
        chains = [b for b in branches if b is not None]
        convs = [chain[0] for chain in chains]
        if len({conv.input[0] for conv in convs}) != 1 or attribute(join, "axis") != 1:
            continue
        found = [graph.value(conv.input[1]) for conv in convs]
        offsets = [graph.value(conv.input[2]) if len(conv.input) > 2 else None for conv in convs]
        weights, biases = ([v for v in values if v is not None] for values in (found, offsets))
        if not len(weights) == len(biases) == len(convs) or any(w.shape[2:] != (1, 1) for w in weights):
            continue
        if not all(_is_plain(conv) for conv in convs):
            continue
        stem = join.output[0]
        weight = graph.add_initialiser(f"{stem}.fused.weight", np.concatenate(weights))
        bias = graph.add_initialiser(f"{stem}.fused.bias", np.concatenate(biases))
        shape = graph.add_initialiser(f"{stem}.fused.shape", np.array([0, len(convs), -1], np.int64))
        new = [
            helper.make_node("Conv", [convs[0].input[0], weight, bias], [f"{stem}.conv"], kernel_shape=[1, 1]),
            helper.make_node("Relu", [f"{stem}.conv"], [f"{stem}.relu"]),
            helper.make_node("GlobalAveragePool", [f"{stem}.relu"], [f"{stem}.mean"]),
            helper.make_node("Reshape", [f"{stem}.mean", shape], [stem]),
        ]
        for node in new:
            node.name = f"{join.name}/fused/{node.op_type}"
        graph.replace([join, *(node for chain in chains for node in chain)], new)
        count += 1
    return count


def _is_plain(conv: onnx.NodeProto) -> bool:
    """Whether a 1x1 convolution is a product at every place of the map: no stride, padding or groups."""
    strides, pads = (list(attribute(conv, name, [])) for name in ("strides", "pads"))
    return (
        set(strides) <= {1}
        and set(pads) <= {0}
        and attribute(conv, "group", 1) == 1
        and attribute(conv, "auto_pad", b"NOTSET") == b"NOTSET"
    )


def _branch(graph: Graph, name: str) -> list[onnx.NodeProto] | None:
    """The chain Conv, Relu, ReduceMean, Unsqueeze that ends in `name`, each read by the next alone; or None."""
    chain: list[onnx.NodeProto] = []
    for op_type in ("Unsqueeze", "ReduceMean", "Relu", "Conv"):
        node = graph.producer.get(name)
        if node is None or node.op_type != op_type or len(graph.consumers[name]) != 1:
            return None
        chain.append(node)
        name = node.input[0]
    mean = chain[1]
    if sorted(a % 4 for a in attribute(mean, "axes", [])) != [2, 3] or attribute(mean, "keepdims", 1):
        return None
    return chain[::-1]

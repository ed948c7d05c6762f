"""Fold a BatchNormalization into the convolution or Gemm that feeds it.

The exporter folds those behind a convolution; this one also takes those behind a Gemm (the embedding and landmark
outputs). A batch norm *before* a padded convolution cannot be folded: the padding is zero after it, not before.
"""

from __future__ import annotations

import numpy as np
import onnx

from fexport.onnx_graph import Graph, attribute


def fold_batch_norm(model: onnx.ModelProto) -> int:
    """Fold every batch norm behind a Conv or Gemm; answers how many."""
    count = 0
    for node in [n for n in model.graph.node if n.op_type in ("Conv", "Gemm")]:
        graph = Graph(model)
        norm = graph.only_consumer(node.output[0], "BatchNormalization")
        weight = graph.value(node.input[1])
        if norm is None or weight is None or len(graph.consumers[node.input[1]]) != 1:
            continue
        constants = [v for v in (graph.value(name) for name in norm.input[1:5]) if v is not None]
        if len(constants) != 4:
            continue
        scale, shift, mean, variance = constants
        bias = graph.value(node.input[2]) if len(node.input) > 2 else np.zeros_like(mean)
        if bias is None:
            continue
        gain = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + attribute(norm, "epsilon", 1e-5))
        rows_first = node.op_type == "Conv" or bool(attribute(node, "transB", 0))
        along = (-1,) + (1,) * (weight.ndim - 1) if rows_first else (1, -1)
        folded = (weight * gain.reshape(along)).astype(np.float32)
        moved = ((bias - mean) * gain + shift).astype(np.float32)
        weight_name = graph.add_initialiser(f"{node.input[1]}.bn_folded", folded)
        bias_name = graph.add_initialiser(f"{weight_name}.bias", moved)
        del node.input[1:]
        node.input.extend([weight_name, bias_name])
        node.output[0] = norm.output[0]
        model.graph.node.remove(norm)
        count += 1
    return count

"""ONNX graph -> ncnn: a text of layers and a file of weights, the same bytes for the same graph.

ncnn's convolutions are Winograd's, which take a half of direct ones' multiplications, and it runs on CPUs with and without
AVX-512, on ARM, and on GPUs through Vulkan. It has no batch axis and few operators: a network with one that is not in
`ncnn_layers` cannot be held, and the build says so. Written from the exporter's graph, not from the one rewritten for ONNX
Runtime: PReLU is one layer here. Names of inputs and outputs are the contract's. The format: ncnn's
docs/developer-guide/param-and-model-file-structure.md.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import onnx

from fexport.ncnn_layers import Layer, NotHeldError, layers_of
from fexport.ncnn_rewrites import quartered_stems

__all__ = ["NotHeldError", "convert"]

_MAGIC = 7767517


def convert(model: onnx.ModelProto) -> tuple[bytes, bytes]:
    """(param text, weights) of a graph as the exporter made it. Raises NotHeldError for what ncnn cannot hold."""
    layers = _with_splits(quartered_stems(layers_of(model)))
    blobs = sum(len(layer.outputs) for layer in layers)
    lines = [str(_MAGIC), f"{len(layers)} {blobs}"]
    for layer in layers:
        words = [layer.kind, layer.name, len(layer.inputs), len(layer.outputs), *layer.inputs, *layer.outputs]
        lines.append(" ".join(map(str, [*words, *(f"{k}={_number(v)}" for k, v in layer.parameters.items())])))
    return ("\n".join(lines) + "\n").encode(), b"".join(w for layer in layers for w in layer.weights)


def _number(value: Any) -> str:
    if isinstance(value, list):  # an array: its length first
        return ",".join([str(len(value)), *(_number(v) for v in value)])
    return f"{value:e}" if isinstance(value, float) else str(int(value))


def _with_splits(layers: list[Layer]) -> list[Layer]:
    """A blob has one reader in ncnn: where several read one, a Split gives each a name of its own."""
    readers = Counter(name for layer in layers for name in layer.inputs)
    done: list[Layer] = []
    left: dict[str, list[str]] = {}
    for layer in layers:
        layer.inputs = [left[name].pop(0) if name in left else name for name in layer.inputs]
        done.append(layer)
        for name in layer.outputs:
            if readers[name] > 1:
                left[name] = [f"{name}.{k}" for k in range(readers[name])]
                done.append(Layer("Split", f"{name}.split", [name], list(left[name])))
    return done

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

from fexport.ncnn_layers import Layer, NotHeldError, layers_of, word
from fexport.ncnn_rewrites import quartered_stems

__all__ = ["NotHeldError", "convert"]

_MAGIC = 7767517
_SHAPE_HINT = -23330
"""The number of the parameter that lists the sizes of what a layer makes: dimensions, width, height, channels of each."""


def convert(model: onnx.ModelProto) -> tuple[bytes, bytes]:
    """(param text, weights) of a graph as the exporter made it. Raises NotHeldError for what ncnn cannot hold."""
    layers = _with_splits(quartered_stems(layers_of(model)))
    shapes = _shapes(model)
    blobs = sum(len(layer.outputs) for layer in layers)
    lines = [str(_MAGIC), f"{len(layers)} {blobs}"]
    for layer in layers:
        words = [layer.kind, layer.name, len(layer.inputs), len(layer.outputs), *layer.inputs, *layer.outputs]
        parameters = layer.parameters | _hints(layer, shapes)
        lines.append(" ".join(map(str, [*words, *(f"{k}={_number(v)}" for k, v in parameters.items())])))
    return ("\n".join(lines) + "\n").encode(), b"".join(w for layer in layers for w in layer.weights)


def _shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Shapes of an item's tensors where the graph fixes them (a network of face crops has a size, one of frames has none)."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    found = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        sizes = [d.dim_value for d in value.type.tensor_type.shape.dim[1:]]
        if 1 <= len(sizes) <= 3 and all(sizes):
            found[word(value.name)] = sizes
    return found


def _hints(layer: Layer, shapes: dict[str, list[int]]) -> dict[int, list[int]]:
    """Sizes of what a layer makes, by which ncnn chooses a way for each convolution when it loads a network.

    Without them it takes Winograd's F(4x4,3x3) everywhere, whose weights are four times as many: for a 14 x 14 map of 256 channels reading
    them takes longer than what F(2x2,3x3) multiplies more.
    """
    sizes = [shapes.get(name) for name in layer.outputs]
    if not sizes or any(s is None for s in sizes):
        return {}
    return {_SHAPE_HINT: [n for s in sizes if s is not None for n in (len(s), *s[::-1], *(0,) * (3 - len(s)))]}


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

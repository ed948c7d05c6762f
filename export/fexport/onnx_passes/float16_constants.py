"""Constants that are float16 numbers stored as float16, with a cast to float32: half the bytes, the same values.

Only for graphs whose large constants all are (weights that were published as float16). Engines fold the casts when they
load the graph; what runs is float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

LARGE = 256
"""Constants of at least so many numbers decide whether the graph's weights are float16."""
WORTHWHILE = 32
"""Smaller ones stay as they are: a cast costs more bytes than it saves."""


def float16_constants(model: onnx.ModelProto) -> int:
    """Store what float16 holds exactly as float16; answers how many constants."""
    floats = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT]
    values = {t.name: numpy_helper.to_array(t) for t in floats}
    large = [v for v in values.values() if v.size >= LARGE]
    if not large or not all(_exact(v) for v in large):
        return 0
    kept = _without_copies(model)
    stored = _Stored(model)
    casts: list[onnx.NodeProto] = []
    for tensor in floats:
        value, name = values[tensor.name], tensor.name
        if value.size < WORTHWHILE:
            stored.keep(tensor)
        elif _exact(value):
            casts += stored.cast(name, value)
        elif _exact(rest := np.float32(1) - value) and np.array_equal(np.float32(1) - rest, value):
            # 1 - a, for the slopes a of PReLU: the engine's own subtraction, folded like the casts
            one = stored.constant(np.array(1, np.float32))
            casts += [*stored.cast(f"{name}.rest", rest), helper.make_node("Sub", [one, f"{name}.rest"], [name])]
        else:
            stored.keep(tensor)
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            stored.keep(tensor)
    nodes = [*casts, *stored.of_nodes(kept)]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(stored.tensors)
    _rename(model)
    return len(casts)


class _Stored:
    """The constants of a graph, each content once."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.tensors: list[onnx.TensorProto] = []
        self._names: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._taken = {o.name for o in model.graph.output}

    def keep(self, tensor: onnx.TensorProto) -> None:
        copy = onnx.TensorProto()
        copy.CopyFrom(tensor)
        self.tensors.append(copy)

    def constant(self, value: NDArray[Any]) -> str:
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._names:
            self._names[key] = f"constant.{len(self._names)}"
            self.tensors.append(numpy_helper.from_array(value, self._names[key]))
        return self._names[key]

    def cast(self, name: str, value: NDArray[np.float32]) -> list[onnx.NodeProto]:
        return [helper.make_node("Cast", [self.constant(value.astype(np.float16))], [name], to=TensorProto.FLOAT)]

    def of_nodes(self, nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """The nodes, their Constant ones among the constants, and attributes that have their default left out."""
        same: dict[str, str] = {}
        kept = []
        for node in nodes:
            for k, name in enumerate(node.input):
                node.input[k] = same.get(name, name)
            if node.op_type == "Constant" and node.output[0] not in self._taken:
                same[node.output[0]] = self.constant(numpy_helper.to_array(node.attribute[0].t))
                continue
            if node.op_type in ("Conv", "Reshape"):
                given = [a for a in node.attribute if not _default(node.op_type, a)]
                del node.attribute[:]
                node.attribute.extend(given)
            kept.append(node)
        return kept


def _default(operator: str, attribute: onnx.AttributeProto) -> bool:
    """Whether an attribute says what is meant without it, too."""
    if operator == "Reshape":
        return attribute.name == "allowzero" and attribute.i == 0
    if attribute.name == "kernel_shape":  # the weights have it
        return True
    value, usual = helper.get_attribute_value(attribute), {"dilations": 1, "strides": 1, "pads": 0, "group": 1}
    if attribute.name not in usual:
        return False
    return all(v == usual[attribute.name] for v in (value if isinstance(value, list) else [value]))


def _without_copies(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes, less the Identity ones that the exporter puts on constants which several nodes share."""
    outputs = {o.name for o in model.graph.output}
    same: dict[str, str] = {}
    kept = []
    for node in model.graph.node:
        for k, name in enumerate(node.input):
            node.input[k] = same.get(name, name)
        if node.op_type == "Identity" and node.output[0] not in outputs:
            same[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    return kept


def _rename(model: onnx.ModelProto) -> None:
    """Short names for everything inside: in a small graph the exporter's take a tenth of the file."""
    graph = model.graph
    edge = {v.name for v in (*graph.input, *graph.output)} | {""}
    short: dict[str, str] = {}

    def named(name: str) -> str:
        return name if name in edge else short.setdefault(name, f"v{len(short)}")

    for tensor in graph.initializer:
        tensor.name = named(tensor.name)
        tensor.ClearField("doc_string")
    for node in graph.node:
        node.ClearField("name")
        node.ClearField("doc_string")
        for names in (node.input, node.output):
            for k, name in enumerate(names):
                names[k] = named(name)


def _exact(value: NDArray[np.float32]) -> bool:
    with np.errstate(over="ignore"):
        return bool((value.astype(np.float16).astype(np.float32) == value).all())

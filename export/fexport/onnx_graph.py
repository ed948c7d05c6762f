"""Small tools over onnx.GraphProto that the passes share: look-ups, constants, clean-up, checks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from fexruntime.errors import VerificationError


class Graph:
    """An index over a model's graph: producers, consumers, initialisers. Rebuild it after a change."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.proto = model.graph
        self.producer = {name: node for node in self.proto.node for name in node.output}
        self.consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.proto.node:
            for name in node.input:
                self.consumers[name].append(node)
        self.initialisers = {t.name: t for t in self.proto.initializer}
        self.outputs = {o.name for o in self.proto.output}

    def value(self, name: str) -> NDArray[Any] | None:
        """The constant called `name` (an initialiser or a Constant node), or None.

        Looks through the Identity nodes that the exporter leaves on constants which several nodes share.
        """
        node = self.producer.get(name)
        while node is not None and node.op_type == "Identity":
            name = node.input[0]
            node = self.producer.get(name)
        if name in self.initialisers:
            return numpy_helper.to_array(self.initialisers[name])
        if node is not None and node.op_type == "Constant":
            return numpy_helper.to_array(node.attribute[0].t)
        return None

    def only_consumer(self, name: str, op_type: str) -> onnx.NodeProto | None:
        """The single node that reads `name`, if it is an `op_type` and the name is not an output of the graph."""
        readers = self.consumers.get(name, [])
        if len(readers) == 1 and readers[0].op_type == op_type and name not in self.outputs:
            return readers[0]
        return None

    def add_initialiser(self, name: str, value: NDArray[Any]) -> str:
        """Add a constant; the name must be new."""
        if name in self.initialisers:
            raise VerificationError(f"an ONNX pass made two constants called {name!r}")
        tensor = numpy_helper.from_array(
            np.asarray(value, order="C"), name
        )  # ascontiguousarray makes a scalar a vector
        self.proto.initializer.append(tensor)
        self.initialisers[name] = self.proto.initializer[-1]
        return name

    def replace(self, old: Iterable[onnx.NodeProto], new: Sequence[onnx.NodeProto], called: str = "") -> None:
        """Put `new` where the last of `old` stood, and take `old` out; with `called` the new ones are named CALLED/0, CALLED/1, …"""
        for k, node in enumerate(new if called else ()):
            node.name = f"{called}/{k}"
        # a node is known by what it makes: protobuf gives a new Python object at each access
        gone = {n.output[0] for n in old}
        nodes = list(self.proto.node)
        at = max(i for i, n in enumerate(nodes) if n.output[0] in gone)
        before, after = ([n for n in part if n.output[0] not in gone] for part in (nodes[:at], nodes[at + 1 :]))
        kept = [*before, *new, *after]
        del self.proto.node[:]
        self.proto.node.extend(kept)


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """The value of a node's attribute."""
    for a in node.attribute:
        if a.name == name:
            return helper.get_attribute_value(a)
    return default


def static_shapes(model: onnx.ModelProto) -> dict[str, list[int | str]]:
    """Shapes that inference finds, by tensor: a number where an axis is fixed, else its name."""
    inferred = onnx.shape_inference.infer_shapes(model)
    return {
        value.name: [d.dim_value if d.HasField("dim_value") else d.dim_param for d in value.type.tensor_type.shape.dim]
        for value in (*inferred.graph.input, *inferred.graph.value_info)
    }


def tidy(model: onnx.ModelProto) -> None:
    """Drop nodes and initialisers that nothing reads, and put the nodes in topological order."""
    needed = {o.name for o in model.graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(_topological(model)):
        if any(name in needed for name in node.output):
            kept.append(node)
            needed.update(node.input)
    tensors = [t for t in model.graph.initializer if t.name in needed]
    nodes = kept[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)


def _topological(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    nodes = list(model.graph.node)
    made = {t.name for t in model.graph.initializer} | {i.name for i in model.graph.input} | {""}
    ordered: list[onnx.NodeProto] = []
    while nodes:
        waiting = []
        for node in nodes:
            if all(name in made for name in node.input):
                ordered.append(node)
                made.update(node.output)
            else:
                waiting.append(node)
        if len(waiting) == len(nodes):
            raise VerificationError(f"an ONNX pass left a graph with a cycle or a dangling input at {waiting[0].name}")
        nodes = waiting
    return ordered


def check(model: onnx.ModelProto) -> None:
    """onnx's own checker, standard operators only, and no integer tensor at the graph's edge."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker raises several unrelated types
        raise VerificationError(f"the exported graph is not valid ONNX: {error}") from error
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise VerificationError(f"the exported graph uses {node.domain}.{node.op_type}, not a standard operator")
    for value in (*model.graph.input, *model.graph.output):
        kind = value.type.tensor_type.elem_type
        if kind != onnx.TensorProto.FLOAT:
            raise VerificationError(f"{value.name} is {onnx.TensorProto.DataType.Name(kind)} at the graph's edge")

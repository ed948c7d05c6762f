"""The precision plan of a network: for each node of its graph, the type that it is computed in, and why."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field

import onnx

from fexport.onnx_graph import Graph
from fexruntime.contracts.precision import FP16_SAFE, FULL, ISLANDS, QUANTISED, Island
from fexruntime.errors import InputError

WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")
AGNOSTIC = frozenset(
    [
        "Reshape",
        "Transpose",
        "Concat",
        "Slice",
        "Gather",
        "Unsqueeze",
        "Squeeze",
        "Flatten",
        "Identity",
        "Split",
        "Expand",
        "Pad",
        "MaxPool",
        "Relu",
        "Tile",
    ]
)
"""Operators that move or choose values and round none: they follow what they read, so that no cast is spent on them."""
_INDICES = frozenset(
    ["Shape", "Range", "ConstantOfShape", "EyeLike", "Cast", "TopK", "ScatterElements", "Constant", "NonZero", "Size"]
)
_MEANING = {
    "fp16": "float16: half the bytes, eleven bits",
    "bf16": "bfloat16: half the bytes, eight bits, fp32's range",
    "int8": "int8 with a scale a channel",
}


@dataclass(frozen=True, slots=True)
class PrecisionPlan:
    """`types` and `why` by node name; every node of the graph is there."""

    precision: str
    types: Mapping[str, str]
    why: Mapping[str, str]
    gives: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Tensors that each node makes, by which engines that rename nodes still know them."""
    pins: tuple[str, ...] = ()
    """fp32 nodes that compute, by which an engine whose precision is a flag is held to fp32."""

    @property
    def lowered(self) -> frozenset[str]:
        """Names of the nodes that are not computed in fp32."""
        return frozenset(name for name, kind in self.types.items() if kind != FULL)

    def as_json(self) -> bytes:
        """Nodes by type and reason, and the tensors that are fp32's."""
        groups: dict[str, dict[str, list[str]]] = {}
        for name, kind in self.types.items():
            groups.setdefault(kind, {}).setdefault(self.why[name], []).append(name)
        kept = [t for name, kind in self.types.items() if kind == FULL for t in self.gives.get(name, ())]
        said = {"precision": self.precision, "nodes": groups, "pins": list(self.pins), "fp32_tensors": kept}
        return (json.dumps(said, indent=1) + "\n").encode()


def plan_of(
    model: onnx.ModelProto,
    network: str,
    precision: str,
    magnitudes: Mapping[str, float] | None = None,
    kept: Mapping[str, str] | None = None,
) -> PrecisionPlan:
    """The plan of a graph whose nodes have names of their own.

    `magnitudes` is the largest |value| of each tensor on calibration faces: float16 nodes that touch a larger one than is
    safe stay in fp32. `kept` names further nodes that do (a regular expression), and why. Raises InputError for a network
    that has no islands in the contract table.
    """
    if network not in ISLANDS:
        raise InputError(f"{network} is run in fp32 alone: it has no row in contracts/precision.py")
    graph = Graph(model)
    ends = _ends(graph)
    islands = tuple(i for i in ISLANDS[network] if precision in i.precisions)
    types: dict[str, str] = {}
    why: dict[str, str] = {}
    for node in graph.proto.node:
        reason = _island(node, islands, ends)
        for pattern, said in (kept or {}).items():
            if reason is None and re.search(pattern, node.name):
                reason = said
        if reason is None and precision == "fp16" and magnitudes is not None:
            reason = _beyond(node, magnitudes)
        kind = FULL
        if node.op_type in _INDICES:
            reason = reason or "no arithmetic on floats"
        elif reason is None and precision == "int8":
            weighted = node.op_type not in WEIGHTED or _has_weights(graph, node)
            if node.op_type in QUANTISED[network] and weighted:
                kind, reason = precision, _MEANING[precision]
            else:
                reason = "not an operator that int8 makes faster in this network"
        elif reason is None and node.op_type in AGNOSTIC:
            source = next((graph.producer[i] for i in node.input if i in graph.producer), None)
            kind = types.get(source.name, FULL) if source is not None else FULL
            reason = "moves values: as what it reads"
        elif reason is None:
            kind, reason = precision, _MEANING[precision]
        types[node.name], why[node.name] = kind, reason
    floats = _floats(model)
    pins = tuple(n.name for n in graph.proto.node if types[n.name] == FULL and _computes(graph, n, floats))
    return PrecisionPlan(precision, types, why, {n.name: tuple(n.output) for n in graph.proto.node}, pins)


def plan_of_weights(model: onnx.ModelProto, stored: Container[str]) -> PrecisionPlan:
    """The plan of a graph that is computed in fp32; the weights of nodes named in `stored` are int8."""
    graph = Graph(model)

    def reason(node: onnx.NodeProto) -> str:
        if node.name in stored:
            return "its weights are int8 with a scale a channel, and computed with in fp32: in int8 it is no faster"
        if all(graph.value(name) is not None for name in node.input if name):
            return "of constants alone: done once, when the graph is loaded"
        if node.op_type in WEIGHTED and _has_weights(graph, node):
            return "few weights, or of grouped channels: they stay fp32"
        return "no weights"

    why = {n.name: reason(n) for n in model.graph.node}
    return PrecisionPlan("int8", dict.fromkeys(why, FULL), why, {n.name: tuple(n.output) for n in model.graph.node})


def _floats(model: onnx.ModelProto) -> frozenset[str]:
    """Names of the float32 tensors that nodes make."""
    inferred = onnx.shape_inference.infer_shapes(model)
    values = (*inferred.graph.value_info, *inferred.graph.output)
    return frozenset(v.name for v in values if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT)


def _computes(graph: Graph, node: onnx.NodeProto, floats: frozenset[str]) -> bool:
    """Whether an engine has a layer of floats for it: it rounds, and what it reads is not constant."""
    if node.op_type in _INDICES or node.op_type in AGNOSTIC or not floats.intersection(node.output):
        return False
    return any(name and graph.value(name) is None for name in node.input)


def _island(node: onnx.NodeProto, islands: tuple[Island, ...], ends: frozenset[str]) -> str | None:
    for island in islands:
        named = island.nodes and re.search(island.nodes, node.name)
        if node.op_type in island.operators or named or (island.last_layers and node.name in ends):
            return island.why
    return None


def _beyond(node: onnx.NodeProto, magnitudes: Mapping[str, float]) -> str | None:
    name = max((*node.input, *node.output), key=lambda t: magnitudes.get(t, 0.0))
    largest = magnitudes.get(name, 0.0)
    return f"reaches {largest:.3g} on calibration faces, float16 ends at 65504" if largest > FP16_SAFE else None


def _has_weights(graph: Graph, node: onnx.NodeProto) -> bool:
    return any(graph.value(name) is not None for name in node.input)


def _ends(graph: Graph) -> frozenset[str]:
    """Names of the nodes from each output back to the first layer with weights, that one included."""
    found: set[str] = set()
    waiting = list(graph.outputs)
    while waiting:
        node = graph.producer.get(waiting.pop())
        if node is None or node.name in found:
            continue
        found.add(node.name)
        if not (node.op_type in WEIGHTED and _has_weights(graph, node)):
            waiting.extend(node.input)
    return frozenset(found)

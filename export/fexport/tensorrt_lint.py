"""What TensorRT's parser would refuse, or take and get wrong, found in an ONNX graph without TensorRT.

The second kind is why this exists: TensorRT 8.6 ignores the axes that opset 18 gives to reductions as an input, and reduces
over everything, silently. Rules are read off onnx-tensorrt's sources and NVIDIA's operator tables, for 8.6, 10.x and 11.x.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper

from fexruntime.errors import InputError

VERSIONS = ("8.6", "10.x from 10.3", "11.x")
OPSETS = {8: (7, 17), 10: (9, 20), 11: (9, 25)}
"""Lowest and highest opset that the parser of a major version reads."""
MOST_TOP_K = 3840
_EDGE = {8: (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT32)}
_REDUCTIONS = ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSumSquare")  # fmt: skip
_PLUGINS = ("RoiAlign", "GroupNormalization", "DeformConv")
_DATA_DEPENDENT = ("NonMaxSuppression", "NonZero", "Compress", "Unique")
_QUANTISERS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that a graph breaks, the node (or tensor) that breaks it, and what follows from it."""

    rule: str
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.where}: {self.message}"


def version_of(text: str) -> tuple[int, int]:
    """(major, minor) of "8.6" or "10.16.1"; InputError for a TensorRT that is not supported."""
    found = re.match(r"^(\d+)\.(\d+)", text)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    if version != (8, 6) and not (version[0] == 10 and version[1] >= 3) and version[0] != 11:
        raise InputError(f"no rules for TensorRT {text!r}: there are {', '.join(VERSIONS)}")
    return version


def lint(model: onnx.ModelProto, tensorrt: str = "8.6") -> list[Finding]:
    """Every rule that the graph breaks for this TensorRT; an empty list is a graph that it reads rightly.

    Raises InputError for a TensorRT version without rules.
    """
    look = _Look(model, version_of(tensorrt))
    return [finding for rule in _RULES for finding in rule(look)]


class _Look:
    """A graph with what the rules ask of it: constants, producers, the version."""

    def __init__(self, model: onnx.ModelProto, version: tuple[int, int]) -> None:
        self.model, self.graph, self.version = model, model.graph, version
        self.major = version[0]
        self.opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
        self.constants = {t.name: t for t in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = node.attribute[0].t
        self.nodes = list(_all_nodes(model.graph))

    def of(self, *kinds: str) -> Iterator[onnx.NodeProto]:
        return (node for node in self.nodes if node.op_type in kinds)

    def value(self, name: str) -> Any:
        """A constant's array; None for a tensor that is computed."""
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _all_nodes(attribute.g)


def _named(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {node.name or (node.output[0] if node.output else '')}".strip()


def _attribute(node: onnx.NodeProto, name: str, otherwise: Any = None) -> Any:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), otherwise)


def _opset(look: _Look) -> Iterator[Finding]:
    low, high = OPSETS[look.major]
    if not low <= look.opset <= high:
        raised = "export at opset 17" if look.opset > high else "raise it with onnx.version_converter"
        yield Finding(
            "opset", f"opset {look.opset}", f"TensorRT {look.major} reads opsets {low} to {high} rightly: {raised}"
        )


def _axes(look: _Look) -> Iterator[Finding]:
    if look.major >= 10:
        return
    for node in look.of(*_REDUCTIONS):
        if len(node.input) > 1 and node.input[1]:
            yield Finding("axes", _named(node), "axes given as an input are ignored: it would reduce over every axis")


def _domains(look: _Look) -> Iterator[Finding]:
    for node in look.nodes:
        if node.domain not in ("", "ai.onnx"):
            yield Finding("operator", _named(node), f"the domain {node.domain!r} is not ONNX's: it needs a plugin")


def _plugins(look: _Look) -> Iterator[Finding]:
    for node in look.of(*_PLUGINS):
        yield Finding("operator", _named(node), "is a plugin of TensorRT's: keep it outside the graph")
    for node in look.of("ScatterElements", "ScatterND"):
        if _attribute(node, "reduction", b"none") != b"none":
            yield Finding(
                "operator", _named(node), "with a reduction is a plugin, from 10.0 on: keep it outside the graph"
            )
    for node in look.of(*_DATA_DEPENDENT):
        yield Finding("operator", _named(node), "has a size that depends on the data: keep it outside the graph")


def _resize(look: _Look) -> Iterator[Finding]:
    for node in look.of("Resize"):
        if _attribute(node, "antialias", 0):
            yield Finding(
                "resize", _named(node), "no version antialiases: resize before the graph, or with weights in it"
            )


def _einsum(look: _Look) -> Iterator[Finding]:
    if look.major >= 10:
        return
    for node in look.of("Einsum"):
        terms = _attribute(node, "equation", b"").decode().split("->")[0].split(",")
        if any("..." in t or len(set(t.strip())) != len(t.strip()) for t in terms):
            yield Finding("einsum", _named(node), "has an ellipsis or a diagonal, which 8.6 does not know")


def _top_k(look: _Look) -> Iterator[Finding]:
    for node in look.of("TopK"):
        k = look.value(node.input[1]) if len(node.input) > 1 else _attribute(node, "k")
        if k is None:
            yield Finding("topk", _named(node), "K is computed: it has to be a constant")
        elif int(k if isinstance(k, int) else k.reshape(-1)[0]) > MOST_TOP_K:
            yield Finding("topk", _named(node), f"K is more than {MOST_TOP_K}")


def _edges(look: _Look) -> Iterator[Finding]:
    allowed = _EDGE[8]  # int64 is int32 on 8.6 and int64 from 9 on: neither side could rely on it
    for kind, values in (("input", look.graph.input), ("output", look.graph.output)):
        for value in values:
            dtype = value.type.tensor_type.elem_type
            if value.name not in look.constants and dtype not in allowed:
                name = TensorProto.DataType.Name(dtype).lower() if dtype else "no type"
                yield Finding("edge", f"{kind} {value.name}", f"is {name}: cast it to float32 or int32 in the graph")


def _types(look: _Look) -> Iterator[Finding]:
    newer = {TensorProto.BFLOAT16: "bfloat16", TensorProto.FLOAT8E4M3FN: "float8"} if look.major < 10 else {}
    for name, tensor in look.constants.items():
        if tensor.data_type in newer:
            yield Finding("type", name, f"is {newer[tensor.data_type]}, which 8.6 does not know")


def _quantisation(look: _Look) -> Iterator[Finding]:
    for node in look.of(*_QUANTISERS):
        where = _named(node)
        if len(node.input) < 3 or not node.input[2]:
            yield Finding("qdq", where, "has no zero point: it would be uint8's")
            continue
        zero, scale = look.constants.get(node.input[2]), look.constants.get(node.input[1])
        if zero is None or scale is None:
            yield Finding("qdq", where, "scale and zero point have to be constants")
            continue
        if zero.data_type not in (TensorProto.INT8, TensorProto.FLOAT8E4M3FN):
            kind = TensorProto.DataType.Name(zero.data_type).lower()
            yield Finding(
                "qdq", where, f"quantises to {kind}: int8 alone is taken (quantise symmetrically, biases not at all)"
            )
        elif zero.data_type == TensorProto.INT8 and numpy_helper.to_array(zero).any():
            yield Finding("qdq", where, "has a zero point that is not 0: quantise symmetrically")
        values = numpy_helper.to_array(scale)
        if not (values > 0).all():
            yield Finding("qdq", where, "has a scale that is not above 0")
        if look.major < 10 and scale.data_type != TensorProto.FLOAT:
            yield Finding("qdq", where, "has a scale that is not float32, as which 8.6 reads it")
        if values.size > 1 and not _is_weight(look, node.input[0]):
            yield Finding("qdq", where, "quantises an activation by channel: weights alone may be")


def _is_weight(look: _Look, name: str) -> bool:
    if name in look.constants:
        return True
    maker = next((n for n in look.nodes if name in n.output), None)
    return (
        maker is not None and maker.op_type in (*_QUANTISERS, "Cast", "Transpose") and _is_weight(look, maker.input[0])
    )


_RULES: tuple[Callable[[_Look], Iterator[Finding]], ...] = (
    _opset, _axes, _domains, _plugins, _resize, _einsum, _top_k, _edges, _types, _quantisation,
)  # fmt: skip

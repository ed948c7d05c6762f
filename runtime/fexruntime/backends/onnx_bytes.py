"""What a serialised ONNX graph is made of, read off its bytes without the onnx package.

`describe()` has to say in which precision a network really runs, and the runtime does without onnx. The few fields
that tell are found by walking the protocol buffer: ModelProto.graph (7), GraphProto.node (1) and .initializer (5),
NodeProto.input (1) and .op_type (4), TensorProto.dims (1), data_type (2) and name (8). Numbers as in onnx.proto3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from math import prod
from mmap import ACCESS_READ, mmap
from typing import NamedTuple

_NAMES = {1: "fp32", 10: "fp16", 16: "bf16", 2: "int8", 3: "int8"}
FULL = "fp32"


class Types(NamedTuple):
    """What most of a graph's weights are computed in, and what they are stored as: "fp32", "fp16", "bf16" or "int8"."""

    computed: str
    stored: str

    def said(self) -> dict[str, str]:
        """What `describe()` says: the precision, and the weights' where it is another."""
        return {"precision": self.computed} | ({"weights": self.stored} if self.stored != self.computed else {})


def types_as(precision: str, found: Types) -> Types:
    """Types of an artefact of some precision, in whose graph `found` was. Only int8 is the graph's to say (its weights may be all of
    it); what bfloat16 and float16 are computed in is the engine's choice.
    """
    return Types(found.computed if precision == "int8" else precision, found.stored)


def types_of(model: bytes | mmap) -> Types:
    """Types of a graph: "int8" for one that quantises; weights that are only cast when they are read are computed in fp32."""
    with memoryview(model) as whole:
        return _types(whole)


def types_in(file: str) -> Types:
    """Types of the graph in a file, which is mapped and not held."""
    with open(file, "rb") as graph, mmap(graph.fileno(), 0, access=ACCESS_READ) as mapped:
        return types_of(mapped)


def _types(model: memoryview) -> Types:
    weights: list[tuple[str, str, int]] = []
    nodes: list[memoryview] = []
    for field, value in _fields(model):
        if field != 7 or isinstance(value, int):
            continue
        for part, content in _fields(value):
            if isinstance(content, int):
                continue
            if part == 1:
                if _quantises(content):
                    return Types("int8", "int8")
                nodes.append(content)
            elif part == 5:
                kind, name, count = _tensor(content)
                if kind in _NAMES:
                    weights.append((_NAMES[kind], name, count))
    stored = _most((kind, count) for kind, _, count in weights)
    if stored == FULL:
        return Types(stored, stored)
    read = _read_as_they_are(nodes)
    return Types(_most((kind if name in read else FULL, count) for kind, name, count in weights), stored)


def _most(kinds: Iterator[tuple[str, int]]) -> str:
    counted: Counter[str] = Counter()
    for kind, count in kinds:
        counted[kind] += count
    return counted.most_common(1)[0][0] if counted else "unknown"


def _read_as_they_are(nodes: Sequence[memoryview]) -> set[str]:
    """Names of what nodes read, but for those that only casts do."""
    names: set[str] = set()
    for node in nodes:
        content = [(f, bytes(v)) for f, v in _fields(node) if f in (1, 4) and not isinstance(v, int)]
        if (4, b"Cast") not in content:
            names |= {v.decode() for f, v in content if f == 1}
    return names


def _quantises(node: memoryview) -> bool:
    if b"QLinear" not in (raw := bytes(node)) and b"DequantizeLinear" not in raw:  # almost every node, at once
        return False
    operator = next((bytes(v) for f, v in _fields(node) if f == 4 and not isinstance(v, int)), b"")
    return operator in (b"DequantizeLinear", b"QLinearConv", b"QLinearMatMul")


def _tensor(tensor: memoryview) -> tuple[int, str, int]:
    """(data type, name, number of values)."""
    kind, name, dims = 0, "", []
    for field, value in _fields(tensor):
        if field == 2 and isinstance(value, int):
            kind = value
        elif field == 1:
            dims += [value] if isinstance(value, int) else list(_varints(value))
        elif field == 8 and not isinstance(value, int):
            name = bytes(value).decode()
    return kind, name, prod(dims)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, content) of a message: an int for numbers, the bytes for everything that has a length."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        wire = key & 7
        if wire == 0:
            number, at = _varint(message, at)
            yield key >> 3, number
        elif wire == 2:
            length, at = _varint(message, at)
            yield key >> 3, message[at : at + length]
            at += length
        else:  # 1: eight bytes, 5: four
            at += 8 if wire == 1 else 4


def _varints(packed: memoryview) -> Iterator[int]:
    at = 0
    while at < len(packed):
        number, at = _varint(packed, at)
        yield number


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = message[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at

"""What a serialised ONNX graph is made of, read off its bytes without the onnx package.

`describe()` has to say in which precision a network really runs, and the runtime does without onnx. The few fields
that tell are found by walking the protocol buffer: ModelProto.graph (7), GraphProto.node (1) and .initializer (5),
NodeProto.op_type (4), TensorProto.data_type (2), dims (1). Numbers as in onnx.proto3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import prod
from mmap import mmap

_NAMES = {1: "fp32", 10: "fp16", 16: "bf16", 2: "int8", 3: "int8"}


def precision_of(model: bytes | mmap) -> str:
    """ "int8" for a graph that quantises, else the type that most of its weights have: "fp32", "fp16" or "bf16"."""
    with memoryview(model) as whole:
        return _precision(whole)


def _precision(model: memoryview) -> str:
    weights: Counter[str] = Counter()
    for field, value in _fields(model):
        if field != 7 or isinstance(value, int):
            continue
        for part, content in _fields(value):
            if isinstance(content, int):
                continue
            if part == 1 and _quantises(content):
                return "int8"
            if part == 5:
                kind, count = _tensor(content)
                if kind in _NAMES:
                    weights[_NAMES[kind]] += count
    return weights.most_common(1)[0][0] if weights else "unknown"


def _quantises(node: memoryview) -> bool:
    if b"QLinear" not in (raw := bytes(node)) and b"DequantizeLinear" not in raw:  # almost every node, at once
        return False
    operator = next((bytes(v) for f, v in _fields(node) if f == 4 and not isinstance(v, int)), b"")
    return operator in (b"DequantizeLinear", b"QLinearConv", b"QLinearMatMul")


def _tensor(tensor: memoryview) -> tuple[int, int]:
    """(data type, number of values)."""
    kind, dims = 0, []
    for field, value in _fields(tensor):
        if field == 2 and isinstance(value, int):
            kind = value
        elif field == 1:
            dims += [value] if isinstance(value, int) else list(_varints(value))
    return kind, prod(dims)


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

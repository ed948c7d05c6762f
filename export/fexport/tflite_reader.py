"""A .tflite file as plain values: its operators in order, their options, its constants. On the `tflite` schema package alone.

No TensorFlow and no interpreter: the file is a flat buffer of tables, which this module reads into `TfliteGraph`, less
what is only about storage (DEQUANTIZE of a float16 constant). What the operators mean is `networks.tflite_module`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fexruntime.errors import CheckpointError, EnvironmentMissingError

_DTYPES = {0: np.float32, 1: np.float16, 2: np.int32}
"""By the schema's TensorType; what these networks hold."""


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator: tensors by number. `kind` is the schema's name of it, or a custom operator's own."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TfliteGraph:
    """A model with one graph. Shapes are TensorFlow's, channels last; constants are float32 and int32."""

    operators: tuple[Operator, ...]
    constants: dict[int, NDArray[Any]]
    shapes: dict[int, tuple[int, ...]]
    inputs: tuple[int, ...]
    outputs: dict[str, int]
    """Number of each output tensor by its name."""


def read(name: str, data: bytes) -> TfliteGraph:
    """Read a file's bytes. CheckpointError if it is no such file, or holds what this reader does not know."""
    try:
        import tflite
    except ImportError:
        raise EnvironmentMissingError(f"reading {name} needs tflite: pip install 'fexport[export]'") from None
    if data[4:8] != b"TFL3":
        raise CheckpointError(f"{name} is not a .tflite file")
    try:
        model = tflite.Model.GetRootAs(data, 0)
        if model.SubgraphsLength() != 1:
            raise CheckpointError(f"{name} has {model.SubgraphsLength()} graphs; one is read")
        return _graph(model, name)
    except (ValueError, IndexError, TypeError, AttributeError, KeyError) as error:  # flatbuffers reads what it is given
        raise CheckpointError(f"{name} is damaged, or no file that can be read here: {error}") from None


def _graph(model: Any, name: str) -> TfliteGraph:
    graph = model.Subgraphs(0)
    tensors = [graph.Tensors(i) for i in range(graph.TensorsLength())]
    constants = {i: value for i, t in enumerate(tensors) if (value := _constant(model, t, name)) is not None}
    operators = []
    for i in range(graph.OperatorsLength()):
        operator = _operator(model, graph.Operators(i), name)
        if operator.kind == "DEQUANTIZE" and operator.inputs[0] in constants:  # a float16 number is one of float32, too
            constants[operator.outputs[0]] = constants[operator.inputs[0]]
        else:
            operators.append(operator)
    read_by = {i for o in operators for i in o.inputs}
    return TfliteGraph(
        tuple(operators),
        {i: value for i, value in constants.items() if i in read_by},
        {i: _numbers(t.ShapeAsNumpy()) for i, t in enumerate(tensors)},
        _numbers(graph.InputsAsNumpy()),
        {tensors[i].Name().decode(): i for i in _numbers(graph.OutputsAsNumpy())},
    )


def _constant(model: Any, tensor: Any, name: str) -> NDArray[Any] | None:
    buffer = model.Buffers(tensor.Buffer())
    if not buffer.DataLength():
        return None
    if tensor.Type() not in _DTYPES:
        raise CheckpointError(
            f"{name} has constants of TensorType {tensor.Type()}; float32, float16 and int32 are read"
        )
    kind = _DTYPES[tensor.Type()]
    value = buffer.DataAsNumpy().view(kind).reshape(_numbers(tensor.ShapeAsNumpy()))
    return np.array(value, np.float32 if kind is np.float16 else kind)


def _operator(model: Any, operator: Any, name: str) -> Operator:
    import tflite

    code = model.OperatorCodes(operator.OpcodeIndex())
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())  # the second field is of files older than 2020
    if number == tflite.BuiltinOperator.CUSTOM:
        kind = code.CustomCode().decode()
        blob = bytes(operator.CustomOptionsAsNumpy()) if operator.CustomOptionsLength() else b""
        options = _flexbuffer(blob) if blob else {}
    else:
        kind = next(k for k, v in vars(tflite.BuiltinOperator).items() if v == number)
        options = _options(operator, kind)
    return Operator(kind, _numbers(operator.InputsAsNumpy()), _numbers(operator.OutputsAsNumpy()), options)


def _options(operator: Any, kind: str) -> dict[str, Any]:
    """The options of a built-in operator that this reader knows, by the schema's field names."""
    if kind not in _FIELDS:
        return {}
    import tflite

    table, fields = _FIELDS[kind]
    options = getattr(tflite, table)()
    options.Init(operator.BuiltinOptions().Bytes, operator.BuiltinOptions().Pos)
    return {f: int(getattr(options, f)()) for f in fields}


_CONV = ("Padding", "StrideH", "StrideW", "DilationHFactor", "DilationWFactor", "FusedActivationFunction")
_FIELDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "CONV_2D": ("Conv2DOptions", _CONV),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", (*_CONV, "DepthMultiplier")),
    "MAX_POOL_2D": (
        "Pool2DOptions",
        ("Padding", "StrideH", "StrideW", "FilterHeight", "FilterWidth", "FusedActivationFunction"),
    ),
    "ADD": ("AddOptions", ("FusedActivationFunction",)),
    "MUL": ("MulOptions", ("FusedActivationFunction",)),
    "CONCATENATION": ("ConcatenationOptions", ("Axis", "FusedActivationFunction")),
    "STRIDED_SLICE": (
        "StridedSliceOptions",
        ("BeginMask", "EndMask", "EllipsisMask", "NewAxisMask", "ShrinkAxisMask"),
    ),
}


def _flexbuffer(blob: bytes) -> dict[str, Any]:
    from flatbuffers import flexbuffers

    value: dict[str, Any] = flexbuffers.Loads(bytearray(blob))
    return value


def _numbers(array: Any) -> tuple[int, ...]:
    return () if isinstance(array, int) else tuple(int(v) for v in array)  # the package answers 0 for no vector

"""An exported ONNX graph as ncnn's layers: one method an operator.

Layers, their parameters by number and the order of their weights: ncnn's own documents
(docs/developer-guide/operators.md). An item has no batch axis: [C,H,W], [rows, width] or a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fexport.onnx_graph import Graph, attribute
from fexruntime.errors import FexportError

RAW_FP32 = b"\0\0\0\0"
"""The tag before weights that may be stored in several ways: these are float32 as they are."""
_INDEX = frozenset({"Shape", "Gather", "Unsqueeze", "Slice", "Cast", "Constant", "Concat"})
"""Operators that the exporter leaves to compute shapes; ncnn's layers find them out themselves."""


class NotHeldError(FexportError):
    """ncnn has no layer for something in this graph."""


@dataclass(slots=True)
class Layer:
    """One layer: its kind, name, the blobs it reads and makes, numbered parameters, weights in ncnn's order."""

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    parameters: dict[int, Any] = field(default_factory=dict)
    weights: list[bytes] = field(default_factory=list)


def layers_of(model: onnx.ModelProto) -> list[Layer]:
    """The layers of a graph, in order. Raises NotHeldError for what ncnn cannot hold."""
    return _Converter(model).layers()


class _Converter:
    """Walks a graph in order and adds layers."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = Graph(model)
        self.done: list[Layer] = []
        self.fused: set[str] = set()
        """Outputs of activations that were fused into what feeds them."""

    def layers(self) -> list[Layer]:
        """The layers of the whole graph. Raises NotHeldError for what ncnn cannot hold."""
        for value in self.graph.proto.input:
            self._add("Input", value.name, [], [value.name])
        for node in self.graph.proto.node:
            if node.output[0] in self.fused or (node.op_type in _INDEX and not self._is_data(node)):
                continue
            handler = _HANDLERS.get(node.op_type)
            if handler is None:
                raise NotHeldError(f"ncnn has no layer for {node.op_type} ({node.name or node.output[0]})")
            handler(self, node)
        return self.done

    def _is_data(self, node: onnx.NodeProto) -> bool:
        """Whether a Concat joins maps rather than numbers of a shape."""
        return node.op_type == "Concat" and any(
            name in {o for layer in self.done for o in layer.outputs} for name in node.input
        )

    def _add(self, kind: str, name: str, inputs: Sequence[str], outputs: Sequence[str], **more: Any) -> Layer:
        layer = Layer(kind, _word(name), [_word(n) for n in inputs], [_word(n) for n in outputs], **more)
        self.done.append(layer)
        return layer

    def constant(self, name: str) -> NDArray[Any]:
        value = self.graph.value(name)
        if value is None:
            raise NotHeldError(f"ncnn wants a constant where the graph computes {name}")
        return value

    def activation(self, node: onnx.NodeProto) -> tuple[str, dict[int, Any]]:
        """(output, parameters) of a node whose only reader is a ReLU or leaky ReLU, which is fused into it."""
        for kind, number in (("Relu", 1), ("LeakyRelu", 2)):
            reader = self.graph.only_consumer(node.output[0], kind)
            if reader is not None:
                self.fused.add(reader.output[0])
                slope = {-23310: [float(attribute(reader, "alpha", 0.01))]} if number == 2 else {}
                return reader.output[0], {9: number} | slope
        return node.output[0], {}

    # one method an operator

    def conv(self, node: onnx.NodeProto) -> None:
        weight = self.constant(node.input[1])
        bias = self.constant(node.input[2]) if len(node.input) > 2 else None
        if weight.ndim != 4 or attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
            raise NotHeldError(f"ncnn wants a plain two-dimensional convolution, not {node.name}")
        (down, across), group = weight.shape[2:], attribute(node, "group", 1)
        strides, dilations = attribute(node, "strides", [1, 1]), attribute(node, "dilations", [1, 1])
        top, left, bottom, right = attribute(node, "pads", [0, 0, 0, 0])
        output, activation = self.activation(node)
        parameters = {
            0: len(weight),
            1: across,
            11: down,
            2: dilations[1],
            12: dilations[0],
            3: strides[1],
            13: strides[0],
        }
        parameters |= {4: left, 14: top, 15: right, 16: bottom, 5: bias is not None, 6: weight.size, **activation}
        if group != 1:
            parameters[7] = group
        weights = [RAW_FP32 + raw(weight), *([raw(bias)] if bias is not None else [])]
        kind = "Convolution" if group == 1 else "ConvolutionDepthWise"
        self._add(kind, node.output[0], node.input[:1], [output], parameters=parameters, weights=weights)

    def deconv(self, node: onnx.NodeProto) -> None:
        """Weights [in, out, down, across] there, [out, in, …] here."""
        weight = self.constant(node.input[1])
        bias = self.constant(node.input[2]) if len(node.input) > 2 else None
        plain = attribute(node, "group", 1) == 1 and not any(attribute(node, "pads", [0]))
        if weight.ndim != 4 or not plain or any(attribute(node, "output_padding", [0])):
            raise NotHeldError(f"ncnn wants a plain two-dimensional transposed convolution, not {node.name}")
        (down, across), strides = weight.shape[2:], attribute(node, "strides", [1, 1])
        parameters = {0: weight.shape[1], 1: across, 11: down, 3: strides[1], 13: strides[0]}
        parameters |= {5: bias is not None, 6: weight.size}
        weights = [RAW_FP32 + raw(weight.transpose(1, 0, 2, 3)), *([raw(bias)] if bias is not None else [])]
        self._add("Deconvolution", node.output[0], node.input[:1], node.output, parameters=parameters, weights=weights)

    def relu(self, node: onnx.NodeProto) -> None:
        slope = float(attribute(node, "alpha", 0.01)) if node.op_type == "LeakyRelu" else 0.0
        self._add("ReLU", node.output[0], node.input, node.output, parameters={0: slope})

    def prelu(self, node: onnx.NodeProto) -> None:
        slope = self.constant(node.input[1]).ravel()
        self._add(
            "PReLU", node.output[0], node.input[:1], node.output, parameters={0: len(slope)}, weights=[raw(slope)]
        )

    def batch_norm(self, node: onnx.NodeProto) -> None:
        scale, shift, mean, variance = (self.constant(name).astype(np.float64) for name in node.input[1:5])
        gain = scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        self.scale(node, gain, shift - mean * gain)

    def scale(self, node: onnx.NodeProto, gain: NDArray[Any], offset: NDArray[Any]) -> None:
        """gain · x + offset, by channel."""
        parameters = {0: len(gain), 1: 1}
        self._add(
            "Scale",
            node.output[0],
            node.input[:1],
            node.output,
            parameters=parameters,
            weights=[raw(gain), raw(offset)],
        )

    def arithmetic(self, node: onnx.NodeProto) -> None:
        """Two maps, or a map and a constant a channel."""
        number = {"Add": 0, "Sub": 1, "Mul": 2, "Div": 3}[node.op_type]
        constants = [self.graph.value(name) for name in node.input]
        if constants[0] is None and constants[1] is None:
            self._add("BinaryOp", node.output[0], node.input, node.output, parameters={0: number})
            return
        value = constants[1]
        if value is not None and value.size == 1:
            parameters = {0: number, 1: 1, 2: float(value.ravel()[0])}
            self._add("BinaryOp", node.output[0], node.input[:1], node.output, parameters=parameters)
            return
        if value is None or (value.ndim == 4 and value.shape[2:] != (1, 1)) or value.ndim != 4:
            raise NotHeldError(f"ncnn wants a constant a channel behind the map in {node.name}")
        numbers = value.astype(np.float64).ravel()
        one, zero = np.ones_like(numbers), np.zeros_like(numbers)
        gain, offset = {0: (one, numbers), 1: (one, -numbers), 2: (numbers, zero), 3: (1 / numbers, zero)}[number]
        self.scale(node, gain, offset)

    def max_pool(self, node: onnx.NodeProto) -> None:
        down, across = attribute(node, "kernel_shape")
        strides, (top, left, bottom, right) = attribute(node, "strides", [1, 1]), attribute(node, "pads", [0, 0, 0, 0])
        if attribute(node, "ceil_mode", 0):
            raise NotHeldError(f"ncnn's pooling here rounds down, {node.name} rounds up")
        parameters = {0: 0, 1: across, 11: down, 2: strides[1], 12: strides[0]}
        parameters |= {3: left, 13: top, 14: right, 15: bottom, 5: 1}
        self._add("Pooling", node.output[0], node.input, node.output, parameters=parameters)

    def mean(self, node: onnx.NodeProto) -> None:
        """Over the whole map, to a vector of channels."""
        if sorted(attribute(node, "axes", [])) != [2, 3] or attribute(node, "keepdims", 1):
            raise NotHeldError(f"ncnn's mean here is over the whole map, {node.op_type} {node.name} is another")
        self._add("Pooling", node.output[0], node.input, node.output, parameters={0: 1, 4: 1})

    def total(self, node: onnx.NodeProto) -> None:
        """Of a vector."""
        axes = self.constant(node.input[1]).tolist() if len(node.input) > 1 else []
        if axes not in ([1], [-1]) or not attribute(node, "keepdims", 1) or not self._is_vector(node.input[0]):
            raise NotHeldError(f"ncnn's sum here is over a vector, that of {node.name} is not")
        self._add("Reduction", node.output[0], node.input[:1], node.output, parameters={0: 0, 1: 1, 4: 1})

    def square_root(self, node: onnx.NodeProto) -> None:
        self._add("UnaryOp", node.output[0], node.input, node.output, parameters={0: 5})

    def clip(self, node: onnx.NodeProto) -> None:
        bounds = [float(self.constant(name)) if name else None for name in (*node.input[1:], "", "")[:2]]
        parameters = {k: bound for k, bound in enumerate(bounds) if bound is not None}
        self._add("Clip", node.output[0], node.input[:1], node.output, parameters=parameters)

    def concat(self, node: onnx.NodeProto) -> None:
        self._add("Concat", node.output[0], node.input, node.output, parameters={0: attribute(node, "axis") - 1})

    def transpose(self, node: onnx.NodeProto) -> None:
        if list(attribute(node, "perm")) != [0, 2, 3, 1]:
            raise NotHeldError(f"ncnn's order for the axes of {node.name} is not known here")
        # 3: channels innermost, as [H,W,C]
        self._add("Permute", node.output[0], node.input, node.output, parameters={0: 3})

    def reshape(self, node: onnx.NodeProto) -> None:
        """[N,H,W,K·V] -> [N,A,V]; the last number of the shape is all that ncnn has to be told."""
        width = self._last_constant(node.input[1])
        self._add("Reshape", node.output[0], node.input[:1], node.output, parameters={0: width, 1: -1})

    def _last_constant(self, shape: str) -> int:
        whole = self.graph.value(shape)
        if whole is None:
            join = self.graph.producer.get(shape)
            last = None if join is None or join.op_type != "Concat" else self.graph.value(join.input[-1])
            if join is None or last is None or len(join.input) != 3:
                raise NotHeldError(f"ncnn wants a reshape to [items, -1, width], not by {shape}")
            return int(last.ravel()[-1])
        if len(whole) != 3 or list(whole[:2]) not in ([0, -1], [-1, -1]):
            raise NotHeldError(f"ncnn wants a reshape to [items, -1, width], not {whole.tolist()}")
        return int(whole[-1])

    def softmax(self, node: onnx.NodeProto) -> None:
        """Over the last axis of rows, or over the channels of a map or a vector."""
        axis = attribute(node, "axis", -1)
        if axis not in (-1, 1, 2) or (axis == -1 and self._is_vector(node.input[0])):
            raise NotHeldError(f"ncnn's softmax here is over the last axis of rows or over channels, not {node.name}")
        self._add("Softmax", node.output[0], node.input, node.output, parameters={0: 0 if axis == 1 else 1, 1: 1})

    def resize(self, node: onnx.NodeProto) -> None:
        """Nearest, to the size of another map: the one whose shape the graph reads for it."""
        mode, place = (
            attribute(node, "mode", b"nearest"),
            attribute(node, "coordinate_transformation_mode", b"half_pixel"),
        )
        if (mode, place, attribute(node, "nearest_mode", b"round_prefer_floor")) != (
            b"nearest",
            b"asymmetric",
            b"floor",
        ):
            raise NotHeldError(f"ncnn's resize here is the nearest pixel rounded down, {node.name} is not")
        like = [name for name in self._shapes_behind(node.input[3]) if name != node.input[0]]
        if len(like) != 1:
            raise NotHeldError(f"the size of {node.name} is not that of one other map")
        self._add("Interp", node.output[0], [node.input[0], like[0]], node.output, parameters={0: 1, 5: 1})

    def _shapes_behind(self, name: str) -> list[str]:
        """Maps whose shapes a computed size is made of."""
        found, todo = [], [name]
        while todo:
            node = self.graph.producer.get(todo.pop())
            if node is not None and node.op_type == "Shape":
                found.append(node.input[0])
            elif node is not None:
                todo += node.input
        return list(dict.fromkeys(found))

    def flatten(self, node: onnx.NodeProto) -> None:
        self._add("Flatten", node.output[0], node.input, node.output)

    def gemm(self, node: onnx.NodeProto) -> None:
        weight = self.constant(node.input[1])
        if not attribute(node, "transB", 0):
            weight = weight.T
        if (attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0), attribute(node, "transA", 0)) != (1.0, 1.0, 0):
            raise NotHeldError(f"ncnn wants a plain product, not {node.name}")
        self._inner_product(node, weight, self.constant(node.input[2]) if len(node.input) > 2 else None)

    def _inner_product(self, node: onnx.NodeProto, weight: NDArray[Any], bias: NDArray[Any] | None) -> None:
        parameters = {0: len(weight), 1: bias is not None, 2: weight.size}
        weights = [RAW_FP32 + raw(weight), *([raw(bias)] if bias is not None else [])]
        self._add("InnerProduct", node.output[0], node.input[:1], node.output, parameters=parameters, weights=weights)

    def matmul(self, node: onnx.NodeProto) -> None:
        """A vector by a matrix, or a map by a constant from either side (a resize written as products)."""
        left, right = (self.graph.value(name) for name in node.input)
        if right is not None and self._is_vector(node.input[0]):
            self._inner_product(node, right.T, None)
            return
        names = []
        for name, value in zip(node.input, (left, right), strict=True):
            if value is not None:
                names.append(self._memory(f"{node.output[0]}.{name}", value))
            else:
                names.append(name)
        self._add("MatMul", node.output[0], names, node.output)

    def _memory(self, name: str, value: NDArray[Any]) -> str:
        rows, columns = value.shape
        self._add("MemoryData", name, [], [name], parameters={0: columns, 1: rows}, weights=[raw(value)])
        return name

    def _is_vector(self, name: str) -> bool:
        """Whether an item of it is one row: behind what makes rows, and what keeps them."""
        producer = self.graph.producer.get(name)
        if producer is None:
            return False
        if producer.op_type in ("BatchNormalization", "Mul", "Add", "Sub", "Div", "Relu", "Softmax"):
            return self._is_vector(producer.input[0])
        return producer.op_type in ("Flatten", "Gemm", "ReduceMean") or (
            producer.op_type == "MatMul" and self._is_vector(producer.input[0])
        )


_HANDLERS: dict[str, Callable[[_Converter, onnx.NodeProto], None]] = {
    "Conv": _Converter.conv,
    "ConvTranspose": _Converter.deconv,
    "Relu": _Converter.relu,
    "LeakyRelu": _Converter.relu,
    "PRelu": _Converter.prelu,
    "BatchNormalization": _Converter.batch_norm,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _Converter.arithmetic),
    "MaxPool": _Converter.max_pool,
    "ReduceMean": _Converter.mean,
    "ReduceSum": _Converter.total,
    "Sqrt": _Converter.square_root,
    "Clip": _Converter.clip,
    "Concat": _Converter.concat,
    "Transpose": _Converter.transpose,
    "Reshape": _Converter.reshape,
    "Softmax": _Converter.softmax,
    "Resize": _Converter.resize,
    "Flatten": _Converter.flatten,
    "Gemm": _Converter.gemm,
    "MatMul": _Converter.matmul,
}


def _word(name: str) -> str:
    """A name without white space, which separates words in the text."""
    return name.replace(" ", "_")


def raw(value: NDArray[Any]) -> bytes:
    """Numbers as ncnn reads them: float32, in order."""
    return np.ascontiguousarray(value, np.float32).tobytes()

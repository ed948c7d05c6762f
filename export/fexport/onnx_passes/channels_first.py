"""Maps that a graph keeps as [B,H,W,C] between its convolutions, back to [B,C,H,W]: products become 1x1 convolutions.

For OpenVINO, which holds maps with their channels last in memory whatever the graph says: each Transpose is a copy there, a matrix
product takes neither its bias's function (GELU) nor an int8 layer's zero point into its kernel as a convolution does, and a
LayerNormalization of rows is three kernels and a copy. ConvNeXt's trunk is such a graph. Not for ONNX Runtime, whose LayerNormalization is one
kernel and whose int8 products answer floats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from fexport.onnx_graph import Graph, attribute, tidy

_TO_LAST, _TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
"""Transposes' orders; the first says where an axis of [B,H,W,C] is in [B,C,H,W], too."""
_BY_ELEMENT = ("Add", "Sub", "Mul", "Div", "Pow", "Erf", "Sqrt", "Relu", "Sigmoid", "Tanh")
_REDUCTIONS = ("ReduceMean", "ReduceL2")


def channels_first(model: onnx.ModelProto) -> int:
    """Rewrite what stands between Transposes to [B,H,W,C] and back, if a product is among it; answers how many products."""
    rewriting = _Rewriting(model)
    nodes = rewriting.nodes()
    if rewriting.products:
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        del model.graph.value_info[:]  # shapes of before
        model.graph.initializer.extend(rewriting.constants)
        tidy(model)
    return rewriting.products


class _Rewriting:
    """One walk over a graph. A tensor of a region has its name in the rewritten graph, where its channels come first."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.products = 0
        self.constants: list[onnx.TensorProto] = []
        self._graph = Graph(model)
        self._name: dict[str, str] = {}
        """What a tensor of a region is called now, where that is another name."""
        self._last: set[str] = set()
        """Tensors that were [B,H,W,C]."""
        self._in_conv: set[str] = set()
        """Sums that are a convolution's bias now."""
        self._rewritten: dict[str, Callable[[onnx.NodeProto], list[onnx.NodeProto] | None]] = {
            "LayerNormalization": self._norm,
            "MatMul": self._product,
            **dict.fromkeys(_BY_ELEMENT, self._by_element),
            **dict.fromkeys(_REDUCTIONS, self._reduction),
        }

    def nodes(self) -> list[onnx.NodeProto]:
        """The graph's nodes, rewritten."""
        made: list[onnx.NodeProto] = []
        back: dict[str, str] = {}
        for node in self._graph.proto.node:
            if node.output[0] in self._in_conv:
                continue
            if node.op_type == "Transpose" and (edge := self._edge(node)) is not None:
                made += edge
                continue
            if not self._last.intersection(node.input):
                made.append(self._renamed(node))
                continue
            rewritten = self._rewritten[node.op_type](node) if node.op_type in self._rewritten else None
            if rewritten is not None:
                made += rewritten
                continue
            # nothing is known of it: it gets what it got
            other = self._renamed(node)
            for k, name in enumerate(node.input):
                if name in self._last:
                    if name not in back:
                        back[name] = f"{name}.channels_last"
                        made.append(self._transposed(self._name.get(name, name), back[name], _TO_LAST))
                    other.input[k] = back[name]
            made.append(other)
        for name in sorted(self._last & self._graph.outputs):  # the edge of the graph is as it was
            made.append(self._transposed(self._name.get(name, name), name, _TO_LAST))
        return made

    def _edge(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        """What a Transpose into a region, or out of one, becomes: what it gives is what it was given."""
        order, source, out = list(attribute(node, "perm", [])), node.input[0], node.output[0]
        if order == _TO_LAST and source not in self._last and out not in self._graph.outputs:
            self._name[out] = source
            self._last.add(out)
            return []
        if order == _TO_FIRST and source in self._last:
            # under its own name: calibrated ranges are known by it
            return [helper.make_node("Identity", [self._name.get(source, source)], [out], name=node.name)]
        return None

    def _renamed(self, node: onnx.NodeProto) -> onnx.NodeProto:
        other = onnx.NodeProto()
        other.CopyFrom(node)
        other.input[:] = [self._name.get(name, name) for name in node.input]
        return other

    def _gives(self, name: str) -> str:
        """A tensor of the region that a node makes."""
        self._last.add(name)
        if name in self._graph.outputs:
            self._name[name] = f"{name}.channels_first"
        return self._name.get(name, name)

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants.append(onnx.numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    @staticmethod
    def _transposed(source: str, out: str, order: list[int]) -> onnx.NodeProto:
        return helper.make_node("Transpose", [source], [out], name=f"{out}/transpose", perm=order)

    def _by_element(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        other = self._renamed(node)
        for k, name in enumerate(node.input):
            if name in self._last:
                continue
            value = self._graph.value(name)
            if value is None or value.ndim not in (0, 1, 4):
                return None
            if value.size > 1:
                moved = value.reshape(-1, 1, 1) if value.ndim == 1 else value.transpose(_TO_FIRST)
                other.input[k] = self._constant(f"{node.output[0]}.{k}.channels_first", moved)
        other.output[0] = self._gives(node.output[0])
        return [other]

    def _reduction(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        if not attribute(node, "keepdims", 1) or not attribute(node, "axes"):
            return None
        other = self._renamed(node)
        for a in other.attribute:
            if a.name == "axes":
                a.ints[:] = [_TO_LAST[axis] for axis in a.ints]
        other.output[0] = self._gives(node.output[0])
        return [other]

    def _product(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        weights = self._graph.value(node.input[1])
        if node.input[0] not in self._last or weights is None or weights.ndim != 2:
            return None
        out, inputs = node.output[0], [self._name.get(node.input[0], node.input[0])]
        inputs.append(self._constant(f"{out}.weights_of_conv", weights.T[:, :, None, None]))
        following = self._graph.only_consumer(out, "Add")
        if following is not None:
            (bias,) = (n for n in following.input if n != out) if len(set(following.input)) == 2 else ("",)
            value = self._graph.value(bias) if bias else None
            if value is not None and value.shape == (weights.shape[1],):
                inputs.append(bias)
                out = following.output[0]
                self._in_conv.add(out)
        self.products += 1
        return [helper.make_node("Conv", inputs, [self._gives(out)], name=node.name, kernel_shape=[1, 1])]

    def _norm(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        """(x - mean) / sqrt(mean((x - mean)²) + epsilon) * scale + shift over the channels."""
        weights = [self._graph.value(name) for name in node.input[1:]]
        if attribute(node, "axis", -1) not in (-1, 3) or len(weights) != 2 or any(w is None for w in weights):
            return None
        if len(node.output) > 1:
            return None
        x, out = self._name.get(node.input[0], node.input[0]), node.output[0]
        scale, shift = (
            self._constant(f"{out}.{word}", np.reshape(np.asarray(w), (-1, 1, 1)))
            for word, w in zip(("scale", "shift"), weights, strict=True)
        )
        epsilon = self._constant(f"{out}.epsilon", np.float32(attribute(node, "epsilon", 1e-5)))
        steps: tuple[tuple[str, str, list[str], dict[str, Any]], ...] = (
            ("ReduceMean", "mean", [x], {"axes": [1]}),
            ("Sub", "centred", [x, f"{out}.mean"], {}),
            ("Mul", "squares", [f"{out}.centred", f"{out}.centred"], {}),
            ("ReduceMean", "variance", [f"{out}.squares"], {"axes": [1]}),
            ("Add", "above", [f"{out}.variance", epsilon], {}),
            ("Sqrt", "deviation", [f"{out}.above"], {}),
            ("Div", "normed", [f"{out}.centred", f"{out}.deviation"], {}),
            ("Mul", "scaled", [f"{out}.normed", scale], {}),
        )
        made = [
            helper.make_node(kind, inputs, [f"{out}.{word}"], name=f"{node.name}/{word}", **more)
            for kind, word, inputs, more in steps
        ]
        given = [f"{out}.scaled", shift]
        return [*made, helper.make_node("Add", given, [self._gives(out)], name=f"{node.name}/shifted")]

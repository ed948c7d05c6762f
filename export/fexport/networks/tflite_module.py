"""A .tflite graph as a torch module: what its operators mean, written for export.

Images are [N,C,H,W] here where the file has them [1,H,W,C]; every other tensor is laid out as the file says, with a
free batch. The three custom operators are those of MediaPipe's attention mesh (`Landmarks2TransformMatrix`,
`TransformTensorBilinear`, `TransformLandmarks`, all of version 2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fexport.tflite_reader import Operator, TfliteGraph
from fexruntime.errors import CheckpointError

_SAME = 0
"""The schema's Padding: as much as keeps ceil(size / stride) outputs, the odd pixel after; 1 is none."""


class TfliteModule(nn.Module):
    """Runs a graph on images [N,3,H,W]; answers the outputs that `names` lists, flat: [N,K], or [N,*shape] where given.

    Its state dict holds the file's constants, `constants.NUMBER`, as the file lays them out.
    """

    def __init__(self, graph: TfliteGraph, names: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.graph, self.names = graph, dict(names)
        self.constants = nn.ParameterDict(
            {str(i): nn.Parameter(torch.from_numpy(v), requires_grad=False) for i, v in _floats(graph).items()}
        )
        unknown = sorted({o.kind for o in graph.operators} - _OPERATORS.keys())
        if unknown:
            raise CheckpointError(f"the .tflite file has operators that cannot be built here: {', '.join(unknown)}")
        lacking = sorted(self.names.keys() - graph.outputs.keys())
        if lacking or len(graph.inputs) != 1:
            raise CheckpointError(
                f"the .tflite file has no output {', '.join(lacking)}: it has {', '.join(graph.outputs)}"
            )

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        values: dict[int, Tensor] = {self.graph.inputs[0]: image}
        for operator in self.graph.operators:
            (out,) = operator.outputs
            if out not in values:  # nor made along with another one
                values[out] = _OPERATORS[operator.kind](self, operator, values)
        found = ((values[self.graph.outputs[name]], shape) for name, shape in self.names.items())
        return tuple(_channels_last(value).reshape(-1, *shape) for value, shape in found)

    def weight(self, number: int) -> Tensor:
        """A constant as the file lays it out."""
        value: Tensor = self.constants[str(number)]
        return value

    def integers(self, number: int) -> list[Any]:
        """An integer constant as Python's lists."""
        found: list[Any] = self.graph.constants[number].tolist()
        return found


def _floats(graph: TfliteGraph) -> dict[int, Any]:
    return {i: v for i, v in graph.constants.items() if v.dtype == np.float32}


Values = dict[int, Tensor]


def _convolution(module: TfliteModule, operator: Operator, values: Values) -> Tensor:
    """CONV_2D, its kernel [out,h,w,in]."""
    kernel = module.weight(operator.inputs[1]).permute(0, 3, 1, 2)
    return _convolve(module, operator, values[operator.inputs[0]], kernel, 1)


def _depthwise(module: TfliteModule, operator: Operator, values: Values) -> Tensor:
    """DEPTHWISE_CONV_2D, its kernel [1,h,w,channels]."""
    kernel = module.weight(operator.inputs[1]).permute(3, 0, 1, 2)
    if operator.options["DepthMultiplier"] != 1:
        raise CheckpointError(f"depth multiplier {operator.options['DepthMultiplier']} cannot be built here; 1 can")
    return _convolve(module, operator, values[operator.inputs[0]], kernel, kernel.shape[0])


def _convolve(module: TfliteModule, operator: Operator, x: Tensor, kernel: Tensor, groups: int) -> Tensor:
    given = operator.options
    if (given["DilationHFactor"], given["DilationWFactor"]) != (1, 1):
        raise CheckpointError("dilated convolutions cannot be built here")
    stride = given["StrideH"], given["StrideW"]
    x, around = _padded(x, kernel.shape[2:], stride, given["Padding"])
    y = functional.conv2d(x, kernel, module.weight(operator.inputs[2]), stride, around, groups=groups)
    return _activated(y, operator)


def _padded(x: Tensor, kernel: Any, stride: tuple[int, int], padding: int) -> tuple[Tensor, tuple[int, int]]:
    """(the input, padded where the two sides differ; what the convolution is to pad on both sides)."""
    if padding != _SAME:
        return x, (0, 0)
    total = [
        max((-(-int(n) // s) - 1) * s + int(k) - int(n), 0) for n, k, s in zip(x.shape[2:], kernel, stride, strict=True)
    ]
    before = [t // 2 for t in total]
    if all(2 * b == t for b, t in zip(before, total, strict=True)):
        return x, (before[0], before[1])
    (top, left), (down, across) = before, total
    return functional.pad(x, (left, across - left, top, down - top)), (0, 0)


def _max_pool(module: TfliteModule, operator: Operator, values: Values) -> Tensor:
    x, given = values[operator.inputs[0]], operator.options
    size, stride = (given["FilterHeight"], given["FilterWidth"]), (given["StrideH"], given["StrideW"])
    _, around = _padded(x, size, stride, given["Padding"])
    if around != (0, 0) or any(int(n) % s for n, s in zip(x.shape[2:], stride, strict=True)):
        raise CheckpointError("max pooling that pads cannot be built here")
    return _activated(functional.max_pool2d(x, size, stride), operator)


def _activated(x: Tensor, operator: Operator) -> Tensor:
    kind = operator.options.get("FusedActivationFunction", 0)
    if kind not in (0, 1):
        raise CheckpointError(f"fused activation {kind} of {operator.kind} cannot be built here; none and RELU can")
    return torch.relu(x) if kind else x


def _prelu(module: TfliteModule, operator: Operator, values: Values) -> Tensor:
    return functional.prelu(values[operator.inputs[0]], module.weight(operator.inputs[1]).reshape(-1))


def _relu(module: TfliteModule, operator: Operator, values: Values) -> Tensor:
    return torch.relu(values[operator.inputs[0]])


def _add(module: TfliteModule, operator: Operator, values: Values) -> Tensor:
    a, b = (values[i] for i in operator.inputs)
    return _activated(a + b, operator)


def _multiply(module: TfliteModule, operator: Operator, values: Values) -> Tensor:
    """By a constant; of tensors that are no images. Of a window's matrix, what `_transform_matrix` keeps."""
    factor = module.weight(operator.inputs[1])
    if tuple(module.graph.shapes[operator.inputs[0]][1:]) == (4, 4):
        factor = factor[..., :2, [0, 1, 3]]
    return _activated(values[operator.inputs[0]] * factor, operator)


def _pad(module: TfliteModule, operator: Operator, values: Values) -> Tensor:
    batch, rows, columns, channels = module.integers(operator.inputs[1])
    if batch != [0, 0]:
        raise CheckpointError("padding along the batch cannot be built here")
    return functional.pad(values[operator.inputs[0]], (*columns, *rows, *channels))


def _reshape(module: TfliteModule, operator: Operator, values: Values) -> Tensor:
    shape = module.graph.shapes[operator.outputs[0]]
    flat = _channels_last(values[operator.inputs[0]]).reshape(-1, *shape[1:])
    return flat.permute(0, 3, 1, 2) if len(shape) == 4 else flat


def _concatenate(module: TfliteModule, operator: Operator, values: Values) -> Tensor:
    if len(module.graph.shapes[operator.outputs[0]]) == 4:
        raise CheckpointError("concatenated images cannot be built here")
    return _activated(torch.cat([values[i] for i in operator.inputs], operator.options["Axis"]), operator)


def _slice(module: TfliteModule, operator: Operator, values: Values) -> Tensor:
    """STRIDED_SLICE of everything, which is all that the files have."""
    same = module.graph.shapes[operator.inputs[0]] == module.graph.shapes[operator.outputs[0]]
    if not same or set(module.integers(operator.inputs[3])) != {1}:
        raise CheckpointError("a slice that takes a part cannot be built here")
    return values[operator.inputs[0]]


def _transform_matrix(module: TfliteModule, operator: Operator, values: Values) -> Tensor:
    """Landmarks [N,K,3] in pixels of a feature map -> [N,2,3] from a window's pixels to the map's.

    Of the file's 4 x 4 numbers those that are neither 0 nor 1. The window is the box round a subset of the landmarks, along the line from one landmark to another, enlarged.
    """
    points, given = values[operator.inputs[0]][:, :, :2], operator.options
    if given["target_rotation_radians"]:
        raise CheckpointError("Landmarks2TransformMatrix with a target rotation cannot be built here")
    first, last = (points[:, given[k]] for k in ("left_rotation_idx", "right_rotation_idx"))
    along = last - first
    along = along / torch.linalg.vector_norm(along, dim=1, keepdim=True)
    # columns: along, and across it
    axes = (along @ points.new_tensor([[1.0, 0.0, 0.0, 1.0], [0.0, -1.0, 1.0, 0.0]])).reshape(-1, 2, 2)
    seen = points[:, given["subset_idxs"]] @ axes
    low, high = seen.amin(1, keepdim=True), seen.amax(1, keepdim=True)
    size = points.new_tensor([given["output_width"], given["output_height"]])
    linear = axes * ((high - low) * (points.new_tensor([given["scale_x"], given["scale_y"]]) / size))
    moved = axes @ ((low + high) / 2).reshape(-1, 2, 1) - linear @ (size / 2)[:, None]
    return torch.cat([linear, moved], 2)


def _transform_tensor(module: TfliteModule, operator: Operator, values: Values) -> Tensor:
    """An image [N,C,H,W] sampled bilinearly in a window; 0 where the sample's centre lies outside.

    With it those that are cut out of the same image. Four pixels a sample, all channels at once: ONNX Runtime's GridSample goes
    channel by channel and takes thrice as long.
    """
    image = values[operator.inputs[0]]
    alike = [o for o in module.graph.operators if _is_alike(o, operator) and o.inputs[1] in values]
    matrix = torch.stack([values[o.inputs[1]] for o in alike], 1)
    _, rows, columns, channels = module.graph.shapes[operator.inputs[0]]
    height, width = operator.options["output_height"], operator.options["output_width"]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    window = torch.stack([x, y, 0 * x + 1]).reshape(1, 1, 3, -1).to(image.dtype)
    at = matrix @ window - 0.5
    near = at.minimum(image.new_tensor([[columns - 1], [rows - 1]])).maximum(image.new_zeros(2, 1))
    inside = (near == at).to(image.dtype).amin(2, keepdim=True)
    corner = near.floor().minimum(image.new_tensor([[columns - 2], [rows - 2]]))
    share = near - corner
    # upper and lower rows, left and right columns, as one axis of four before the samples: a sum along it is a few whole vectors'
    right, low = share[:, :, :1], share[:, :, 1:]
    upper, lower = inside * (1 - low), inside * low
    weights = torch.cat([upper - upper * right, upper * right, lower - lower * right, lower * right], 2)
    pixel = image.new_tensor([[1.0, columns]]) @ corner
    # counted at the network's input, once for all windows: a map's shape would be asked for in another layout
    number = torch.arange(values[module.graph.inputs[0]].shape[0]).reshape(-1, 1, 1, 1) * (rows * columns)
    places = pixel.to(torch.int64) + torch.tensor([[0], [1], [columns], [columns + 1]]) + number
    pixels = image.permute(0, 2, 3, 1).reshape(-1, channels)[places]
    # as a product with ones: four rows' sum has no fast path
    read = pixels.new_ones(1, 4) @ (pixels * weights[..., None]).reshape(-1, len(alike), 4, height * width * channels)
    # times one, by a convolution: what is added to it later is then added in the layout of convolutions, and not out of it and back
    ones = image.new_ones(channels, 1, 1, 1)
    for k, other in enumerate(alike):
        cut = read[:, k].reshape(-1, height, width, channels).permute(0, 3, 1, 2)
        values[other.outputs[0]] = functional.conv2d(cut, ones, groups=channels)
    return values[operator.outputs[0]]


def _is_alike(one: Operator, other: Operator) -> bool:
    """Whether two windows of a size are cut out of the same image: all of a kind are read at once."""
    return (one.kind, one.inputs[0], one.options) == (other.kind, other.inputs[0], other.options)


def _transform_landmarks(module: TfliteModule, operator: Operator, values: Values) -> Tensor:
    """Points [N,K,2] by a matrix [N,2,3]."""
    points, matrix = (values[i] for i in operator.inputs)
    return points @ matrix[:, :, :2].transpose(1, 2) + matrix[:, None, :, 2]


def _channels_last(value: Tensor) -> Tensor:
    return value.permute(0, 2, 3, 1) if value.ndim == 4 else value


_OPERATORS: dict[str, Callable[[TfliteModule, Operator, Values], Tensor]] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "MAX_POOL_2D": _max_pool,
    "PRELU": _prelu,
    "RELU": _relu,
    "ADD": _add,
    "MUL": _multiply,
    "PAD": _pad,
    "RESHAPE": _reshape,
    "CONCATENATION": _concatenate,
    "STRIDED_SLICE": _slice,
    "Landmarks2TransformMatrix": _transform_matrix,
    "TransformTensorBilinear": _transform_tensor,
    "TransformLandmarks": _transform_landmarks,
}

"""Constants that are float16 numbers stored as float16, with a cast to float32: half the bytes, the same values.

Only for graphs whose large constants all are (weights that were published as float16). Engines fold the casts when they
load the graph; what runs is float32.
"""

from __future__ import annotations

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
    casts = []
    for tensor in floats:
        value, name = values[tensor.name], tensor.name
        if value.size < WORTHWHILE or not _exact(value):
            continue
        stored = f"{name}.float16"
        tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float16), stored))
        casts.append(helper.make_node("Cast", [stored], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return len(casts)


def _exact(value: NDArray[np.float32]) -> bool:
    with np.errstate(over="ignore"):
        return bool((value.astype(np.float16).astype(np.float32) == value).all())

"""Named graph rewrites, one a file, applied at build and recorded in the manifest.

Each keeps the graph's function to float round-off, and has a test that holds it to the unrewritten graph. None uses an
operator outside opset 17's standard set, so TensorRT reads the same files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import onnx

from fexport import onnx_graph
from fexport.onnx_passes.channels_first import channels_first
from fexport.onnx_passes.channels_in_blocks import channels_in_blocks
from fexport.onnx_passes.channels_in_conv import channels_in_conv
from fexport.onnx_passes.float16_constants import float16_constants
from fexport.onnx_passes.fold_batch_norm import fold_batch_norm
from fexport.onnx_passes.fold_shift import fold_shift
from fexport.onnx_passes.fuse_parallel_convs import fuse_parallel_convs
from fexport.onnx_passes.grn_as_matmul import grn_as_matmul
from fexport.onnx_passes.pad_in_conv import pad_in_conv
from fexport.onnx_passes.prelu_as_depthwise import prelu_as_depthwise
from fexport.onnx_passes.prelu_as_sum import prelu_as_sum

Pass = Callable[[onnx.ModelProto], int]

PASSES: dict[str, Pass] = {
    "fold-batch-norm": fold_batch_norm,
    "fold-shift": fold_shift,
    "fuse-parallel-convs": fuse_parallel_convs,
    "grn-as-matmul": grn_as_matmul,
    "pad-in-conv": pad_in_conv,
    "channels-first": channels_first,
    "channels-in-blocks": channels_in_blocks,
    "channels-in-conv": channels_in_conv,
    "prelu-as-sum": prelu_as_sum,
    "prelu-as-depthwise": prelu_as_depthwise,
    "float16-constants": float16_constants,
}
"""In the order they run. A pass changes the model in place and answers how many places it rewrote."""
FOR_ANY = tuple(name for name in PASSES if name != "channels-first")
"""Those of the graph that every engine reads; they were chosen on ONNX Runtime."""
FOR_OPENVINO = (
    "fold-batch-norm",
    "fold-shift",
    "fuse-parallel-convs",
    "pad-in-conv",
    "channels-first",
    "float16-constants",
)
"""Those of OpenVINO's own graph, where a network has one."""


def is_worth_its_own(model: onnx.ModelProto, done: Mapping[str, int], precision: str) -> bool:
    """Whether a graph that OpenVINO's passes rewrote (`done`) is faster there than the one for any: its maps have their channels
    first; in int8 slopes that stayed PReLU, which is done in a convolution's kernel.
    """
    return "channels-first" in done or (precision == "int8" and any(n.op_type == "PRelu" for n in model.graph.node))


def apply(model: onnx.ModelProto, names: Iterable[str] = FOR_ANY) -> dict[str, int]:
    """Run the named passes; the result says how many places each rewrote (those that found none are left out)."""
    done: dict[str, int] = {}
    for name in names:
        count = PASSES[name](model)
        if count:
            onnx_graph.tidy(model)
            done[name] = count
    onnx_graph.check(model)
    return done

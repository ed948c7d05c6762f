"""torch module -> ONNX: opset 17, IR 8, fp32, fixed tensor names, dynamic batch, deterministic bytes.

Opset 17 is the newest that TensorRT 8.6 reads rightly (from 18 on its importers ignore the axes inputs of the
reductions and reduce over everything, silently) and the oldest with LayerNormalization. The exporter is torch's
tracing one: the newer one starts at opset 18 and lowering its graphs gives invalid models.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

import onnx
import torch
from torch import nn

from fexport import onnx_graph
from fexruntime.contracts import Tensor
from fexruntime.errors import VerificationError

OPSET = 17
IR_VERSION = 8


def export(
    module: nn.Module, example: tuple[torch.Tensor, ...], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> onnx.ModelProto:
    """Export `module`, called with `example`, as a checked model whose inputs and outputs are the contract's.

    Axes that the contract names (rather than sizes) are dynamic. Raises VerificationError if the graph is not valid
    or has an integer tensor or a custom operator where the contract forbids one.
    """
    dynamic = {
        t.name: {axis: size for axis, size in enumerate(t.shape) if isinstance(size, str)} for t in (*inputs, *outputs)
    }
    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracing exporter announces its own deprecation
        torch.onnx.export(
            module.eval(),
            example,
            buffer,  # type: ignore[arg-type]  # a file object serves, whatever the annotation says
            input_names=[t.name for t in inputs],
            output_names=[t.name for t in outputs],
            dynamic_axes=dynamic,
            opset_version=OPSET,
            do_constant_folding=True,
            dynamo=False,
        )
    model = onnx.load_from_string(buffer.getvalue())
    _normalise(model)
    onnx_graph.check(model)
    if model.opset_import[0].version != OPSET or len(model.opset_import) != 1:
        raise VerificationError(f"the exporter gave opsets {list(model.opset_import)}, not {OPSET} alone")
    return model


def serialise(model: onnx.ModelProto) -> bytes:
    """Bytes of a model, the same for the same model."""
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _normalise(model: onnx.ModelProto) -> None:
    """Drop what depends on the machine or the exporter's mood: producer, doc strings, source positions."""
    model.ir_version = IR_VERSION
    model.producer_name = "fexport"
    model.producer_version = ""
    model.doc_string = ""
    model.graph.doc_string = ""
    model.graph.name = "fexport"
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output):
        value.doc_string = ""
    del model.graph.value_info[:]

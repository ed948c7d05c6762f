"""How much arithmetic a graph is: counted from the graph that runs, not from a table."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from typing import Any

from fexruntime.arrays import F32
from fexruntime.bundle import BundleNetwork
from fexruntime.errors import FexportError, OutputError

COUNTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""What multiplies and adds: everything else is a few operations an element."""


def gflop(network: BundleNetwork, inputs: Mapping[str, F32]) -> float | None:
    """GFLOP (two for a multiply-add) of one run: direct convolutions and matrix products. None for a network without a graph.

    The shapes are those of ONNX Runtime's own profile of the graph as it is in the bundle, with no optimisation of its own.
    """
    try:
        variant = network.variant("fp32", ("onnx",))
    except FexportError:
        return None
    from fexruntime.backends.onnxruntime import import_onnxruntime

    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = os.path.join(folder, "p")
        session = ort.InferenceSession(network.read(variant.model), options, providers=["CPUExecutionProvider"])
        session.run(None, dict(inputs))
        try:
            with open(session.end_profiling(), encoding="utf-8") as file:
                events = json.load(file)
        except (OSError, ValueError) as error:  # ONNX Runtime does not say that it could not write
            raise OutputError(
                f"ONNX Runtime's profile in {folder!r} cannot be read: is there room? ({error})"
            ) from None
    return sum(_of_node(event["args"]) for event in events if _is_node(event)) / 1e9


def _is_node(event: Mapping[str, Any]) -> bool:
    return event.get("cat") == "Node" and event["name"].endswith("_kernel_time")


def _of_node(said: Mapping[str, Any]) -> int:
    kind: str = said["op_name"]
    if kind not in COUNTED:
        return 0
    given: list[list[int]] = [next(iter(t.values())) for t in said["input_type_shape"]]
    made: list[list[int]] = [next(iter(t.values())) for t in said["output_type_shape"]]
    if kind == "Conv":  # weights are [out, in / groups, height, width]
        return 2 * math.prod(made[0]) * math.prod(given[1][1:])
    if kind == "ConvTranspose":  # [in, out / groups, height, width]
        return 2 * math.prod(given[0]) * math.prod(given[1][1:])
    if kind == "Gemm":  # [M, K] either way round, and M is the output's
        return 2 * math.prod(made[0]) * (math.prod(given[0]) // made[0][0])
    return 2 * math.prod(made[0]) * given[0][-1]

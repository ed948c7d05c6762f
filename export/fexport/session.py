"""Running an ONNX model from memory while building and verifying."""

from __future__ import annotations

from collections.abc import Callable

from fexruntime.arrays import F32
from fexruntime.backends.onnxruntime import PROVIDER, import_onnxruntime

Case = tuple[F32, ...]
"""What a network is given in one run: an array for each of its inputs, in order."""
Runner = Callable[[Case], dict[str, F32]]
"""Runs an artefact on a case; answers its outputs by name."""


def onnx_runner(model: bytes, threads: int = 0) -> Runner:
    """A function that runs `model` in ONNX Runtime on the CPU; `threads` 0 means all cores."""
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(model, options, providers=[PROVIDER])
    inputs, outputs = ([v.name for v in edge] for edge in (session.get_inputs(), session.get_outputs()))

    def run(case: Case) -> dict[str, F32]:
        return dict(zip(outputs, session.run(outputs, dict(zip(inputs, case, strict=True))), strict=True))

    return run

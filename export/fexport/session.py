"""Running an ONNX model from memory while building and verifying."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fexport.verify import Runner
from fexruntime.errors import EnvironmentMissingError

F32 = NDArray[np.float32]


def onnx_runner(model: bytes, threads: int = 0) -> Runner:
    """A function that runs `model` in ONNX Runtime on the CPU; `threads` 0 means all cores."""
    try:
        import onnxruntime as ort
    except ImportError:
        raise EnvironmentMissingError("building needs ONNX Runtime: pip install 'fexport[export]'") from None
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    names = [o.name for o in session.get_outputs()]

    def run(value: F32) -> dict[str, F32]:
        return dict(zip(names, session.run(names, {name: value}), strict=True))

    return run

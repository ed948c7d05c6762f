"""fexruntime: facial expression analysis from verified artefacts, without torch.

    from fexruntime import Detector
    fex = Detector("bundle").detect("photo.jpg")

Importing this package loads NumPy and nothing heavier; ONNX Runtime, OpenCV and pandas are loaded when first needed.
"""

from __future__ import annotations

import os as _os
from typing import TYPE_CHECKING, Any

# ONNX Runtime collects from its import on, whoever imports it in this process: not unless the user has said so
_os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from fexruntime.errors import (
    BundleError,
    CheckpointError,
    ClosedError,
    CutOffError,
    EnvironmentMissingError,
    FexportError,
    InferenceError,
    InputError,
    OutOfMemoryError,
    OutputError,
    StandInWarning,
    VerificationError,
)

if TYPE_CHECKING:
    from fexruntime.backends.base import Place
    from fexruntime.bundle import Bundle, open_bundle
    from fexruntime.detector import Detector
    from fexruntime.fex import Fex
    from fexruntime.options import Options
    from fexruntime.pose import pose_from_landmarks
    from fexruntime.recording import record
    from fexruntime.results import FrameResult
    from fexruntime.sources.frame import Frame

__all__ = [
    "Bundle",
    "BundleError",
    "CheckpointError",
    "ClosedError",
    "CutOffError",
    "Detector",
    "EnvironmentMissingError",
    "Fex",
    "FexportError",
    "Frame",
    "FrameResult",
    "InferenceError",
    "InputError",
    "Options",
    "OutOfMemoryError",
    "OutputError",
    "Place",
    "StandInWarning",
    "VerificationError",
    "__version__",
    "open_bundle",
    "pose_from_landmarks",
    "record",
]

_HOMES = {
    "Bundle": "bundle",
    "Detector": "detector",
    "Fex": "fex",
    "Frame": "sources.frame",
    "FrameResult": "results",
    "Options": "options",
    "Place": "backends.base",
    "open_bundle": "bundle",
    "pose_from_landmarks": "pose",
    "record": "recording",
}


if TYPE_CHECKING:
    __version__: str
else:  # a type checker must not see it: it would answer every name

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from fexruntime.versions import installed

            return installed(["fexport"]).get("fexport", "0+unknown")
        if name not in _HOMES:
            raise AttributeError(f"module 'fexruntime' has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(f"fexruntime.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

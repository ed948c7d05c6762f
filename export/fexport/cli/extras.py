"""What an extra's packages are, and the one sentence that says which is missing."""

from __future__ import annotations

from importlib import import_module

from fexruntime.errors import EnvironmentMissingError

EXTRAS = {
    "export": ("torch", "onnx", "onnxruntime", "safetensors", "huggingface_hub"),
    "bench": ("matplotlib", "psutil", "onnxruntime"),
}


def need(extra: str, command: str) -> None:
    """EnvironmentMissingError unless every package of an extra can be imported."""
    for name in EXTRAS[extra]:
        try:
            import_module(name)
        except ImportError:
            raise EnvironmentMissingError(
                f"{command} needs {name}, which cannot be imported: pip install 'fexport[{extra}]'"
            ) from None

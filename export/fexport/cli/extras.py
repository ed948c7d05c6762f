"""What an extra's packages are, and the one sentence that says which is missing."""

from __future__ import annotations

from importlib import import_module

import click

from fexruntime.errors import EnvironmentMissingError

EXTRAS = {
    "export": ("torch", "onnx", "onnxruntime", "safetensors", "huggingface_hub"),
    "ncnn": ("ncnn",),
    "openvino": ("openvino",),
    "evaluate": ("scipy", "matplotlib"),
    "serve": ("fastapi", "uvicorn", "prometheus_client", "pyarrow"),
    "bench": ("matplotlib", "psutil", "markdown_it", "onnxruntime"),
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


def size_option(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """WIDTHxHEIGHT as (width, height)."""
    if value is None:
        return None
    try:
        width, height = (int(v) for v in value.lower().split("x"))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not WIDTHxHEIGHT, such as 640x480") from None
    if min(width, height) < 64:
        raise click.BadParameter(f"{value!r} is too small: 64x64 or more")
    return width, height

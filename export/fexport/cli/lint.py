"""fexport lint: would TensorRT read an ONNX graph, and rightly?"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fexport.cli.paths import FILE
from fexruntime.errors import EnvironmentMissingError, InputError


@click.command("lint")
@click.argument("model", type=FILE, metavar="MODEL.onnx")
@click.option("--tensorrt", default="8.6", show_default=True, metavar="VERSION", help="8.6, 10.3 or later, 11.x.")
def command(model: Path, tensorrt: str) -> None:
    """Look for what TensorRT's parser refuses in MODEL.onnx, and for what it takes and gets wrong. Needs no TensorRT.

    Exit status 1 if there is any.
    """
    try:
        import onnx
    except ImportError:
        raise EnvironmentMissingError("fexport lint needs onnx, which cannot be imported: pip install onnx") from None
    from fexport.tensorrt_lint import lint

    try:
        graph = onnx.load(str(model), load_external_data=False)
    except OSError as error:
        raise InputError(f"cannot read {str(model)!r}: {error.strerror or error}") from None
    except Exception:  # protobuf's errors have no common base of their own
        raise InputError(f"{str(model)!r} is not an ONNX model") from None
    if not graph.graph.node:
        raise InputError(f"{str(model)!r} is not an ONNX model, or has no nodes")
    found = lint(graph, tensorrt)
    for finding in found:
        click.echo(str(finding))
    count = len(found)
    click.echo(f"{model.name}: {f'{count} findings' if count != 1 else '1 finding'} for TensorRT {tensorrt}")
    sys.exit(1 if found else 0)

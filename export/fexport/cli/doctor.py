"""fexport doctor: a table of the environment with a verdict and the command that mends it."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import click


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, what is there, whether it serves, and what mends it."""

    what: str
    found: str
    good: bool
    fix: str = ""


@click.command("doctor")
def command() -> None:
    """Show what this environment can do. Exit status 1 if `fexport run` cannot work here."""
    from rich.markup import escape
    from rich.table import Table

    from fexport.cli import tables

    needed, optional = _needed(), _optional()
    table = Table()
    for head in ("what", "found", "verdict", "what mends it"):
        table.add_column(head)
    for findings, otherwise in ((needed, "[bold red]missing"), (optional, "not here")):
        for f in findings:  # escaped: an extra in brackets is no markup
            table.add_row(f.what, escape(f.found), "ok" if f.good else otherwise, escape(f.fix))
    tables.console().print(table)
    if not all(finding.good for finding in needed):
        click.echo("`fexport run` cannot work here: see the lines marked missing.", err=True)
        sys.exit(1)
    click.echo("`fexport run` works here.")


def _needed() -> list[Finding]:
    from fexruntime.backends.onnxruntime import available_cores

    return [
        Finding("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}", True),
        Finding("CPU", f"{available_cores()} cores for this process", True),
        _package("numpy", "NumPy", "pip install numpy"),
        _package("cv2", "OpenCV", "pip install opencv-python-headless", "opencv-python-headless"),
        _onnxruntime(),
        _edge_bundle(),
    ]


def _optional() -> list[Finding]:
    from fexruntime.crop import remap_is_exact

    exact = remap_is_exact()
    return [
        Finding(
            "fast face crops",
            "OpenCV interpolates with float weights" if exact else "OpenCV rounds positions: NumPy cuts faces instead",
            exact,
            "" if exact else "pip install 'opencv-python-headless>=5'",
        ),
        _cache(),
        _package("pandas", "tables (pandas)", "pip install 'fexport[tables]'"),
        _package("pyarrow", "Parquet (pyarrow)", "pip install 'fexport[tables]'"),
        _package("torch", "building (torch)", "pip install 'fexport[export]'"),
        _package("onnx", "building (onnx)", "pip install 'fexport[export]'"),
        _package("safetensors", "building (safetensors)", "pip install 'fexport[export]'"),
        _package("matplotlib", "fexport bench (matplotlib)", "pip install 'fexport[bench]'"),
        _package("psutil", "fexport bench (psutil)", "pip install 'fexport[bench]'"),
        _package("huggingface_hub", "weights from the hub", "pip install 'fexport[export]'"),
        _package("sklearn", 'identity method "hdbscan"', "pip install scikit-learn", "scikit-learn"),
        _package("feat", "Fex.to_feat() (py-feat)", "pip install py-feat", "py-feat"),
    ]


def _package(module: str, what: str, fix: str, distribution: str | None = None) -> Finding:
    if find_spec(module) is None:
        return Finding(what, "not installed", False, fix)
    try:
        return Finding(what, version(distribution or module), True)
    except PackageNotFoundError:
        return Finding(what, "installed", True)


def _onnxruntime() -> Finding:
    present = [name for name in ("onnxruntime", "onnxruntime-gpu") if _has(name)]
    if len(present) == 2:
        return Finding(
            "ONNX Runtime",
            "onnxruntime and onnxruntime-gpu, which overwrite each other",
            False,
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'fexport[cpu]'",
        )
    if not present:
        return Finding("ONNX Runtime", "not installed", False, "pip install 'fexport[cpu]'")
    try:
        import onnxruntime
    except ImportError as error:
        return Finding(
            "ONNX Runtime", f"cannot be imported: {error}", False, "pip install --force-reinstall 'fexport[cpu]'"
        )
    return Finding("ONNX Runtime", f"{version(present[0])}: {', '.join(onnxruntime.get_available_providers())}", True)


def _has(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def _edge_bundle() -> Finding:
    from fexruntime.bundle import EDGE, open_bundle
    from fexruntime.errors import BundleError

    try:
        count = open_bundle(EDGE).verify_files()
    except BundleError as error:
        return Finding("packaged face detector", str(error), False, "pip install --force-reinstall fexport")
    return Finding("packaged face detector", f"{count} files, whole", True)


def _cache() -> Finding:
    from fexruntime.backends.graph_cache import default_cache
    from fexruntime.errors import OutputError
    from fexruntime.sinks import check_folder

    folder = default_cache()
    try:
        check_folder(folder)
    except OutputError as error:
        return Finding("cache of optimised graphs", str(error), False, "set FEXPORT_CACHE to a folder you can write")
    return Finding("cache of optimised graphs", str(folder), True)

"""fexport doctor: a table of the environment with a verdict and the command that mends it."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import click

from fexport import probes
from fexport.probes import Finding

_ELSEWHERE = ("torch", "onnx", "feat")
"""Libraries that are imported in a process of their own."""


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def command(as_json: bool) -> None:
    """Show what this environment can do. Exit status 1 if `fexport run` cannot work here."""
    from fexport.cli import tables
    from fexruntime.versions import with_packages

    needed, optional = _needed(), _optional()
    works = all(finding.good for finding in needed)
    if as_json:
        said = [
            {"what": f.what, "found": f.found, "good": f.good, "needed": need, "fix": with_packages(f.fix)}
            for need, some in ((True, needed), (False, optional))
            for f in some
        ]
        tables.print_json({"run_works": works, "findings": said})
        sys.exit(0 if works else 1)
    table = tables.Sheet(
        tables.Column("what"),
        tables.Column("found"),
        tables.Column("verdict", whole=True),
        tables.Column("what mends it"),
    )
    for findings, otherwise in ((needed, tables.MISSING), (optional, "not here")):
        for f in findings:
            table.add(f.what, f.found, "ok" if f.good else otherwise, with_packages(f.fix))
    table.show()
    if not works:
        click.echo("`fexport run` cannot work here: see the lines marked missing.", err=True)
        sys.exit(1)
    click.echo("`fexport run` works here.")


def _needed() -> list[Finding]:
    from fexruntime.cores import available_cores

    found = [
        Finding("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}", True),
        Finding("CPU", f"{available_cores()} cores for this process", True),
        _package("numpy", "NumPy", "pip install numpy"),
        _opencv(),
        _onnxruntime(),
        _edge_bundle(),
    ]
    return [*found, _first_run()] if all(f.good for f in found) else found


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
        *_machine(),
        _package("ncnn", "backend ncnn", "pip install 'fexport[ncnn]'"),
        *_gpu_backends(),
        _package("openvino", "backend openvino", "pip install 'fexport[openvino]'"),
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
    if (why := _why_not(module)) is not None:
        return Finding(what, f"installed, but cannot be imported: {why}", False, f"{fix} --force-reinstall")
    try:
        return Finding(what, version(distribution or module), True)
    except PackageNotFoundError:
        return Finding(what, "installed", True)


def _why_not(module: str) -> str | None:
    """Why an installed module cannot be imported; None if it can. Nothing that imports torch is imported here."""
    if module in _ELSEWHERE:
        return probes.importable_elsewhere(module)
    if module == "openvino":
        from fexruntime.backends.openvino import import_openvino

        return probes.importable(module, lambda name: import_openvino())  # without its telemetry
    return probes.importable(module)


def _opencv() -> Finding:
    """Imported, not looked for: a missing system library shows only then."""
    if (both := probes.two_opencvs(probes.distributions())) is not None:
        return both
    fix = "pip install opencv-python-headless"
    try:
        import cv2
    except ImportError as error:
        return Finding("OpenCV", f"cannot be imported: {error}", False, fix)
    return Finding("OpenCV", cv2.__version__, True)


def _first_run() -> Finding:
    """What `fexport run` does, on a small frame: the verdict is what happened, not what should."""
    import numpy as np

    from fexruntime import Detector, FexportError

    try:
        with Detector(shared_pool=True) as detector:
            detector.detect(np.full((64, 64, 3), 127, np.uint8))
    except FexportError as error:
        return Finding("a first run", str(error), False, "see the lines above")
    return Finding("a first run", "the packaged face detector answers", True)


def _onnxruntime() -> Finding:
    if (both := probes.two_onnxruntimes(probes.distributions())) is not None:
        return both
    present = [name for name in ("onnxruntime", "onnxruntime-gpu") if _has(name)]
    if not present:
        return Finding("ONNX Runtime", "not installed", False, "pip install 'fexport[cpu]'")
    from fexruntime.backends.onnxruntime import import_onnxruntime
    from fexruntime.errors import EnvironmentMissingError

    try:
        onnxruntime = import_onnxruntime()
    except EnvironmentMissingError as error:
        return Finding("ONNX Runtime", str(error), False, "pip install --force-reinstall 'fexport[cpu]'")
    return Finding("ONNX Runtime", f"{version(present[0])}: {', '.join(onnxruntime.get_available_providers())}", True)


def _gpu_backends() -> list[Finding]:
    """Backends of NVIDIA GPUs, and pixels there: what each lacks. The driver is asked, not TensorRT: without a GPU its runtime ends
    the process.
    """
    from fexruntime.driver import gpu
    from fexruntime.errors import EnvironmentMissingError

    whats = ("backend tensorrt", "backend onnxruntime-cuda", "pixels on the GPU")
    try:
        found = gpu()
    except EnvironmentMissingError as error:
        lacks = str(error).partition(": ")[0]  # what mends it is the next column
        return [Finding(what, lacks, False, "an NVIDIA GPU and its driver") for what in whats]
    here = f"{found.name} ({found.capability}), driver {found.driver}"
    tensorrt = find_spec("tensorrt") is not None
    return [
        Finding(whats[0], here if tensorrt else f"{here}, no TensorRT", tensorrt, "" if tensorrt else _TENSORRT),
        _cuda_provider(whats[1], here),
        _nvrtc(),
    ]


_TENSORRT = "pip install tensorrt; on a Jetson JetPack's"


def _cuda_provider(what: str, here: str) -> Finding:
    """Whether ONNX Runtime has its CUDA provider; whether it loads is `probes.cuda_provider`'s to say."""
    from fexruntime.backends.onnxruntime import import_onnxruntime
    from fexruntime.backends.onnxruntime_cuda import INSTALL, PROVIDER
    from fexruntime.errors import EnvironmentMissingError

    try:
        there = PROVIDER in import_onnxruntime().get_available_providers()
    except EnvironmentMissingError:
        there = False
    said = f"{here}, with {PROVIDER}" if there else f"{here}, ONNX Runtime without {PROVIDER}"
    return Finding(what, said, there, "" if there else INSTALL)


def _nvrtc() -> Finding:
    from fexruntime.errors import EnvironmentMissingError
    from fexruntime.ops import nvrtc

    try:
        return Finding("pixels on the GPU", f"NVRTC {nvrtc.version()}", True)
    except EnvironmentMissingError:
        return Finding("pixels on the GPU", "NVRTC cannot be loaded", False, "pip install 'fexport[nvrtc]'")


def _has(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def _edge_bundle() -> Finding:
    from fexruntime.bundle import open_bundle
    from fexruntime.errors import BundleError

    try:
        count = open_bundle().verify_files()
    except BundleError as error:
        return Finding("packaged face detector", str(error), False, "pip install --force-reinstall fexport")
    return Finding("packaged face detector", f"{count} files, whole", True)


def _cache() -> Finding:
    from fexruntime.store import VARIABLE, default_folder, open_store

    what = "cache"
    found = probes.cache_folder(default_folder(), VARIABLE)
    if found is not None:
        return Finding(what, found.found, False, found.fix)
    store = open_store(None)
    if store is None:
        return Finding(what, f"{default_folder()} cannot be used", False, f"set {VARIABLE} to a folder of your own")
    return Finding(what, str(store.folder), True)


def _machine() -> list[Finding]:
    """What is worth a line only where something is wrong, and the CPU's vector units."""
    from fexruntime.cores import available_cores

    installed = probes.distributions()
    found = (
        probes.vector_units(probes.cpu_flags(), platform.machine()),
        probes.threads_over_quota(os.environ, available_cores()),
        probes.cuda_provider(installed),
        probes.two_tensorrts(installed),
        probes.tensorrt_driver(_driver(), installed),
    )
    return [f for f in found if f is not None]


def _driver() -> str | None:
    """Version of NVIDIA's driver that is loaded; None without one."""
    try:
        return Path("/sys/module/nvidia/version").read_text(encoding="ascii").strip()
    except OSError:
        return None

"""What can be wrong with an environment, and the command that mends it: one function a probe, each on facts that it is given.

A probe answers None where there is nothing to say. `installed` is versions by distribution, as `distributions` reads them.
"""

from __future__ import annotations

import ctypes.util
import importlib.metadata
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

Installed = Mapping[str, str]
IMPORT_S = 120
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, what is there, whether it serves, and what mends it."""

    what: str
    found: str
    good: bool
    fix: str = ""


def distributions() -> dict[str, str]:
    """Versions of what is installed here, by name in lower case with dashes."""
    found = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            found[re.sub(r"[-_.]+", "-", name).lower()] = distribution.version
    return found


def two_onnxruntimes(installed: Installed) -> Finding | None:
    """Both write the same folder; the one that was installed last wins, half."""
    there = [
        n for n in ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml") if n in installed
    ]
    if len(there) < 2:
        return None
    fix = (
        f"pip uninstall -y {' '.join(there)} && pip install 'fexport[{'gpu' if 'onnxruntime-gpu' in there else 'cpu'}]'"
    )
    return Finding("ONNX Runtime", f"{' and '.join(there)}, which overwrite each other", False, fix)


def two_opencvs(installed: Installed) -> Finding | None:
    """The variants share the folder cv2."""
    variants = ("opencv-python-headless", "opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")
    there = [name for name in variants if name in installed]
    if len(there) < 2:
        return None
    fix = f"pip uninstall -y {' '.join(there)} && pip install opencv-python-headless"
    return Finding("OpenCV", f"{' and '.join(there)}, which overwrite each other", False, fix)


def two_tensorrts(installed: Installed) -> Finding | None:
    """TensorRT's wheels for several CUDA versions, or several of its libraries, beside each other."""
    there = sorted(n for n in installed if re.fullmatch(r"tensorrt(-cu\d+)?", n))
    libraries = sorted(n for n in installed if re.fullmatch(r"tensorrt-cu\d+-libs", n))
    versions = {installed[n] for n in (*there, *libraries)}
    cudas = {n.split("-")[1] for n in (*there, *libraries) if "-cu" in n}
    if len(versions) < 2 and len(cudas) < 2:
        return None
    said = ", ".join(f"{n} {installed[n]}" for n in (*there, *libraries))
    fix = f"pip uninstall -y {' '.join((*there, *libraries))} && pip install tensorrt"
    return Finding("TensorRT", f"{said}: engines are read by one version only", False, fix)


def tensorrt_driver(driver: str | None, installed: Installed) -> Finding | None:
    """The driver must be at least as new as the CUDA that TensorRT's libraries were built for."""
    needed = {"cu12": 525, "cu13": 580}
    cuda = next((n.split("-")[1] for n in installed if re.fullmatch(r"tensorrt-cu\d+(-libs)?", n)), None)
    if driver is None or cuda not in needed:
        return None
    major = int(driver.split(".")[0]) if driver.split(".")[0].isdigit() else 0
    if major >= needed[cuda]:
        return None
    said = f"driver {driver} is older than {needed[cuda]}, which TensorRT for CUDA {cuda[2:]} needs"
    return Finding(
        "NVIDIA driver", said, False, f"install a driver of {needed[cuda]} or newer, or pip install tensorrt-cu12"
    )


def cuda_provider(installed: Installed, load: Callable[[], str] | None = None) -> Finding | None:
    """Where onnxruntime-gpu is installed and its CUDA provider does not load: the library that it lacks, of the CUDA that it was built for."""
    said = (load or _load_cuda_provider)() if "onnxruntime-gpu" in installed else ""
    if not said:
        return None
    library, _, rest = said.partition(":")
    named = f"{library} missing" if "cannot open" in rest else said
    fix = "install NVIDIA's driver" if library == "libcuda.so.1" else "pip install 'onnxruntime-gpu[cuda,cudnn]'"
    return Finding("CUDA provider", f"installed, but cannot be used: {named}", False, fix)


def _load_cuda_provider() -> str:
    """What the dynamic loader says of it; empty where it loads, or is not there to be loaded (Windows; other probes)."""
    from fexruntime.backends.onnxruntime import import_onnxruntime
    from fexruntime.backends.onnxruntime_cuda import preload
    from fexruntime.errors import EnvironmentMissingError

    try:
        runtime = import_onnxruntime()
        preload(runtime)
        folder = Path(runtime.__file__).parent / "capi"
        if (folder / "libonnxruntime_providers_cuda.so").exists():
            ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), ctypes.RTLD_GLOBAL)
            ctypes.CDLL(str(folder / "libonnxruntime_providers_cuda.so"))
    except OSError as error:
        return str(error)
    except EnvironmentMissingError:
        return ""
    return ""


def vector_units(flags: Iterable[str], machine: str) -> Finding | None:
    """What an x86 CPU lacks of AVX2 (everything is slower) and VNNI (int8 gains less, and rounds more)."""
    if machine.lower() not in ("x86_64", "amd64"):
        return None
    has = set(flags)
    if "avx2" not in has:
        return Finding(
            "vector units", "no AVX2: every network is several times slower", False, "run on a CPU of 2013 or newer"
        )
    if not has & {"avx512_vnni", "avx_vnni"}:
        return Finding(
            "vector units",
            "AVX2, no VNNI: int8 artefacts gain less, and round more",
            False,
            "see what is left: fexport bench INT8_BUNDLE --against FP32_BUNDLE",
        )
    return Finding("vector units", "AVX2 and VNNI", True)


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> list[str]:
    """The CPU's flags; empty where the system does not say."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    line = next((x for x in text.splitlines() if x.startswith(("flags", "Features"))), "")
    return line.partition(":")[2].split()


def threads_over_quota(environment: Mapping[str, str], cores: int) -> Finding | None:
    """Thread counts in the environment that are above what affinity and the container's quota allow."""
    over = [
        f"{n}={environment[n]}"
        for n in THREAD_VARIABLES
        if environment.get(n, "").isdigit() and int(environment[n]) > cores
    ]
    if not over:
        return None
    names = " ".join(f"{text.partition('=')[0]}={cores}" for text in over)
    return Finding("threads", f"{', '.join(over)}, but this process may use {cores} cores", False, f"export {names}")


def cache_folder(folder: Path | None, variable: str) -> Finding | None:
    """A cache that cannot be written, that others may write to, or that belongs to somebody else."""
    if folder is None:
        return Finding("cache", "this user has no home", False, f"set {variable} to a folder of your own")
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        return Finding("cache", f"{nearest} is not a folder", False, f"set {variable} to a folder of your own")
    if folder.is_dir():
        found = folder.stat()
        if hasattr(os, "getuid") and found.st_uid != os.getuid():
            return Finding(
                "cache", f"{folder} belongs to another user", False, f"set {variable} to a folder of your own"
            )
        if stat.S_IMODE(found.st_mode) & (stat.S_IWGRP | stat.S_IWOTH):
            return Finding(
                "cache", f"others may write into {folder}", False, f"chmod go-w {folder} && fexport cache --clear"
            )
    if not os.access(nearest, os.W_OK):
        return Finding("cache", f"{folder} cannot be written", False, f"set {variable} to a folder of your own")
    return None


def importable(module: str, load: Callable[[str], object] = __import__) -> str | None:
    """Why a module that is installed cannot be imported (a system library is missing, say); None if it can."""
    try:
        load(module)
    except Exception as error:  # whatever a broken package raises while it is imported
        said = str(error).strip().splitlines()
        return said[0][:200] if said else type(error).__name__
    return None


def importable_elsewhere(module: str) -> str | None:
    """The same of a large library, in a process of its own: this one stays as it is."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import {module}"],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=IMPORT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"its import takes more than {IMPORT_S} s"
    if not done.returncode:
        return None
    said = [line for line in done.stderr.splitlines() if line.strip()]
    return said[-1][:200] if said else f"its import ended with status {done.returncode}"

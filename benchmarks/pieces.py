"""What `record.py` measures: pieces of less than a minute each, and how a record is put together of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fexport.bench import measure
from fexport.bench.measure import Sample

HERE = Path(__file__).parent
RESULTS = HERE / "results"
LANDMARKS_AND_POSE = {"au": "none", "emotion": "none", "gaze": "none"}
"""What "detectorv1" alone means here: its landmarks, pose and identity."""


@dataclass(frozen=True)
class Work:
    """A folder that keeps what is prepared (made-up weights, bundles) and the pieces that are done; py-feat's Python."""

    folder: Path
    pyfeat: Path

    def weights(self, pipeline: str) -> Path:
        """Made-up weights of a pipeline, in the files that both sides load."""
        return self.folder / "weights" / pipeline.partition(" ")[0]

    def bundle(self, name: str) -> Path:
        """A bundle of `BUNDLES`."""
        return self.folder / "bundles" / name.replace(" ", "_")


Run = Callable[[Work], Any]


@dataclass(frozen=True)
class Piece:
    """A step: `run` answers what is kept of it, as plain values. `timed`: nothing else may run on the machine meanwhile."""

    run: Run
    timed: bool = True


@dataclass(frozen=True)
class Record:
    """Pieces by name, in order, and what they are joined to: files in results/, by name."""

    pieces: Mapping[str, Piece]
    join: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda parts: {}


@dataclass(frozen=True)
class Workload:
    """A workload beside py-feat: `rounds` of each piece, `networks`: rounds of each network alone; None leaves them out."""

    bundle: str
    options: Sequence[str]
    rounds: Sequence[int]
    networks: int | None = None
    start_up: bool = False


HD = ("--size", "1920x1080")
WORKLOADS = {
    "vga_1_face": Workload("detectorv2", ("--faces", "1"), (12, 12), networks=6, start_up=True),
    "vga_5_faces": Workload("detectorv2", ("--faces", "5"), (10, 10)),
    "hd_1_face": Workload("detectorv2", ("--faces", "1", *HD), (5,)),
    "hd_1_face_output_size_640": Workload("detectorv2", ("--faces", "1", *HD, "--output-size", "640"), (14,)),
    "hd_1_face_detector_640": Workload("detectorv2", ("--faces", "1", *HD, "--detector-size", "640"), (8,)),
    "detectorv1_vga_1_face": Workload("detectorv1", ("--faces", "1"), (12,), networks=12, start_up=True),
    "detectorv1_default_vga_1_face": Workload("detectorv1 default", ("--faces", "1"), (12,), start_up=True),
    "detectorv1_default_vga_5_faces": Workload("detectorv1 default", ("--faces", "5"), (6,), start_up=True),
}
PRECISIONS = {
    "int8_vga_1_face": Workload("detectorv2 int8", ("--faces", "1"), (14,), start_up=True),
    "int8_vga_5_faces": Workload("detectorv2 int8", ("--faces", "5"), (10, 10), start_up=True),
    "int8_hd_1_face_detector_640": Workload("detectorv2 int8", ("--faces", "1", *HD, "--detector-size", "640"), (7,)),
    "bf16_vga_1_face": Workload("detectorv2 bf16", ("--faces", "1"), (12,), start_up=True),
    "fp16_vga_1_face": Workload("detectorv2 fp16", ("--faces", "1"), (12,)),
}
BUNDLES = ("detectorv2", "detectorv1", "detectorv1 default", "detectorv2 int8", "detectorv2 bf16", "detectorv2 fp16")


def python(*words: object) -> str:
    """Run a command of this environment's Python; what it printed."""
    done = subprocess.run([sys.executable, *map(str, words)], stdout=subprocess.PIPE, encoding="utf-8", check=True)
    return done.stdout


def fexport(*words: object) -> str:
    """Run a command in a process of its own: what builds bundles (torch) is not in its memory."""
    return python("-m", "fexport", *words)


def weights(work: Work) -> None:
    """Files of made-up weights for both sides."""
    for pipeline in ("detectorv2", "detectorv1"):
        folder = work.weights(pipeline)
        shutil.rmtree(folder, ignore_errors=True)
        fexport("stand-ins", folder, "--pipeline", pipeline)
    script = HERE / "pyfeat_stand_ins.py"
    subprocess.run([str(work.pyfeat), str(script), str(work.weights("detectorv1").resolve())], check=True)


def built(name: str) -> Run:
    """Builds a bundle; of one in a lower precision what verification found is kept."""

    def run(work: Work) -> Any:
        from fexport import build, plan
        from fexport.samples import PHOTOGRAPH

        pipeline, _, kind = name.partition(" ")
        lower: dict[str, Any] = {}
        if kind in ("int8", "bf16", "fp16"):
            lower = {"precision": kind, "calibration": [PHOTOGRAPH], "allow_loss": True}
        targets = ["onnxruntime", "openvino"] if lower else plan.TARGETS
        choices = LANDMARKS_AND_POSE if name == "detectorv1" else {}
        todo = plan.plan(pipeline, "pyfeat-2.1", choices, weights=[work.weights(name)], targets=targets, **lower)
        out = work.bundle(name)
        shutil.rmtree(out, ignore_errors=True)
        build.build(todo, out)
        report = json.loads((out / build.REPORT).read_text(encoding="utf-8"))
        return report if lower else None

    return run


def tuned(name: str, threads: int) -> Run:
    """Each network on each backend, in turns; the choice is kept for `--backend auto`."""

    def run(work: Work) -> Any:
        said = json.loads(fexport("tune", work.bundle(name), "--threads", threads, "--rounds", 7, "--json"))
        return {"machine": measure.machine(), "threads": threads, **said}

    return run


def benched(workload: Workload, rounds: int, *more: str) -> Run:
    """Some rounds of a workload in a process of its own, in turns with py-feat."""

    def run(work: Work) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            words = ["--threads", 2, "--rounds", rounds, "--out", f"{folder}/out", *workload.options, *more]
            words += ["--against", "pyfeat", "--pyfeat-python", work.pyfeat, "--weights", work.weights(workload.bundle)]
            fexport("bench", work.bundle(workload.bundle), *words, "--json")
            return json.loads(Path(folder, "out", "samples.json").read_text(encoding="utf-8"))

    return run


def joined(parts: Sequence[dict[str, Any]], command: str) -> dict[str, Any]:
    """Runs of one workload in several processes as one: all their samples, and what follows from them computed anew."""
    whole = {**parts[0], "command": command, "parts": [p["machine"] for p in parts]}
    whole["workload"] = {**whole["workload"], "rounds": sum(p["workload"]["rounds"] for p in parts)}
    samples = {}
    for side in ("fexport", "pyfeat"):
        rows = [row for p in parts for row in p[side]["samples"]]
        samples[side] = [Sample(**row) for row in rows]
        whole[side] = parts[0][side] | {
            "samples": rows,
            "statistics": measure.statistics(samples[side]),
            "noise": measure.noise(samples[side]),
            **{key: max(p[side][key] for p in parts) for key in ("rss_mb", "peak_mb")},
        }
    stages = [p["fexport"]["stages_ms"] for p in parts for _ in p["fexport"]["samples"]]
    whole["fexport"]["stages_ms"] = {k: float(np.median([s[k] for s in stages])) for k in stages[0]}
    p50 = whole["pyfeat"]["statistics"]["p50_ms"] / whole["fexport"]["statistics"]["p50_ms"]
    whole["ratio"] = {"p50": p50, **measure.paired(samples["fexport"], samples["pyfeat"])}
    return whole


def beside_pyfeat(name: str, file: str, workload: Workload) -> Record:
    """The record of a workload."""
    pieces = {}
    for k, rounds in enumerate(workload.rounds):
        more = () if workload.start_up and k == 0 else ("--no-start-up",)
        pieces[f"frames {k + 1}"] = Piece(benched(workload, rounds, *more))
    if workload.networks is not None:
        pieces["networks"] = Piece(benched(workload, workload.networks, "--no-start-up", "--networks"))

    def join(parts: Mapping[str, Any]) -> Mapping[str, Any]:
        whole = joined([part for k, part in parts.items() if k != "networks"], f"record.py --only {name}")
        if "networks" in parts:
            whole["pyfeat"]["networks"] = parts["networks"]["pyfeat"]["networks"]
        return {f"{file}.json": whole}

    return Record(pieces, join)


def ceilings(work: Work) -> Any:
    """GFLOP/s of one large matrix product and of convolutions in fp32 on two threads, a sample a run: what these cores can do."""
    product = [("MatMul", (2048, 2048), (2048, 2048), 2e-9 * 2048**3)]
    convolutions = [
        (
            "Conv",
            (1, channels, side, side),
            (channels, channels, kernel, kernel),
            2e-9 * (channels * side * kernel) ** 2,
        )
        for channels, side, kernel in ((64, 160, 3), (128, 80, 3), (256, 56, 3), (512, 28, 3), (256, 56, 1))
    ]
    found = {
        f"{kind} {'x'.join(map(str, given))} by {'x'.join(map(str, weights))}": _gflops(kind, given, weights, work_of)
        for kind, given, weights, work_of in (*product, *convolutions)
    }
    return {"machine": measure.machine(), "threads": 2, "gflops": found}


def _gflops(kind: str, given: tuple[int, ...], weights: tuple[int, ...], gflop: float, runs: int = 20) -> list[float]:
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.RandomState(0)
    value = rng.rand(*given).astype(np.float32)
    constant = numpy_helper.from_array(rng.rand(*weights).astype(np.float32), "b")
    more = {"pads": [weights[2] // 2] * 4} if kind == "Conv" else {}
    graph = helper.make_graph(
        [helper.make_node(kind, ["a", "b"], ["c"], **more)], "ceiling",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, given)],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, None)], [constant],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = []
    for k in range(runs + 2):
        start = time.perf_counter()
        session.run(None, {"a": value})
        if k >= 2:
            found.append(gflop / (time.perf_counter() - start))
    return found


def in_turns(name: str, rounds: int, faces: int) -> Record:
    """What `fexport tune` chose beside ONNX Runtime alone, whole frames in turns."""

    def run(work: Work) -> None:
        bundle = work.bundle("detectorv2")
        words = ["--other-backend", "onnxruntime", "--this-backend", "auto", "--rounds", rounds, "--faces", faces]
        python(HERE / "before_after.py", HERE.parent, bundle, bundle, "--name", name, *words)

    return Record({"turns": Piece(run)})


def profiled(bundle: str) -> Callable[[Work], None]:
    """Where the multitask network's time goes, in a bundle's precision."""

    def run(work: Work) -> None:
        python(HERE / "network_profile.py", work.bundle(bundle), "multitask", "--threads", "1")

    return run


def at_once(work: Work) -> None:
    """A frame's networks at once, a thread each."""
    python(HERE / "at_once.py", work.bundle("detectorv2"))


def pooled(work: Work) -> None:
    """A frame under each way to give ONNX Runtime threads."""
    python(HERE / "thread_pools.py", work.bundle("detectorv2"))


def gated(work: Work) -> Any:
    """What the gate says of a build without its rewrites: it has to fail."""
    words = ("--rounds", "8", "--pipeline", "detectorv1", "--without-rewrites")
    done = subprocess.run(
        [sys.executable, HERE / "gate.py", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    if done.returncode != 1 or "SLOWER" not in done.stdout:
        raise SystemExit(f"gate.py {' '.join(words)} ended with {done.returncode}:\n{done.stdout}")
    return {"machine": measure.machine(), "command": f"gate.py {' '.join(words)}", "said": done.stdout.splitlines()}


def footprint(part: str) -> Run:
    """Memory on one backend, or disk of the environments."""

    def run(work: Work) -> Any:
        return json.loads(
            python(HERE / "footprint.py", work.bundle("detectorv2"), "--pyfeat-python", work.pyfeat, "--part", part)
        )

    return run


def _one(name: str) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    return lambda parts: {name: next(iter(parts.values()))}


def _footprint(parts: Mapping[str, Any]) -> Mapping[str, Any]:
    memory = {name: part["memory"][name] for name, part in parts.items() if name != "disk"}
    return {"footprint.json": {**parts["disk"], "memory": memory}}


def _verification(parts: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        f"precision_{n.rpartition(' ')[2]}_verification.json": part for n, part in parts.items() if part is not None
    }


PREPARED = ("weights", "bundles")
"""Records that nothing is measured in: made once, whatever the commit."""
RECORDS: dict[str, Record] = {
    "weights": Record({"files": Piece(weights, timed=False)}),
    "bundles": Record({name: Piece(built(name), timed=False) for name in BUNDLES}, _verification),
    "peak": Record({"ceilings": Piece(ceilings)}, _one("peak.json")),
    "backends_detectorv2_1_face": Record(
        {"2 threads": Piece(tuned("detectorv2", 2))}, _one("backends_detectorv2_1_face.json")
    ),
    "backends_detectorv2_1_face_1_thread": Record(
        {"1 thread": Piece(tuned("detectorv2", 1))}, _one("backends_detectorv2_1_face_1_thread.json")
    ),
    "backends_detectorv1_1_face": Record(
        {"2 threads": Piece(tuned("detectorv1", 2))}, _one("backends_detectorv1_1_face.json")
    ),
    "backends_detectorv1_1_face_1_thread": Record(
        {"1 thread": Piece(tuned("detectorv1", 1))}, _one("backends_detectorv1_1_face_1_thread.json")
    ),
    "backends_detectorv1_default": Record(
        {"2 threads": Piece(tuned("detectorv1 default", 2))}, _one("backends_detectorv1_default_1_face.json")
    ),
    **{name: beside_pyfeat(name, name, workload) for name, workload in WORKLOADS.items()},
    "backends_int8": Record({"2 threads": Piece(tuned("detectorv2 int8", 2))}),
    "backends_bf16": Record({"2 threads": Piece(tuned("detectorv2 bf16", 2))}),
    "backends_fp16": Record({"2 threads": Piece(tuned("detectorv2 fp16", 2))}),
    **{name: beside_pyfeat(name, f"precision_{name}", workload) for name, workload in PRECISIONS.items()},
    "auto_over_onnxruntime_vga_1_face": in_turns("auto_over_onnxruntime_vga_1_face", 14, 1),
    "auto_over_onnxruntime_vga_5_faces": in_turns("auto_over_onnxruntime_vga_5_faces", 8, 5),
    "profile": Record(
        {"multitask": Piece(profiled("detectorv2")), "multitask int8": Piece(profiled("detectorv2 int8"))}
    ),
    "at_once": Record({"ways": Piece(at_once)}),
    "thread_pools": Record({"modes": Piece(pooled)}),
    "gate": Record({"slowed": Piece(gated)}, _one("gate_slowed.json")),
    "footprint": Record(
        {name: Piece(footprint(name), timed=name != "disk") for name in ("onnxruntime", "ncnn", "openvino", "disk")},
        _footprint,
    ),
}
"""By name, in an order in which each has what it needs: choices of backends before what uses them."""

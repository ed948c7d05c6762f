"""Writes a Triton model repository of a bundle: the model that embeds fexruntime, and with `steps` a model for each graph.

A folder for each model: `NAME` (Python backend: config.pbtxt, 1/model.py, 1/fexruntime, 1/bundle) and, with steps, `NAME_ROLE` (ONNX
Runtime or TensorRT backend: config.pbtxt, 1/model.onnx or 1/model.plan). An ensemble in Triton's own sense is a fixed graph: it cannot
say "as many crops as there are faces", or "none". So the first model calls the others (business logic scripting), and each is batched,
scheduled and placed by the server as a step of an ensemble is.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fexport
import fexruntime
from fexport.triton.pbtxt import Word, text
from fexruntime.backends import chosen
from fexruntime.backends.base import AUTO, CPU, Place
from fexruntime.backends.onnx_bytes import types_as, types_of
from fexruntime.backends.triton import Step
from fexruntime.bundle import Bundle, BundleNetwork
from fexruntime.columns import select
from fexruntime.contracts import Tensor
from fexruntime.driver import Gpu, gpu
from fexruntime.engines import find, import_tensorrt
from fexruntime.errors import InputError, OutputError
from fexruntime.files import check_folder, write_file
from fexruntime.manifest import MANIFEST, Variant
from fexruntime.sources.limits import MOST_PIXELS

MODEL = Path(__file__).with_name("model.py")
MOST_ITEMS = 64
"""Of a call of an ONNX graph that reads faces."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Serving:
    """How the model is served. Raises InputError for a name that no folder should have, or a number of threads that cannot be."""

    name: str = "fexport"
    columns: str = ""
    """As `fexport run --columns`; all where it is empty."""
    max_batch: int = 8
    """Most images that are read together."""
    delay_us: int = 5000
    """How long a request may wait for others."""
    queue: int = 64
    """Requests that wait; the next one is refused at once."""
    instances: int = 1
    """Processes, each with the bundle loaded."""
    backend: str = AUTO
    device: str = CPU
    threads: int | None = None
    max_bytes: int = 20_000_000
    """Of an encoded image."""
    max_pixels: int = MOST_PIXELS
    """Of a decoded one."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InputError(f"{self.name!r} cannot be a model's name: letters, digits, _ - . such as 'fexport'")

    @property
    def column_names(self) -> tuple[str, ...] | None:
        """The columns asked for; None for all."""
        names = tuple(name.strip() for name in self.columns.split(",") if name.strip())
        return names or None


@dataclass(frozen=True, slots=True)
class Engine:
    """What a step's model is: its bytes under their name, what they were made with, and Triton's word for what runs them."""

    backend: str
    file: str
    data: bytes
    largest_batch: int | None
    made_with: Mapping[str, str]
    profiles: int = 0


def write(bundle: Bundle, out: Path, serving: Serving, steps: Mapping[str, Engine], force: bool = False) -> list[Path]:
    """Write the models into the repository `out` (made if it is not there; other models in it stay); answers their folders.

    Everything is staged beside `out` and moved in at the end; if that fails, what was there is there again. Raises OutputError for a
    model that is there already (without `force`), a folder that cannot be written, or one that nothing can be moved into, InputError for columns or a backend that the bundle has not.
    """
    selection = select(bundle.pipeline, serving.column_names)
    place = Place(serving.backend, serving.device)
    for network in bundle.networks.values() if not steps and serving.backend != AUTO else ():
        chosen(network, place)
    named = {
        role: Step(f"{serving.name}_{role}", engine.backend, engine.largest_batch) for role, engine in steps.items()
    }
    models = [serving.name, *(step.model for step in named.values())]
    if out.exists() and not out.is_dir():
        raise OutputError(f"cannot write a model repository at {str(out)!r}: it is a file")
    there = [name for name in models if (out / name).exists()]
    if there and not force:
        raise OutputError(f"{str(out / there[0])!r} is there already: give another --name, or --force to replace it")
    check_folder(out)
    bundle.verify_files()
    values = [c for g, columns in selection.groups if g.dtype == "float32" for c in columns]
    out.mkdir(parents=True, exist_ok=True)
    # not in `out`: a server that watches it would take half a model for one
    beside = out.resolve()
    if beside.stat().st_dev != beside.parent.stat().st_dev:
        raise OutputError(
            f"{str(out)!r} is a file system of its own, into which no whole model can be moved at once: name a folder in it"
        )
    check_folder(beside.parent)
    staging = Path(tempfile.mkdtemp(prefix=f".{beside.name}.triton-", dir=beside.parent))
    try:
        _write_host(bundle, staging / serving.name, serving, named, values)
        for role, engine in steps.items():
            _write_step(bundle.networks[role], staging / named[role].model, engine)
        for name in models:
            _moved(staging / name, out / name, staging / f"{name}.old")
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return [out / name for name in models]


def _moved(new: Path, target: Path, old: Path) -> None:
    """Move a model to its place; what was there goes to `old`, and comes back if it cannot be."""
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except OSError as error:
        if old.exists():
            old.rename(target)
        raise OutputError(f"cannot write {str(target)!r}: {error.strerror or error}") from None


def _write_host(
    bundle: Bundle, folder: Path, serving: Serving, steps: Mapping[str, Step], values: Sequence[str]
) -> None:
    version = folder / "1"
    version.mkdir(parents=True)
    shutil.copyfile(MODEL, version / "model.py")
    ignored = shutil.ignore_patterns("__pycache__", "bundles")
    shutil.copytree(Path(fexruntime.__file__).parent, version / "fexruntime", ignore=ignored)
    _copy(bundle, version / "bundle")
    (folder / "config.pbtxt").write_text(text(_host_config(bundle, serving, steps, values)), encoding="utf-8")


def _copy(bundle: Bundle, folder: Path) -> None:
    """The bundle's files, each read once and held to its digest."""
    folder.mkdir()
    (folder / MANIFEST).write_bytes((bundle.path / MANIFEST).read_bytes())
    for record in bundle.manifest.files:
        target = folder / record.file
        target.parent.mkdir(parents=True, exist_ok=True)
        write_file(target, record.read(bundle.path))
    for name in ("NOTICES.md", "verification.json"):
        if (bundle.path / name).is_file() and not (folder / name).exists():
            shutil.copyfile(bundle.path / name, folder / name)


def _host_config(
    bundle: Bundle, serving: Serving, steps: Mapping[str, Step], values: Sequence[str]
) -> Mapping[str, Any]:
    said = {
        "fexport": fexport.__version__,
        "pipeline": bundle.pipeline.name,
        "contract": bundle.contract,
        "stand_in_weights": ",".join(bundle.stand_ins),
        "columns": ",".join(serving.column_names or ()),
        "value_columns": ",".join(values),
        "backend": serving.backend,
        "device": serving.device,
        "threads": "" if serving.threads is None else str(serving.threads),
        "max_bytes": str(serving.max_bytes),
        "max_pixels": str(serving.max_pixels),
        "steps": json.dumps({role: asdict(step) for role, step in steps.items()}),
    }
    kind = "KIND_GPU" if serving.device == "cuda" else "KIND_CPU"
    return {
        "name": serving.name,
        "backend": "python",
        "max_batch_size": serving.max_batch,
        "input": [{"name": "image", "data_type": Word("TYPE_STRING"), "dims": [1]}],
        "output": [
            {"name": "rows", "data_type": Word("TYPE_STRING"), "dims": [1]},
            {"name": "values", "data_type": Word("TYPE_FP32"), "dims": [-1, len(values)]},
            {"name": "count", "data_type": Word("TYPE_INT32"), "dims": [1]},
        ],
        "instance_group": [{"count": serving.instances, "kind": Word(kind)}],
        "dynamic_batching": {
            "max_queue_delay_microseconds": serving.delay_us,
            "default_queue_policy": {"max_queue_size": serving.queue},
        },
        "parameters": [{"key": key, "value": {"string_value": value}} for key, value in said.items()],
    }


def _write_step(network: BundleNetwork, folder: Path, engine: Engine) -> None:
    (folder / "1").mkdir(parents=True)
    write_file(folder / "1" / engine.file, engine.data)
    (folder / "config.pbtxt").write_text(text(_step_config(network, folder.name, engine)), encoding="utf-8")


def _step_config(network: BundleNetwork, name: str, engine: Engine) -> Mapping[str, Any]:
    batched = is_batched(network)
    group: dict[str, Any] = {"count": 1}
    if engine.profiles:
        group |= {"kind": Word("KIND_GPU"), "profile": [str(k) for k in range(engine.profiles)]}
    config: dict[str, Any] = {
        "name": name,
        "backend": engine.backend,
        "default_model_filename": engine.file,
        "max_batch_size": (engine.largest_batch or 0) if batched else 0,
        "input": [_tensor(t, batched) for t in network.record.inputs],
        "output": [_tensor(t, batched) for t in network.record.outputs],
        "instance_group": [group],
    }
    if batched:
        config["dynamic_batching"] = {"max_queue_delay_microseconds": 0}
    said = {"network": network.row.name, **engine.made_with}
    return config | {"parameters": [{"key": key, "value": {"string_value": value}} for key, value in said.items()]}


def is_batched(network: BundleNetwork) -> bool:
    """Whether every tensor of a network has the items of a call as its first axis."""
    first = {t.shape[0] for t in (*network.record.inputs, *network.record.outputs)}
    return len(first) == 1 and isinstance(first.pop(), str)


def _tensor(tensor: Tensor, batched: bool) -> Mapping[str, Any]:
    shape = tensor.shape[1:] if batched else tensor.shape
    return {
        "name": tensor.name,
        "data_type": Word("TYPE_FP32"),
        "dims": [axis if isinstance(axis, int) else -1 for axis in shape],
    }


def graphs(bundle: Bundle, target: str = "any") -> Iterator[tuple[str, BundleNetwork, Variant]]:
    """Roles whose network is a graph, with the one of the bundle's precision."""
    for role, network in bundle.networks.items():
        if any(v.kind == "onnx" for v in network.record.variants):
            yield role, network, network.variant(None, ("onnx",), target)


def steps_of(bundle: Bundle, engine: str | None, serving: Serving) -> dict[str, Engine]:
    """Each graph's engine by role, of one of `fexport.triton.ENGINES`; none for None.

    Raises EnvironmentMissingError for TensorRT without a GPU, itself or engines; InputError where something else is to run the networks.
    """
    if engine is None:
        return {}
    if (serving.backend, serving.device) != (AUTO, CPU):
        raise InputError(f"--steps {engine} says what runs the networks: leave out --backend and --device")
    if engine == "onnxruntime":
        return onnx_steps(bundle)
    here = gpu()  # before TensorRT is imported: without a GPU its runtime ends the process
    return tensorrt_steps(bundle, import_tensorrt().__version__, here)


def onnx_steps(bundle: Bundle) -> dict[str, Engine]:
    """Each graph as it is, for Triton's ONNX Runtime backend."""
    made = {}
    for role, network, variant in graphs(bundle):
        graph = network.read(variant.model)
        computed = types_as(variant.precision, types_of(graph)).computed
        note = {"precision": computed, "sha256": variant.model.sha256}
        made[role] = Engine("onnxruntime", "model.onnx", graph, MOST_ITEMS if is_batched(network) else None, note)
    return made


def tensorrt_steps(bundle: Bundle, version: str, here: Gpu) -> dict[str, Engine]:
    """Each graph's engine out of this device's store, for Triton's TensorRT backend.

    Raises EnvironmentMissingError that names `fexport engines` for one that is not there, or was made for another place.
    """
    made, store = {}, Place().store()
    for role, network, variant in graphs(bundle, "tensorrt"):
        if "tensorrt" in network.record.not_held:
            continue
        path, note = find(store, network, variant, version, here)
        shapes = note["profiles"].split("; ")
        # the notes have the most of each profile's first input as "chips 64x3x112x112"
        most = max(int(shape.split(",")[0].rsplit(" ", 1)[1].split("x")[0]) for shape in shapes)
        made[role] = Engine(
            "tensorrt", "model.plan", path.read_bytes(), most if is_batched(network) else None, note, len(shapes)
        )
    return made

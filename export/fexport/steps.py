"""One network of a bundle made: exported, rewritten, verified, its canonical answer recorded.

A part that an interrupted build left is found again by the digest of everything that went into it.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import io
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from fexport import ncnn_export, onnx_export, onnx_passes, samples, session, tensorrt_lint, verify
from fexport.modules import Loaded
from fexport.plan import NCNN, OPENVINO, TARGETS, TENSORRT, Part
from fexruntime.arrays import F32
from fexruntime.backends import open_variant
from fexruntime.backends.arrays import FUNCTIONS
from fexruntime.backends.base import Backend, Place
from fexruntime.bundle import BundleNetwork
from fexruntime.contracts import Choice, Network, Tensor
from fexruntime.contracts.ncnn import SMALL_TILES, SMALL_TILES_BACKEND
from fexruntime.contracts.precision import FULL
from fexruntime.errors import BundleError
from fexruntime.files import write_file
from fexruntime.manifest import ANY, FileRecord, NetworkRecord, Variant, read_as
from fexruntime.versions import installed

Progress = Callable[[str, str], None]
"""Called with a role and what is being done to it."""


@dataclass(frozen=True, slots=True)
class Made:
    """A finished part: what the manifest says of it, and how each artefact was verified, by what it is called."""

    record: NetworkRecord
    reports: dict[str, verify.Report]


def make(staging: Path, role: str, part: Part, loaded: Loaded, targets: Sequence[str], progress: Progress) -> Made:
    """Export, rewrite and verify one network into the staging folder, or find it there."""
    network = loaded.network
    key = _key(part, loaded, targets)
    note = staging / f"{role}.step.json"
    kept = _kept(note, key, staging)
    if kept is not None:
        progress(role, f"{network.name} was already made")
        return kept
    progress(role, f"exporting {network.name}")
    inputs, outputs = edges(loaded, part.choice)
    passes: dict[str, int] = {}
    not_held: dict[str, str] = {}
    if loaded.recipe.graph:
        variants, passes, not_held = _graphs(staging, role, part, loaded, inputs, targets, progress)
    else:
        variants = [_arrays_alone(staging, role, part, loaded, inputs)]
    record = NetworkRecord(
        network=network.name,
        title=network.title,
        licence=network.licence,
        licence_note=network.licence_note,
        inputs=inputs,
        outputs=outputs,
        variants=tuple(variants),
        weights=loaded.records,
        passes=passes,
        config=loaded.config,
        not_held=not_held,
    )
    progress(role, f"verifying {network.name}")
    reports = compare_artefacts(BundleNetwork(role, part.stage, part.choice, network, record, staging), loaded)
    said = {name: report.as_json() for name, report in reports.items()}
    write_file(note, json_bytes({"key": key, "record": dataclasses.asdict(record), "reports": said}))
    return Made(record, reports)


def _graphs(
    staging: Path,
    role: str,
    part: Part,
    loaded: Loaded,
    inputs: tuple[Tensor, ...],
    targets: Sequence[str],
    progress: Progress,
) -> tuple[list[Variant], dict[str, int], dict[str, str]]:
    """(artefacts, what was rewritten, why a target has none) of a network that is exported."""
    plain = exported(loaded, part.choice)
    model = copy.deepcopy(plain)
    passes = onnx_passes.apply(model)
    variants = [graph_artefact(staging, role, part, loaded, inputs, model, FULL, ANY, verified_on(targets))]
    canonical = variants[0].canonical
    if OPENVINO in targets:
        own = copy.deepcopy(plain)
        of_own = onnx_passes.apply(own, onnx_passes.FOR_OPENVINO)
        if onnx_passes.is_worth_its_own(own, of_own, FULL):
            variants = beside(
                variants[0],
                graph_artefact(staging, role, part, loaded, inputs, own, FULL, OPENVINO, (OPENVINO,)),
            )
            passes |= named_for(of_own, OPENVINO)
    if loaded.recipe.arrays is not None:
        arrays = write(staging, f"{role}.arrays.npz", npz(loaded.recipe.arrays(loaded.module)))
        variants.append(Variant(FULL, "arrays", ANY, arrays, canonical, ("arrays",)))
    not_held = {}
    if TENSORRT in targets and (found := tensorrt_lint.lint(model)):
        not_held[TENSORRT] = str(found[0])
        progress(role, f"not for TensorRT: {found[0]}")
    if NCNN in targets:
        try:
            text, weights = ncnn_export.convert(plain)
        except ncnn_export.NotHeldError as error:
            not_held[NCNN] = str(error)
            progress(role, f"no artefact for ncnn: {error}")
        else:
            files = write(staging, f"{role}.ncnn.param", text), write(staging, f"{role}.ncnn.bin", weights)
            ways = (NCNN, SMALL_TILES_BACKEND) if loaded.network.name in SMALL_TILES else (NCNN,)
            variants.append(Variant(FULL, "ncnn", ANY, files[0], canonical, ways, files[1:]))
    return variants, passes, not_held


def graph_artefact(
    staging: Path,
    role: str,
    part: Part,
    loaded: Loaded,
    inputs: tuple[Tensor, ...],
    graph: onnx.ModelProto,
    precision: str,
    target: str,
    backends: tuple[str, ...],
    plan: FileRecord | None = None,
) -> Variant:
    """A graph and its recorded answer written into the staging folder, under a name that says for what it is."""
    name = ".".join((role, *((precision,) if precision != FULL else ()), *((target,) if target != ANY else ())))
    data = onnx_export.serialise(graph)
    answer = recorded(loaded, part, inputs, session.onnx_runner(data))
    canonical = write(staging, f"{name}.canonical.npz", npz(answer))
    return Variant(precision, "onnx", target, write(staging, f"{name}.onnx", data), canonical, backends, plan=plan)


def named_for(passes: Mapping[str, int], target: str) -> dict[str, int]:
    """Passes of an engine's own graph, under names that tell them from those of the graph for any."""
    return {f"{name} for {target}": count for name, count in passes.items()}


def beside(for_any: Variant, own: Variant) -> list[Variant]:
    """A graph for any engine and one's own: the first is not held to torch where the other is taken before it."""
    left = tuple(b for b in for_any.verified_on if b not in own.verified_on)
    return [dataclasses.replace(for_any, verified_on=left), own]


def verified_on(targets: Sequence[str]) -> tuple[str, ...]:
    """The targets on which an ONNX graph is held to torch here: ncnn has artefacts of its own, TensorRT makes engines elsewhere."""
    return tuple(t for t in targets if t not in (NCNN, TENSORRT))


def edges(loaded: Loaded, choice: Choice) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """(inputs, outputs) of a network as this choice and this checkpoint have it."""
    inputs = tuple(_sized(t, choice.crop_size) for t in loaded.network.inputs)
    return inputs, tuple(t for t in loaded.network.outputs if t.name in loaded.outputs)


def exported(loaded: Loaded, choice: Choice) -> onnx.ModelProto:
    """The plain graph of a network."""
    example = _example(cases_of(loaded, choice)[verify.DECISIVE][-1])
    return onnx_export.export(loaded.module, example, *edges(loaded, choice))


def _arrays_alone(staging: Path, role: str, part: Part, loaded: Loaded, inputs: Sequence[Tensor]) -> Variant:
    """The only artefact of a network that is not exported: its function's arrays."""
    assert loaded.recipe.arrays is not None
    made = loaded.recipe.arrays(loaded.module)

    def run(case: session.Case) -> dict[str, F32]:
        return dict(zip(loaded.outputs, FUNCTIONS[loaded.network.name](made, *case), strict=True))

    arrays = write(staging, f"{role}.arrays.npz", npz(made, compressed=False))
    canonical = write(staging, f"{role}.canonical.npz", npz(recorded(loaded, part, inputs, run)))
    return Variant(FULL, "arrays", ANY, arrays, canonical, ("arrays",))


def with_own_answers(network: BundleNetwork, part: Part, loaded: Loaded) -> NetworkRecord:
    """Its record, in which the answer of an engine's own graph is that engine's, where it runs here: another rounds otherwise, in int8
    by as much as the budget is.
    """
    variants = []
    for variant in network.record.variants:
        if variant.target != ANY and variant.target in variant.verified_on:
            backend = open_variant(network, variant, Place(backend=variant.target, cache=False))
            answer = npz(recorded(loaded, part, network.record.inputs, _runner(backend)))
            variant = dataclasses.replace(variant, canonical=write(network.folder, variant.canonical.file, answer))
            backend.close()
        variants.append(variant)
    return dataclasses.replace(network.record, variants=tuple(variants))


def _runner(backend: Backend) -> session.Runner:
    """A backend as what runs a case: its inputs, in order."""
    inputs = [t.name for t in backend.spec.inputs]
    return lambda case: backend.infer(dict(zip(inputs, case, strict=True)))


def compare_artefacts(
    network: BundleNetwork,
    loaded: Loaded,
    threads: int | None = None,
    more: Mapping[str, list[session.Case]] | None = None,
) -> dict[str, verify.Report]:
    """Hold every artefact of a network to torch, on each backend that it was (or is to be) verified on, as it will run.

    `more` are further inputs by kind, beside the samples that every build has.
    The report of the ONNX graph on ONNX Runtime, or of an only artefact, is called by the role alone, the others by role
    and backend, those of an engine's own graph on another by its engine too.
    """
    cases = cases_of(loaded, network.choice) | {kind: c for kind, c in (more or {}).items() if c}
    reports = {}
    for variant in network.record.variants:
        for name in variant.verified_on:
            backend = open_variant(network, variant, Place(backend=name, threads=threads, cache=False))
            of_other = variant.target not in (ANY, name)  # an engine's graph that another engine stands in for
            against = f"{name} {variant.precision}" + (f" for {variant.target}" if of_other else "")
            alone = len(network.record.variants) == len(variant.verified_on) == 1
            called = network.role if alone or name == TARGETS[0] else f"{network.role} {name}"
            called += f" {variant.target}" if of_other else ""
            report = verify.compare(
                loaded, _runner(backend), cases, network.choice.crop_size, variant.precision, against, variant.limit
            )
            report.target = variant.target
            reports[called] = report
            backend.close()
    return reports


def cases_of(loaded: Loaded, choice: Choice) -> samples.Cases:
    """What to compare a network on; of one that reads what a finder's other networks gave, what they give for frames."""
    cases, of_frames = samples.cases(loaded.network, choice), loaded.recipe.of_frames
    if of_frames is None:
        return cases
    return {kind: [of_frames(loaded.module, case) for case in inputs] for kind, inputs in cases.items()}


def recorded(loaded: Loaded, part: Part, inputs: Sequence[Tensor], run: session.Runner) -> dict[str, F32]:
    """An input and what the verified graph answers: of the candidates, the one furthest from a tie."""
    candidates = samples.canonical(loaded.network, part.choice)
    if loaded.recipe.of_frames is not None:
        candidates = loaded.recipe.of_frames(loaded.module, candidates)
    chosen = verify.steadiest(loaded, candidates)
    case = tuple(array[chosen : chosen + 1] for array in candidates)
    given = {f"input.{t.name}": array for t, array in zip(inputs, case, strict=True)}
    return given | {f"output.{name}": array for name, array in run(case).items()}


def _example(case: session.Case) -> tuple[torch.Tensor, ...]:
    """An input for the exporter's trace: at least two items, so that the batch axis is not taken for a constant."""
    tensors = [torch.from_numpy(array) for array in case]
    return tuple(t if len(t) > 1 else torch.cat([t, t]) for t in tensors)


def _sized(tensor: Tensor, crop_size: int) -> Tensor:
    shape = tuple(crop_size if axis == "chip" else axis for axis in tensor.shape)
    return dataclasses.replace(tensor, shape=shape)


def _key(part: Part, loaded: Loaded, targets: Sequence[str]) -> str:
    """Digest of everything that an artefact depends on: rows, weights, flags, targets, this code, the tools."""
    parts = [
        loaded.network,
        part.choice,
        loaded.records,
        loaded.config,
        targets,
        source_digest(),
        sorted(tools().items()),
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _kept(note: Path, key: str, staging: Path) -> Made | None:
    """An earlier run's part, if it was made from the same things, verified, and its files are whole."""
    try:
        said = json.loads(note.read_text(encoding="utf-8"))
        if said["key"] != key or not all(report["passed"] for report in said["reports"].values()):
            return None
        record: NetworkRecord = read_as(NetworkRecord, said["record"], note.name)
        for variant in record.variants:
            for file in variant.files:
                file.check(staging)
        return Made(record, {name: verify.Report.from_json(r) for name, r in said["reports"].items()})
    except (OSError, ValueError, KeyError, TypeError, BundleError):
        return None


@lru_cache(maxsize=1)
def source_digest() -> str:
    """Digest of the sources of fexport and fexruntime."""
    import fexruntime

    digest = hashlib.sha256()
    for folder in (Path(__file__).parent, Path(fexruntime.__file__).parent):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def tools() -> dict[str, str]:
    """Versions of what builds and verifies a bundle."""
    packages = installed(("torch", "onnx", "onnxruntime", "ncnn", "openvino", "numpy"))
    return {"python": platform.python_version()} | packages


def notices(networks: list[Network]) -> str:
    """Licences of networks, for the bundle and the terminal."""
    lines = (f"- {n.name} ({n.title}): {n.licence}. {n.licence_note}." for n in networks)
    return "\n".join(["# Licences of the networks in this bundle", "", *lines]) + "\n"


def write(folder: Path, name: str, data: bytes) -> FileRecord:
    """Write a file of the bundle and answer its record."""
    write_file(folder / name, data)
    return FileRecord.of(name, data)


def json_bytes(value: Any) -> bytes:
    """JSON as it is written everywhere in a bundle."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def npz(arrays: Mapping[str, Any], compressed: bool = True) -> bytes:
    """An .npz file; large weights hardly shrink, and are read faster as they are."""
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()

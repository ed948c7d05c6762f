"""What to build: names -> contract rows, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fexcalibration import METHODS
from fexruntime.bundle import stage_option
from fexruntime.contracts import Choice, Network, Pipeline, Stage, is_inner, network_row, pipeline_row
from fexruntime.contracts.precision import FULL, ISLANDS, PRECISIONS
from fexruntime.errors import InputError
from fexruntime.faces import KEEP
from fexruntime.sources.given import listed

NONE = "none"
"""What a caller chooses for a stage that is to be left out."""
NCNN, OPENVINO, TENSORRT = "ncnn", "openvino", "tensorrt"
TARGETS = ("onnxruntime", NCNN, OPENVINO, TENSORRT)
"""Engines that artefacts are made for and verified on. The first is always one: its graphs are everybody's."""


@dataclass(frozen=True, slots=True)
class Part:
    """What fills a role: the stage as it is filled, the choice made, its network (None: the stage has no graph)."""

    stage: Stage
    choice: Choice
    network: Network | None


@dataclass(frozen=True, slots=True)
class Plan:
    """A bundle to build: the pipeline's row, its contract, and what fills each role, in the order they run."""

    pipeline: Pipeline
    contract: str
    parts: Mapping[str, Part]
    weights: tuple[Path, ...] = ()
    stand_in_seed: int | None = None
    targets: tuple[str, ...] = TARGETS[:1]
    precision: Mapping[str, str] = field(default_factory=dict)
    """By role: what its network is lowered to. The others stay in fp32."""
    calibration: tuple[Path, ...] = ()
    """Pictures, folders and videos with faces like those that will be read."""
    ranges: Path | None = None
    method: str = METHODS[0]
    """How a calibrated range is cut."""
    allow_loss: bool = False
    """Whether a network beyond its precision's budgets is published, with its loss written down."""
    ask_hub: bool = False
    """Whether weights are looked for on the hub before they are made up."""

    @property
    def networks(self) -> dict[str, Network]:
        """The networks by role."""
        return {role: part.network for role, part in self.parts.items() if part.network is not None}


def plan(
    pipeline: str,
    contract: str | None = None,
    choices: Mapping[str, str | None] | None = None,
    weights: Sequence[Path] = (),
    stand_in_seed: int | None = None,
    targets: Sequence[str] = (),
    precision: str | Mapping[str, str] = FULL,
    calibration: Sequence[Path] = (),
    ranges: Path | None = None,
    method: str = METHODS[0],
    allow_loss: bool = False,
    ask_hub: bool = False,
) -> Plan:
    """Resolve names. `choices` by role: a network, "none" to leave the stage out, None for the default.

    `precision` is one for all networks that can be lowered (the others stay in fp32), or one by role. int8 needs pictures to
    calibrate on, or the ranges that were measured on some.
    Raises InputError for a wrong name, for a stage that is left out though another reads what it gives, and for
    weights that are not in a folder.
    """
    row = pipeline_row(pipeline, contract)
    asked = dict(choices or {})
    known = [s.role for s in (row.finder, *row.stages)]
    for role, name in asked.items():
        if role not in known and name is not None:
            under = f" under {contract}" if contract else ""
            raise InputError(f"{pipeline} has no {role}{under}: it has {', '.join(known)}")
    parts: dict[str, Part] = {}
    given: set[str] = set()
    for stage in (row.finder, *row.stages):
        name = asked.get(stage.role)
        if stage is not row.finder and (name == NONE or (name is None and stage.optional)):
            continue
        part = _part(pipeline, stage, name)
        says = [value for value in part.stage.gives if value != KEEP]
        # an earlier stage says it: nothing is computed twice, but for a stage that is there to say it better
        if says and given.issuperset(says) and not stage.optional:
            if name is None:
                continue
            earlier = next(p for p in parts.values() if says[0] in p.stage.gives)
            raise InputError(
                f"{says[0]} is given by {earlier.choice.network} ({earlier.stage.role}) already: leave out {stage_option(row, stage)}"
            )
        lacking = [r for r in part.choice.reads if isinstance(r, str) and r not in given]
        if lacking and is_inner(stage):
            continue
        if lacking:
            value, who = _missing(row, lacking[0], given)
            raise InputError(
                f"{stage.role} reads {value}, which {who} would give: leave out {stage.role} too "
                f"({stage_option(row, stage)} {NONE}), or build {who}"
            )
        parts[stage.role] = part
        given.update(part.stage.gives)
        for helper in stage.helpers(part.choice.network):
            parts[helper.role] = Part(helper, helper.choices[0], network_row(helper.networks[0]))
    for role, part in reversed(list(parts.items())):
        read = {r for p in parts.values() for r in p.choice.reads}
        if is_inner(part.stage) and read.isdisjoint(part.stage.gives):
            del parts[role]
    for folder in weights:
        if not folder.is_dir() and not (folder.suffix == ".whl" and folder.is_file()):
            raise InputError(f"--weights {str(folder)!r} is not a folder, nor a wheel (.whl)")
    for target in targets:
        if target not in TARGETS:
            raise InputError(f"no target {target!r}: use {', '.join(TARGETS)}")
    chosen = tuple(t for t in TARGETS if t in targets or t == TARGETS[0])
    lowered = _lowered(parts, precision)
    if not lowered and (calibration or ranges is not None or allow_loss):
        raise InputError(
            "--calibration, --ranges and --allow-loss are of lower precisions: add --fp16, --bf16, --int8 or --precision"
        )
    if ranges is not None and "int8" not in lowered.values():
        raise InputError("--ranges are for int8, and nothing is to be lowered to it")
    if "int8" in lowered.values() and not calibration and ranges is None:
        raise InputError(
            "int8 needs faces like those that will be read: give pictures with --calibration FOLDER|VIDEO|IMAGE, or what "
            "`fexport calibrate` measured on some with --ranges FILE"
        )
    for path in calibration:
        if not path.exists():
            raise InputError(f"--calibration {str(path)!r} is not there")
        if not any(Path(f).is_file() for f in listed([str(path)])):  # a file that is named may be called anything
            raise InputError(
                f"--calibration {str(path)!r} has no pictures or videos in it (subfolders are not searched)"
            )
    return Plan(
        row,
        contract or row.contracts[0],
        parts,
        tuple(weights),
        stand_in_seed,
        chosen,
        lowered,
        tuple(calibration),
        ranges,
        method,
        allow_loss,
        ask_hub,
    )


def _lowered(parts: Mapping[str, Part], precision: str | Mapping[str, str]) -> dict[str, str]:
    """By role, the precision of the networks that are lowered; InputError for one that cannot be."""
    networks = {role: part.network.name for role, part in parts.items() if part.network is not None}
    if isinstance(precision, str):
        asked = {role: precision for role, name in networks.items() if name in ISLANDS}
        if precision != FULL and not asked:
            raise InputError(f"nothing in this bundle can be lowered: {', '.join(networks.values())} run in fp32 alone")
    else:
        asked = dict(precision)
    for role, chosen in asked.items():
        if chosen not in PRECISIONS:
            raise InputError(f"no precision {chosen!r}: use {', '.join(PRECISIONS)}")
        if role not in networks:
            raise InputError(f"precision names {role}: this bundle has {', '.join(networks)}")
        if chosen != FULL and networks[role] not in ISLANDS:
            raise InputError(f"{networks[role]} ({role}) runs in fp32 alone: it has no row in contracts/precision.py")
    return {role: chosen for role, chosen in asked.items() if chosen != FULL}


def _missing(row: Pipeline, value: str, given: set[str]) -> tuple[str, str]:
    """(value, role): what is really missing where `value` is, and who would give it."""
    stage = next((s for s in row.stages if value in s.gives), None)
    if stage is None:
        return value, "another stage"
    if is_inner(stage):
        for read in stage.choices[0].reads:
            if isinstance(read, str) and read not in given:
                return _missing(row, read, given)
    return value, stage.role


def _part(pipeline: str, stage: Stage, name: str | None) -> Part:
    choice = stage.choices[0]
    if name is not None:
        try:
            choice = stage.choice(name)
        except KeyError:
            raise InputError(f"no {stage.role} {name!r} in {pipeline}: use {', '.join(stage.names)}") from None
    filled = stage.filled(choice.network)
    return Part(filled, choice, None if choice.network is None else network_row(choice.network))

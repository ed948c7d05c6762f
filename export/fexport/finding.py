"""All weights of a plan looked for before any work: what is there, what is made up, and all that is missing said at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fexport import checkpoints
from fexport.checkpoints import Located, NotToBeHadError
from fexport.plan import Plan
from fexruntime.contracts import PIPELINES, Network, WeightsFile, network_row
from fexruntime.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Lacking:
    """A weights file that is not to be had, and why."""

    network: Network
    row: WeightsFile
    why: NotToBeHadError

    @property
    def file(self) -> str:
        """The file, what it is for, its size, its licence, and where it comes from."""
        size = "" if self.row.size_bytes is None else f"{self.row.size_bytes / 1e6:.1f} MB, "
        return f"{self.row.filename} ({self.network.name}, {size}{self.network.licence}, of {self.row.url or self.row.repository})"


def look(networks: Iterable[Network], folders: Sequence[Path]) -> tuple[dict[str, list[Located]], list[Lacking]]:
    """(files by network, those that are missing), from the package, the folders, or, where no folder is given, the hub."""
    found: dict[str, list[Located]] = {}
    lacking: list[Lacking] = []
    for network in {n.name: n for n in networks}.values():
        files = []
        for row in network.files:
            try:
                files.append(checkpoints.locate_file(network, row, folders))
            except NotToBeHadError as error:
                lacking.append(Lacking(network, row, error))
        found[network.name] = files
    return found, lacking


def seeds_of(plan: Plan) -> dict[str, int | None]:
    """By role: the seed of weights that are made up, None for real ones.

    CheckpointError names every file that is missing and is not to be made up, with sizes, licences and the fixes.
    """
    if plan.stand_in_seed is not None and not plan.ask_hub:
        return {
            role: None if checkpoints.at_hand(network, plan.weights) else plan.stand_in_seed
            for role, network in plan.networks.items()
        }
    _, lacking = look(plan.networks.values(), plan.weights)
    if lacking and plan.stand_in_seed is None:
        raise CheckpointError(said(lacking) + _other_contract(plan, lacking))
    missing = {item.network.name for item in lacking}
    return {role: plan.stand_in_seed if n.name in missing else None for role, n in plan.networks.items()}


def said(lacking: Sequence[Lacking], fix: str = "") -> str:
    """One sentence: what is missing, why, and what mends it (`fix`, where it is not what each file's error says)."""
    files = {(item.row.repository, item.row.filename): item for item in lacking}  # several networks may share one
    by_cause: dict[str, list[str]] = {}
    for item in files.values():
        by_cause.setdefault(item.why.cause, []).append(item.file)
    causes = (f"{', '.join(names)} {cause}" for cause, names in by_cause.items())
    why = lacking[0].why
    general = why.fix if len(files) == 1 else why.fix_of_several
    return f"weights are missing: {'; '.join(causes)}; {fix or general}"


def _other_contract(plan: Plan, lacking: Sequence[Lacking]) -> str:
    """A sentence, if the folders have what another contract of this pipeline reads in place of what is missing."""
    missing = {item.network.name for item in lacking}
    roles = [role for role, network in plan.networks.items() if network.name in missing]
    for row in PIPELINES:
        if row.name != plan.pipeline.name or row is plan.pipeline:
            continue
        stages = [stage for stage in (row.finder, *row.stages) if stage.role in roles]
        for name in dict.fromkeys(name for stage in stages for name in stage.networks):
            if name not in missing and _in_folders(name, plan.weights):
                contract = row.contracts[0]
                return f"; {name}'s are there, which are those of {contract}: did you mean --contract {contract}?"
    return ""


def _in_folders(name: str, folders: Sequence[Path]) -> bool:
    network = network_row(name)
    return not all(row.packaged for row in network.files) and checkpoints.at_hand(network, folders)

"""Options that choose a pipeline and what fills its stages, made from the tables: what `build`, `fetch` and `stand-ins` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from fexport.plan import NONE
from fexruntime.bundle import stage_option
from fexruntime.contracts import CONTRACTS, PIPELINES, WITH_BUGS, is_inner
from fexruntime.errors import InputError


def _stage_options() -> dict[str, tuple[str, list[str], str, bool]]:
    """By role: its option, the networks that may fill it in any pipeline, what it is for, whether it has to be asked for."""
    found: dict[str, tuple[str, list[str], str, bool]] = {}
    for row in PIPELINES:
        for stage in (row.finder, *(s for s in row.stages if not is_inner(s))):
            names = list(stage.names) + [NONE] * (stage is not row.finder)
            option, known, title, flag = found.get(
                stage.role, (stage_option(row, stage), [], stage.title, stage.optional)
            )
            found[stage.role] = option, [*known, *(n for n in names if n not in known)], title, flag
    return {role: (o, sorted(n, key=lambda name: name == NONE), t, f) for role, (o, n, t, f) in found.items()}


def pipeline_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options; the command is given `pipeline`, `contract`, `pyfeat_bugs`, and `stage_ROLE` for each stage."""
    command = click.option(
        "--pyfeat-bugs",
        is_flag=True,
        help=f"What py-feat does with MobileNet's landmarks, faults included (contract {WITH_BUGS}); for comparing.",
    )(command)
    for role, (option, names, title, flag) in reversed(_stage_options().items()):
        if flag:
            text = f"{names[0]}: {title}. Left out unless asked for."
            command = click.option(option, f"stage_{role}", flag_value=names[0], default=None, help=text)(command)
            continue
        text = f"{title[:1].upper()}{title[1:]}. Default: the pipeline's first."
        command = click.option(option, f"stage_{role}", type=click.Choice(names), help=text)(command)
    command = click.option(
        "--contract",
        type=click.Choice(CONTRACTS),
        help=f"Whose conventions and weights. Default: the first that the pipeline follows ({CONTRACTS[0]}, today's py-feat).",
    )(command)
    return click.option(
        "--pipeline",
        type=click.Choice(list(dict.fromkeys(row.name for row in PIPELINES))),
        default=PIPELINES[0].name,
        show_default=True,
        help="Which of py-feat's detectors (or others' head pose) it mirrors.",
    )(command)


def contract_of(contract: str | None, pyfeat_bugs: bool) -> str | None:
    """The contract that is meant; InputError if two are."""
    if pyfeat_bugs and contract not in (None, WITH_BUGS):
        raise InputError(f"--pyfeat-bugs is the contract {WITH_BUGS}: leave --contract {contract} out")
    return WITH_BUGS if pyfeat_bugs else contract


def choices_of(stages: Mapping[str, Any]) -> dict[str, str | None]:
    """By role: what was chosen."""
    return {name.removeprefix("stage_"): chosen for name, chosen in stages.items()}

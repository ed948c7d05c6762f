"""fexport build: weights -> a verified bundle. There is one option for each stage that a pipeline has, made from the table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fexport.cli.extras import need
from fexport.plan import NONE, TARGETS
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


def _with_stages(command: Callable[..., None]) -> Callable[..., None]:
    for role, (option, names, title, flag) in reversed(_stage_options().items()):
        if flag:
            text = f"{names[0]}: {title}. Left out unless asked for."
            command = click.option(option, f"stage_{role}", flag_value=names[0], default=None, help=text)(command)
            continue
        text = f"{title[:1].upper()}{title[1:]}. Default: the pipeline's first."
        command = click.option(option, f"stage_{role}", type=click.Choice(names), help=text)(command)
    return command


@click.command("build")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--pipeline",
    type=click.Choice(list(dict.fromkeys(row.name for row in PIPELINES))),
    default=PIPELINES[0].name,
    show_default=True,
)
@click.option(
    "--contract",
    type=click.Choice(CONTRACTS),
    help=f"Whose conventions and weights. Default: the first that the pipeline follows ({CONTRACTS[0]}, today's py-feat).",
)
@_with_stages
@click.option(
    "--pyfeat-bugs",
    is_flag=True,
    help=f"What py-feat does with MobileNet's landmarks, faults included (contract {WITH_BUGS}); for comparing.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="DIR|WHEEL",
    multiple=True,
    help="Take weights from here (a folder, or mediapipe's wheel), not the hub. Several may be given: the first that has a file is used.",
)
@click.option(
    "--stand-in",
    is_flag=True,
    help="Make up the weights that are not at hand (labelled everywhere; their numbers mean nothing).",
)
@click.option(
    "--target",
    default=TARGETS[0],
    show_default=True,
    metavar="NAMES",
    help=f"Engines to make artefacts for and to verify on, of {', '.join(TARGETS)}, with commas. The ONNX graphs are always there.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the stand-in weights.")
def command(
    out: Path,
    pipeline: str,
    contract: str | None,
    pyfeat_bugs: bool,
    weights: tuple[Path, ...],
    stand_in: bool,
    target: str,
    seed: int,
    **stages: Any,
) -> None:
    """Build a verified bundle at OUT.

    Each network is exported to ONNX, compared with torch on a real face and on noise, and recorded with its licence. One that
    is beyond its tolerance stops the build: its report is kept beside OUT, and there is no bundle. Every stage but the face
    detector may be left out with "none": its weights are not asked for, and its columns are NaN.
    """
    need("export", "fexport build")

    from fexport import build as building
    from fexport import plan as planning
    from fexport.cli import tables
    from fexport.publish import check_target
    from fexport.steps import notices

    choices = {name.removeprefix("stage_"): chosen for name, chosen in stages.items()}
    targets = [name.strip() for name in target.split(",") if name.strip()]
    if pyfeat_bugs and contract not in (None, WITH_BUGS):
        raise InputError(f"--pyfeat-bugs is the contract {WITH_BUGS}: leave --contract {contract} out")
    plan = planning.plan(
        pipeline, WITH_BUGS if pyfeat_bugs else contract, choices, weights, seed if stand_in else None, targets
    )
    for name in plan.targets[1:]:
        need(name, f"--target {name}")
    check_target(out)
    screen = tables.console(stderr=True)
    screen.print(notices(list(plan.networks.values())), markup=False)
    with screen.status("building") as status:

        def progress(role: str, step: str) -> None:
            status.update(f"{role}: {step}")
            screen.print(f"  {role}: {step}", style="dim", markup=False)

        reports = building.build(plan, out, progress)
    screen.print(tables.report_table([r.as_json() for r in reports.values()]))
    _warn_of_stand_ins(out)
    count = len(plan.networks)
    click.echo(
        f"Built {out}: {pipeline}, contract {plan.contract}, {count} network{'s' * (count != 1)}, all within tolerance."
    )


def _warn_of_stand_ins(out: Path) -> None:
    from fexport.cli.tables import stand_in_sentence
    from fexruntime.bundle import open_bundle

    made_up = open_bundle(out).stand_ins
    if made_up:
        click.secho(f"{stand_in_sentence(made_up)} Give real ones with --weights DIR.", fg="yellow", err=True)

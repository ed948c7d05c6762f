"""fexport build: weights -> a verified bundle. There is one option for each stage that a pipeline has, made from the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fexport.cli.choosing import choices_of, contract_of, pipeline_options
from fexport.cli.extras import EXTRAS, need
from fexport.cli.lowering import REDUCED, precision_options, precisions_of
from fexport.cli.paths import FILE
from fexport.plan import TARGETS
from fexruntime.errors import EnvironmentMissingError, InputError


@click.command("build")
@click.argument("out", type=FILE)
@pipeline_options
@click.option(
    "--weights",
    type=FILE,
    metavar="DIR|WHEEL",
    multiple=True,
    help="Take weights from here (a folder, or mediapipe's wheel), not the hub. Several may be given: the first that has a file is used.",
)
@click.option(
    "--stand-in",
    is_flag=True,
    help="Make up the weights that are neither in the package, nor in --weights, nor (without --weights) on the hub or in its "
    "cache; labelled everywhere: their numbers mean nothing.",
)
@click.option(
    "--stand-in-all", is_flag=True, help="Make up all weights that do not come with fexport, and ask nobody for them."
)
@click.option("--force", is_flag=True, help="Replace the bundle at OUT, if there is one.")
@click.option(
    "--target",
    default=TARGETS[0],
    show_default=True,
    metavar="NAMES",
    help=f"Engines to make artefacts for and to verify on, of {', '.join(TARGETS)}, with commas. The ONNX graphs are always there.",
)
@precision_options
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the stand-in weights.")
def command(
    out: Path,
    pipeline: str,
    contract: str | None,
    pyfeat_bugs: bool,
    weights: tuple[Path, ...],
    stand_in: bool,
    stand_in_all: bool,
    force: bool,
    target: str,
    seed: int,
    precision: str | None,
    calibration: tuple[Path, ...],
    ranges: Path | None,
    method: str,
    allow_loss: bool,
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
    from fexruntime.bundle import open_bundle

    if stand_in_all and (stand_in or weights):
        raise InputError("--stand-in-all asks nobody for weights: leave --stand-in and --weights out")
    lowered = precisions_of(precision, [name for name in REDUCED if stages.pop(name)])
    targets = [name.strip() for name in target.split(",") if name.strip()]
    plan = planning.plan(
        pipeline,
        contract_of(contract, pyfeat_bugs),
        choices_of(stages),
        weights,
        seed if stand_in or stand_in_all else None,
        targets,
        lowered,
        calibration,
        ranges,
        method,
        allow_loss,
        ask_hub=stand_in,
    )
    for name in plan.targets[1:]:
        if name in EXTRAS:
            need(name, f"--target {name}")
    real = check_target(out, replace=force)
    screen = tables.console(stderr=True)
    screen.print(notices(list(plan.networks.values())), markup=False)
    with screen.status("building") as status:

        def progress(role: str, step: str) -> None:
            status.update(f"{role}: {step}")
            screen.print(f"  {role}: {step}", style="dim", markup=False)

        reports = building.build(plan, out, progress)
    tables.report_table([r.as_json() for r in reports.values()]).show()
    _warn_of_stand_ins(out, real)
    losses = tables.loss_sentences(open_bundle(out))
    for sentence in losses:
        click.secho(sentence, fg="yellow", err=True)
    count = len(plan.networks)
    verdict = "beyond tolerance where it says so" if losses else "all within tolerance"
    click.echo(f"Built {out}: {pipeline}, contract {plan.contract}, {count} network{'s' * (count != 1)}, {verdict}.")
    if "tensorrt" in plan.targets:
        _make_engines(out)


def _make_engines(out: Path) -> None:
    """TensorRT engines where there is a GPU; else the command that makes them where there is one."""
    from fexport.tensorrt_build import EngineOptions
    from fexport.tensorrt_engines import make
    from fexruntime.bundle import open_bundle
    from fexruntime.driver import gpu
    from fexruntime.engines import SIZES_HW

    try:
        gpu()
    except EnvironmentMissingError:
        click.echo(
            f"TensorRT engines are made where they run: copy {out} to the GPU's machine and call `fexport engines {out}` there."
        )
        return
    for role, said in make(
        open_bundle(out), EngineOptions(), SIZES_HW, True, lambda text: click.echo(text, err=True)
    ).items():
        click.echo(f"{role}: {said}")


def _warn_of_stand_ins(out: Path, real: list[str]) -> None:
    """Say what is made up, and which real weights of the bundle that was there before (`real`) it has replaced."""
    from fexport.cli.tables import stand_in_sentence
    from fexruntime.bundle import open_bundle

    made_up = open_bundle(out).stand_ins
    lost = [name for name in real if name in made_up]
    if made_up:
        click.secho(
            f"{stand_in_sentence(made_up)} Real ones come from the hub without --stand-in, or from --weights DIR.",
            fg="yellow",
            err=True,
        )
    if lost:
        click.secho(f"The bundle that was replaced had real weights in {', '.join(lost)}.", fg="red", err=True)

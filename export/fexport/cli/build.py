"""fexport build: weights -> a verified bundle."""

from __future__ import annotations

from pathlib import Path

import click

from fexport.cli.extras import need
from fexruntime.contracts import CONTRACTS, PIPELINES

_PIPELINES = sorted({name for name, _ in PIPELINES})
_DETECTORS = sorted({name for row in PIPELINES.values() for name in row.faces})
_IDENTITIES = [*sorted({name for row in PIPELINES.values() for name in row.identity}), "none"]


@click.command("build")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--pipeline", type=click.Choice(_PIPELINES), default="detectorv2", show_default=True)
@click.option("--contract", type=click.Choice(CONTRACTS), default=CONTRACTS[0], show_default=True)
@click.option("--face-detector", type=click.Choice(_DETECTORS), help="Default: the pipeline's own.")
@click.option(
    "--identity", type=click.Choice(_IDENTITIES), help="Default: arcface where the pipeline has faces to name."
)
@click.option("--weights", type=click.Path(path_type=Path), metavar="DIR", help="Take weights from here, not the hub.")
@click.option(
    "--stand-in",
    is_flag=True,
    help="Make up the weights that are not at hand (labelled everywhere; their numbers mean nothing).",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the stand-in weights.")
def command(
    out: Path,
    pipeline: str,
    contract: str,
    face_detector: str | None,
    identity: str | None,
    weights: Path | None,
    stand_in: bool,
    seed: int,
) -> None:
    """Build a verified bundle at OUT.

    Each network is exported to ONNX, compared with torch on a real face and on noise, and recorded with its licence. One that
    is beyond its tolerance stops the build: its report is kept beside OUT, and there is no bundle.
    """
    need("export", "fexport build")

    from fexport import build as building
    from fexport.cli import tables

    plan = building.plan(pipeline, contract, face_detector, identity, weights, seed if stand_in else None)
    building.check_target(out)
    screen = tables.console(stderr=True)
    screen.print(building.notices(plan), markup=False)
    with screen.status("building") as status:

        def progress(role: str, step: str) -> None:
            status.update(f"{role}: {step}")
            screen.print(f"  {role}: {step}", style="dim", markup=False)

        reports = building.build(plan, out, progress)
    screen.print(tables.report_table([r.as_json() for r in reports.values()]))
    _warn_of_stand_ins(out)
    click.echo(f"Built {out}: {pipeline}, contract {contract}, {len(reports)} networks, all within tolerance.")


def _warn_of_stand_ins(out: Path) -> None:
    from fexruntime.bundle import open_bundle

    made_up = open_bundle(out).stand_ins
    if made_up:
        click.secho(
            f"STAND-IN WEIGHTS in {', '.join(made_up)}: what they answer means nothing. Give real ones with --weights DIR.",
            fg="yellow",
            err=True,
        )

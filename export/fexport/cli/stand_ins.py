"""fexport stand-ins: made-up weights as files, which py-feat loads too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fexport.cli.choosing import choices_of, contract_of, pipeline_options
from fexport.cli.extras import need
from fexport.cli.paths import FOLDER


@click.command("stand-ins")
@click.argument("out", type=FOLDER, metavar="DIR")
@pipeline_options
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the weights.")
def command(out: Path, pipeline: str, contract: str | None, pyfeat_bugs: bool, seed: int, **stages: Any) -> None:
    """Write made-up weights of a pipeline into DIR, in the files that py-feat loads too.

    So that a comparison of speed, or of arithmetic, can be made again by anybody without the real weights: what such networks
    answer means nothing. A file that is there already is never replaced.
    """
    need("export", "fexport stand-ins")
    from fexport import fetching
    from fexport import plan as planning
    from fexruntime.files import check_folder

    plan = planning.plan(pipeline, contract_of(contract, pyfeat_bugs), choices_of(stages), stand_in_seed=seed)
    check_folder(out)
    written, left_out = fetching.write_stand_ins(plan, out)
    click.echo(f"{len(written)} file{'s' * (len(written) != 1)} in {out}")
    click.secho("STAND-IN WEIGHTS: what they answer means nothing.", fg="yellow", err=True)
    for reason in left_out:
        click.echo(f"not written: {reason}", err=True)

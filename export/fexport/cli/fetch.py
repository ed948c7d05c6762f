"""fexport fetch: a pipeline's weights -> a folder for --weights, for machines that the hub cannot be reached from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fexport.cli.choosing import choices_of, contract_of, pipeline_options
from fexport.cli.extras import need
from fexport.cli.paths import FOLDER


@click.command("fetch")
@pipeline_options
@click.option("--to", type=FOLDER, required=True, metavar="DIR", help="The folder (it is made).")
def command(pipeline: str, contract: str | None, pyfeat_bugs: bool, to: Path, **stages: Any) -> None:
    """Fetch the weights of a pipeline from the hub into a folder.

    Licences and sizes are shown first. What the folder has already is kept; what cannot be had is named, all of it, and the
    exit status is 1 then. `fexport build OUT --weights DIR` with the same options builds from it.
    """
    need("export", "fexport fetch")
    from fexport import fetching, finding
    from fexport import plan as planning
    from fexport.cli.tables import size
    from fexport.steps import notices
    from fexruntime.errors import CheckpointError
    from fexruntime.files import check_folder

    plan = planning.plan(pipeline, contract_of(contract, pyfeat_bugs), choices_of(stages))
    check_folder(to)
    click.echo(notices(list(plan.networks.values())), err=True)
    fetched, lacking = fetching.fetch(plan.networks.values(), to, lambda text: click.echo(f"  {text}", err=True))
    total = sum(path.stat().st_size for path in fetched)
    if fetched or not lacking:
        click.echo(f"{len(fetched)} file{'s' * (len(fetched) != 1)}, {size(total)}, in {to}")
    if lacking:
        raise CheckpointError(
            finding.said(lacking, f"fetch again where they can be had, or put the files into {str(to)!r}")
        )

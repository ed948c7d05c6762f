"""fexport triton: a bundle as a model repository for NVIDIA's Triton Inference Server."""

from __future__ import annotations

from pathlib import Path

import click

from fexport.cli.options import megapixels_option, threads_option
from fexport.cli.paths import BACKEND, BUNDLE, DEVICE, FOLDER
from fexport.triton import ENGINES
from fexruntime.backends.base import AUTO, CPU


@click.command("triton")
@click.argument("bundle", type=BUNDLE)
@click.argument("out", type=FOLDER)
@click.option("--name", default="fexport", show_default=True, help="Of the model.")
@click.option("--columns", default="", help="Only these columns or groups of them (au,pose): others are not computed.")
@click.option("--max-batch", type=click.IntRange(min=1), default=8, show_default=True, help="Images read together.")
@click.option(
    "--delay",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    metavar="MS",
    help="A request waits for others.",
)
@click.option(
    "--queue", type=click.IntRange(min=1), default=64, show_default=True, help="Requests that wait; more: refused."
)
@click.option(
    "--instances",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes, each with the bundle loaded.",
)
@threads_option
@click.option(
    "--backend", type=BACKEND, default=AUTO, show_default=True, help="What runs the networks inside the model."
)
@click.option("--device", type=DEVICE, default=CPU, show_default=True, help="cuda: an instance a GPU.")
@click.option(
    "--steps",
    type=click.Choice(ENGINES),
    help="Each graph as a model of its own that Triton runs, batches and places: ONNX graphs, or this GPU's engines.",
)
@click.option("--max-megabytes", type=click.FloatRange(min=0.001), default=20.0, show_default=True, help="Of an image.")
@megapixels_option("Of an image.")
@click.option("--force", is_flag=True, help="Replace models of these names that are there.")
def command(
    bundle: str,
    out: Path,
    name: str,
    columns: str,
    max_batch: int,
    delay: float,
    queue: int,
    instances: int,
    threads: int | None,
    backend: str,
    device: str,
    steps: str | None,
    max_megabytes: float,
    max_megapixels: float,
    force: bool,
) -> None:
    """Write BUNDLE into the model repository OUT: `tritonserver --model-repository OUT` serves it.

    The model takes encoded images ("image") and gives JSON ("rows") or tensors ("values", "count"), the numbers of `detect`. It brings
    the runtime and the bundle along; the server's Python needs NumPy, OpenCV and what runs the networks (`pip install
    'fexport[cpu]'`). `--steps tensorrt` takes the engines that `fexport engines` made on this machine.
    """
    from fexport.cli.tables import stand_in_sentence
    from fexport.triton import repository
    from fexruntime.bundle import open_bundle

    serving = repository.Serving(
        name=name,
        columns=columns,
        max_batch=max_batch,
        delay_us=round(1000 * delay),
        queue=queue,
        instances=instances,
        backend=backend,
        device=device,
        threads=threads,
        max_bytes=round(max_megabytes * 1e6),
        max_pixels=round(max_megapixels * 1e6),
    )
    opened = open_bundle(bundle)
    made = repository.steps_of(opened, steps, serving)
    if opened.stand_ins:
        click.secho(stand_in_sentence(opened.stand_ins), fg="yellow", err=True)
    folders = repository.write(opened, out, serving, made, force)
    click.echo(
        f"{out}: {', '.join(folder.name for folder in folders)}; serve it with `tritonserver --model-repository {out}`"
    )

"""fexport engines: TensorRT engines of a bundle, made on the GPU that will run them."""

from __future__ import annotations

import click

from fexport.cli.paths import BUNDLE
from fexruntime.bundle import EDGE


@click.command("engines")
@click.argument("bundle", type=BUNDLE, default=EDGE)
@click.option(
    "--precision", type=click.Choice(["fp32", "fp16", "bf16", "int8"]), help="Default: what BUNDLE was built in."
)
@click.option(
    "--profile",
    multiple=True,
    metavar="HxW",
    help="Frame size that the face detector is made for. Several may be given.",
)
@click.option("--workspace", type=click.IntRange(min=1), default=2048, show_default=True, metavar="MB")
@click.option("--level", type=click.IntRange(0, 5), default=3, show_default=True, help="TensorRT's optimisation level.")
@click.option("--tf32", is_flag=True, help="Allow TF32, which is not fp32.")
@click.option("--version-compatible", is_flag=True, help="An engine that later versions load, too.")
@click.option(
    "--hardware", default="none", show_default=True, type=click.Choice(["none", "ampere-plus", "same-capability"])
)
@click.option("--refit", is_flag=True, help="An engine whose weights can be changed.")
@click.option(
    "--dla", type=click.IntRange(min=0), help="Run on this deep learning accelerator of a Jetson, the GPU for the rest."
)
@click.option("--if-needed", is_flag=True, help="Keep the engines that can be loaded here.")
def command(
    bundle: str,
    precision: str | None,
    profile: tuple[str, ...],
    workspace: int,
    level: int,
    tf32: bool,
    version_compatible: bool,
    hardware: str,
    refit: bool,
    dla: int | None,
    if_needed: bool,
) -> None:
    """Build TensorRT engines of every graph of BUNDLE for this GPU and keep them in the cache. Needs no torch.

    An engine serves one TensorRT and GPU: copy the bundle and run this there. Networks without a graph stay on the CPU.
    """
    from fexport import tensorrt_engines
    from fexport.cli import tables
    from fexport.tensorrt_build import EngineOptions
    from fexruntime.bundle import open_bundle
    from fexruntime.engines import sizes_of

    options = EngineOptions(
        precision=precision,
        workspace_mb=workspace,
        level=level,
        tf32=tf32,
        version_compatible=version_compatible,
        hardware=hardware,
        refit=refit,
        dla=dla,
    )
    sizes = sizes_of(profile)
    with tables.console(stderr=True).status("building engines") as status:
        made = tensorrt_engines.make(open_bundle(bundle), options, sizes, if_needed, status.update)
    for role, said in made.items():
        click.echo(f"{role}: {said}")

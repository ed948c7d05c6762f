"""fexport tune: which backend runs each network of a bundle fastest here."""

from __future__ import annotations

import dataclasses

import click

from fexport.cli.extras import size_option
from fexport.cli.options import threads_option
from fexport.cli.paths import BUNDLE
from fexruntime.bundle import EDGE


@click.command("tune")
@click.argument("bundle", type=BUNDLE, default=EDGE)
@click.option(
    "--size", callback=size_option, default="640x480", show_default=True, metavar="WxH", help="Of the frames."
)
@click.option("--faces", type=click.IntRange(1, 64), default=1, show_default=True, help="On each frame.")
@threads_option
@click.option(
    "--rounds", type=click.IntRange(min=5), default=11, show_default=True, help="Of measuring, all backends in turns."
)
@click.option("--json", "as_json", is_flag=True, help="Print the choice and every sample as JSON.")
def command(bundle: str, size: tuple[int, int], faces: int, threads: int | None, rounds: int, as_json: bool) -> None:
    """Measure every verified artefact of BUNDLE that this machine can run, in turns, and keep the fastest for each network.

    Each is measured as a frame meets it, behind the other networks' runs; the fastest backend on fewer threads too. Rounds in which
    something else ran are thrown away ("noisy" counts them). `fexport run` and `Detector(bundle, backend="auto")` use the choice, for
    this bundle, CPU, number of threads and these versions of the backends; `fexport cache` lists it. Precision is never changed. Nothing
    else should run meanwhile.
    """
    from fexport.cli import tables
    from fexruntime.backends.base import Place
    from fexruntime.bundle import open_bundle
    from fexruntime.tuning import Workload, choice_of, tune

    width, height = size
    with tables.console(stderr=True).status("measuring") as status:
        found = tune(open_bundle(bundle), Place(threads=threads), Workload(height, width, faces), rounds, status.update)
    if as_json:
        work = {"width": width, "height": height, "faces": faces, "threads": threads}
        tables.print_json(
            {"workload": work, "measured": [dataclasses.asdict(m) for m in found], "kept": choice_of(found)}
        )
        return
    table = tables.Sheet(
        tables.Column("role"), tables.Column("network", 1), tables.Column("backend"), tables.Column("threads", right=True),
        tables.Column("p50 ms", right=True), tables.Column("noisy", right=True), tables.Column("", whole=True),
        title=f"{width} x {height}, {faces} face{'s' * (faces != 1)}",
    )  # fmt: skip
    for m in found:
        table.add(
            m.role, m.network, m.backend, str(m.threads), f"{m.p50_ms:.2f}", str(m.noisy), "chosen" if m.chosen else ""
        )
    table.show()
    kept = (f"{m.role}={m.backend} ({m.threads} thread{'s' * (m.threads != 1)})" for m in found if m.chosen)
    click.echo(f"kept: {', '.join(kept)}")
    if noisy := dict.fromkeys(m.network for m in found if m.disturbed):
        click.echo(f"NOISY ({', '.join(noisy)}): most rounds were disturbed; tune again when nothing else runs")
    if len(only := {m.backend for m in found}) == 1:
        click.echo(
            f"{only.pop()} alone was measured: others need artefacts in the bundle (`fexport build --target ncnn,openvino`) "
            "and to be installed"
        )

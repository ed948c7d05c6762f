"""fexport bench: how fast a bundle is on this machine, against py-feat if asked for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fexport.cli.extras import need, size_option
from fexport.cli.options import device_option, pixels_option
from fexport.cli.paths import (
    AGAINST,
    BACKEND,
    BUNDLE,
    FILE,
    FOLDER,
    PYTHON,
    RUNS_ON,
    by_role,
)
from fexruntime.backends.base import AUTO, CPU
from fexruntime.errors import InputError, StandInWarning

if TYPE_CHECKING:
    from fexport.bench.runner import Options

PYFEAT = "pyfeat"


@click.command("bench")
@click.argument("bundle", type=BUNDLE)
@click.argument("picture", required=False, type=FILE, metavar="[INPUT]")
@click.option(
    "--faces", type=click.IntRange(1, 64), help="Read this many faces, whatever is found. Default: those found."
)
@click.option(
    "--size", callback=size_option, metavar="WxH", help="Tile the picture to this size. Default: 640x480 without INPUT."
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of both sides. Default: all cores.")
@click.option("--rounds", type=click.IntRange(min=3), default=20, show_default=True, help="Frames that are measured.")
@click.option("--warmup", type=click.IntRange(min=1), default=3, show_default=True, help="Frames before them.")
@click.option("--detector-size", type=click.IntRange(min=64), help="Shrink what the face detector sees (not exact).")
@click.option(
    "--output-size", type=click.IntRange(min=64), help="Scale frames to this, as py-feat's output_size: both sides."
)
@click.option("--backend", type=BACKEND, default=AUTO, show_default=True, help=f"What runs the networks: {RUNS_ON}.")
@device_option
@pixels_option
@click.option("--no-start-up", is_flag=True, help="Leave out start-up and memory of fresh processes.")
@click.option(
    "--networks",
    is_flag=True,
    help="Each network alone, too: CPU time on one thread; beside py-feat also wall time on all.",
)
@click.option(
    "--against",
    type=AGAINST,
    metavar="pyfeat|BUNDLE",
    help="Run py-feat, or another bundle of the same pipeline, on the same frames, in turns.",
)
@click.option("--pyfeat-python", type=PYTHON, help="Python of an environment with py-feat.")
@click.option("--weights", type=FOLDER, metavar="DIR", help="Weights for py-feat, not the hub's.")
@click.option(
    "--out",
    type=FOLDER,
    default=Path("fexport-bench"),
    show_default=True,
    metavar="DIR",
    help="Where it is written; what an earlier run wrote there is replaced, nothing else.",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything that was measured as JSON, instead of tables.")
def command(
    bundle: str,
    picture: Path | None,
    faces: int | None,
    size: tuple[int, int] | None,
    threads: int | None,
    rounds: int,
    warmup: int,
    detector_size: int | None,
    output_size: int | None,
    backend: str,
    device: str,
    pixels: str,
    no_start_up: bool,
    networks: bool,
    against: str | None,
    pyfeat_python: Path | None,
    weights: Path | None,
    out: Path,
    as_json: bool,
) -> None:
    """Measure BUNDLE on INPUT (a picture; default: the packaged photograph).

    A comparison is of the same work: other networks, another contract or another number of faces on one side are an error.

    Keeps every sample as JSON in --out, with a report and plots: latency percentiles, stages, start-up, memory, installed
    size. Says so when the machine was too noisy to be believed.
    """
    need("bench", "fexport bench")
    from fexport.bench import bundles, report, runner
    from fexport.cli import bench_tables, tables
    from fexruntime.cores import available_cores

    if against == PYFEAT and pyfeat_python is None:
        raise InputError(
            "--against pyfeat needs --pyfeat-python: the Python of an environment that has py-feat installed"
        )
    if networks and device != CPU:
        raise InputError(
            "--networks measures CPU time of networks: leave it out with --device; the stages say what each takes"
        )
    if picture is None and size is None:
        size = (640, 480)
    other = None if against == PYFEAT else against
    report.check_target(out, report.FILES if other is None else bundles.FILES)
    options = runner.Options(
        bundle=bundle,
        picture=picture,
        size_wh=size,
        faces=faces,
        threads=threads or available_cores(),
        rounds=rounds,
        warmup=warmup,
        detector_size=detector_size,
        output_size=output_size,
        backend=by_role("--backend", backend),
        device=by_role("--device", device),
        pixels=pixels,
        start_up=not no_start_up,
        networks=networks,
        against=pyfeat_python if against == PYFEAT else None,
        weights=weights,
    )
    warnings.simplefilter("ignore", StandInWarning)  # the report says it
    if other is not None:
        _two_bundles(options, other, out, as_json)
        return
    with tables.console(stderr=True).status("measuring") as status:
        result = runner.run(options, status.update)
    written = report.write(result, out)
    if as_json:
        tables.print_json(result)
    else:
        bench_tables.show(result)
    _warn({"fexport": result["fexport"], "py-feat": result.get("pyfeat", {})})
    _say_written(written, as_json)


def _warn(sides: dict[str, dict[str, Any]]) -> None:
    for name, side in sides.items():
        if side.get("noise"):
            click.secho(f"NOISY ({name}): {side['noise']}", fg="yellow", err=True)


def _say_written(written: Sequence[Path], as_json: bool) -> None:
    folder = written[0].parent
    click.echo(f"written: {', '.join(path.name for path in written)} in {folder}", err=as_json)


def _two_bundles(options: Options, against: str, out: Path, as_json: bool) -> None:
    from fexport.bench import bundles
    from fexport.cli import bench_tables, tables

    with tables.console(stderr=True).status("measuring") as status:
        result = bundles.run(options, against, status.update)
    written = bundles.write(result, out)
    if as_json:
        tables.print_json(result)
    else:
        bench_tables.show_two(result)
    _warn({side["path"]: side for side in result["sides"]})
    _say_written(written, as_json)

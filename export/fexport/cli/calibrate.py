"""fexport calibrate: ranges for int8 from somebody's own pictures; what lowering each part of a network costs."""

from __future__ import annotations

from pathlib import Path

import click

from fexport.cli.extras import need
from fexport.cli.paths import BUNDLE, FILE
from fexruntime.bundle import EDGE
from fexruntime.contracts.precision import PRECISIONS
from fexruntime.errors import InputError
from fexruntime.sources.given import listed
from fexruntime.sources.video import is_video

RANGES = ".json"
FEW = "ONE PICTURE says little: what lowering costs differs from face to face. Give a folder of some dozens."
"""What is said of a sensitivity that was measured on next to nothing."""


@click.command("calibrate")
@click.argument("target", type=BUNDLE)
@click.argument("pictures", nargs=-1, type=FILE)
@click.option(
    "--bundle",
    type=BUNDLE,
    default=EDGE,
    show_default=True,
    help="An fp32 bundle: whose networks, and who finds the faces.",
)
@click.option("--chips", type=click.IntRange(min=1), default=200, show_default=True, help="Faces to measure on.")
@click.option("--sensitivity", is_flag=True, help="TARGET is a bundle: rank its parts by what lowering them costs.")
@click.option(
    "--precision", type=click.Choice(PRECISIONS[1:]), default="int8", show_default=True, help="For --sensitivity."
)
@click.option("--role", help="For --sensitivity: this network alone, e.g. faces.")
@click.option(
    "--depth",
    type=click.IntRange(1, 6),
    default=2,
    show_default=True,
    help="Steps of the layers' names that make a part.",
)
@click.option(
    "--report",
    type=FILE,
    default=Path("sensitivity"),
    show_default=True,
    metavar="DIR",
    help="Where --sensitivity writes report.html, report.md and its plots.",
)
@click.option(
    "--weights", type=FILE, multiple=True, metavar="DIR|WHEEL",
    help="Where the bundle's weights are, if it was built from a folder.",
)  # fmt: skip
def command(
    target: str,
    pictures: tuple[Path, ...],
    bundle: str,
    chips: int,
    sensitivity: bool,
    precision: str,
    role: str | None,
    depth: int,
    report: Path,
    weights: tuple[Path, ...],
) -> None:
    """Write ranges for int8 to TARGET (a .json), measured on PICTURES (images, folders, videos).

    The ranges serve every build from the same weights (`fexport build --int8 --ranges TARGET`), and hold no picture. With
    --sensitivity TARGET is an fp32 bundle, and the answer is a report.

    \b
    fexport calibrate mine.ranges.json photos/ --bundle bundle --weights weights/
    fexport calibrate bundle photos/ --sensitivity --report sensitivity/
    """
    need("export", "fexport calibrate")
    from fexport.cli import tables
    from fexport.precision import calibration

    if not pictures:
        raise InputError("give pictures with faces like those that will be read: images, folders or videos")
    missing = [str(p) for p in pictures if not p.exists()]
    if missing:
        raise InputError(f"there is no {missing[0]!r}")
    read = [f for f in listed([str(p) for p in pictures]) if Path(f).is_file()]
    if not read:
        raise InputError(f"there is no picture or video in {str(pictures[0])!r} (subfolders are not searched)")
    if sensitivity and len(read) == 1 and not is_video(read[0]):
        click.secho(FEW, fg="yellow", err=True)
    if not sensitivity and not target.endswith(RANGES):
        raise InputError(
            f"ranges are written to a {RANGES} file, not to {target!r} (with --sensitivity it is a bundle)"
        )
    with tables.console(stderr=True).status("reading pictures") as status:
        if sensitivity:
            need("bench", "fexport calibrate --sensitivity")
            found = calibration.sensitivity(
                target, pictures, precision, report, weights, chips, role, depth, status.update
            )
        else:
            made = calibration.write_ranges(Path(target), pictures, bundle, weights, chips, status.update)
    if sensitivity:
        for line in found:
            click.echo(line)
        click.echo(f"wrote {report / 'report.html'} and {report / 'report.md'}")
        return
    for ranges in made:
        click.echo(f"{ranges.network}: {len(ranges.tensors)} tensors on {ranges.chips} inputs")
    click.echo(f"wrote {target}")

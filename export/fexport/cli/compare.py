"""fexport compare: two bundles, a bundle and a saved table, or a bundle and py-feat, on the same pictures."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fexport.cli.paths import BACKEND, BUNDLE_OR_INPUT, FILE, FOLDER, PYTHON, RUNS_ON
from fexruntime.backends.base import AUTO
from fexruntime.errors import InputError, StandInWarning, VerificationError

if TYPE_CHECKING:
    from fexport.comparison.measuring import Comparison
    from fexport.comparison.sides import Side
    from fexruntime import Detector
    from fexruntime.arrays import U8
    from fexruntime.options import OptionFields
    from fexruntime.sources.frame import Frame

_JUDGES = ("max", "p99", "p95", "median")


@click.command("compare")
@click.argument("paths", nargs=-1, type=BUNDLE_OR_INPUT, required=True, metavar="A [B] INPUT...")
@click.option("--against", type=click.Choice(["pyfeat"]), help="Instead of B: run py-feat on the same images.")
@click.option("--pyfeat-python", type=PYTHON, help="Python of an environment with py-feat.")
@click.option("--weights", type=FOLDER, metavar="DIR", help="Weights for py-feat, not the hub's.")
@click.option("--columns", metavar="NAMES", help="Compare only these columns or groups.")
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    metavar="GROUP=NUMBER",
    help="How far a group (au=0.01) or a unit (degrees=0.5) may be apart. Repeatable.",
)
@click.option("--judge", type=click.Choice(_JUDGES), default=_JUDGES[0], show_default=True, help="What is held to it.")
@click.option("--worst", type=click.IntRange(min=0), default=8, show_default=True, help="Worst frames in the report.")
@click.option("--report", type=FOLDER, metavar="DIR", help="Write the worst frames as pictures.")
@click.option("--json", "json_path", type=FILE, metavar="FILE", help="Write all numbers as JSON.")
@click.option("--output-size", type=click.IntRange(min=64), help="As for `fexport run`.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of each side. Default: all cores.")
@click.option(
    "--backend", type=BACKEND, default=AUTO, show_default=True, help=f"What runs the networks of bundle A: {RUNS_ON}."
)
@click.option(
    "--backend-b", type=BACKEND, default=AUTO, show_default=True, help=f"What runs the networks of bundle B: {RUNS_ON}."
)
def command(
    paths: tuple[str, ...],
    against: str | None,
    pyfeat_python: Path | None,
    weights: Path | None,
    columns: str | None,
    budgets: tuple[str, ...],
    judge: str,
    worst: int,
    report: Path | None,
    json_path: Path | None,
    output_size: int | None,
    threads: int | None,
    backend: str,
    backend_b: str,
) -> None:
    """Hold A's rows of INPUTs to B's, face by face, in each column group's own unit.

    A is a bundle, INPUT an image, a folder of them or a video. B is a bundle, or a CSV of rows (py-feat's `to_csv`, or `fexport run --out`), whose own inputs are read where no
    INPUT is given; or py-feat itself (--against pyfeat). Exit status 1 if a budget is exceeded or the faces differ.
    """
    from fexport.cli import tables
    from fexport.cli.running import counts
    from fexport.comparison import measuring, sides
    from fexport.comparison import report as reporting
    from fexruntime import Detector
    from fexruntime.files import check_folder, check_ours
    from fexruntime.options import options_of
    from fexruntime.sources.inputs import Frames

    allowed = _budgets(budgets)
    if against and pyfeat_python is None:
        raise InputError(
            "--against pyfeat needs --pyfeat-python: the Python of an environment that has py-feat installed"
        )
    if against and output_size is not None:
        raise InputError("--against pyfeat compares images as they are: leave out --output-size")
    if report is not None:
        check_folder(report)
    if json_path is not None:
        check_folder(json_path.parent)
        check_ours(json_path, reporting.JSON_MARK)
    options: OptionFields = {
        "output_size": output_size,
        "columns": None if columns is None else [*(c.strip() for c in columns.split(",")), "facebox"],
    }
    warnings.simplefilter("ignore", StandInWarning)  # said below, in colour
    first, other, inputs = paths[0], None if against else _second(paths), list(paths[1 if against else 2 :])
    with contextlib.ExitStack() as stack:
        a = stack.enter_context(Detector(first, backend=backend, threads=threads))
        _say_stand_ins(a)
        b: Side
        if against:
            files = sides.pictures(_needed(inputs))
            assert pyfeat_python is not None
            made = sides.pyfeat_side(a.bundle, pyfeat_python, weights, threads or 1, files)
            b, inputs = stack.enter_context(made), [str(f) for f in files]
        elif other is not None and other.lower().endswith(".csv"):
            b = sides.TableSide(Path(other))
            inputs = inputs or b.inputs
        else:
            detector = stack.enter_context(Detector(other, backend=backend_b, threads=threads))
            _say_stand_ins(detector)
            if (a.pipeline.name, a.bundle.contract) != (detector.pipeline.name, detector.bundle.contract):
                _other_pipelines(a, detector)
            b, inputs = sides.BundleSide(detector, options), _needed(inputs)
        mine = sides.BundleSide(a, options)
        what, lone = measuring.comparable(mine.columns, b.columns, a.pipeline.groups, allowed)
        found = measuring.Comparison(what, judge, keep=worst if report else 0)
        with tables.console(stderr=True).status("comparing") as status:
            for frame in Frames(inputs, options_of(options)):
                found.add(frame.name, frame.index, mine.rows(frame), b.rows(frame), _pixels(frame))
                status.update(f"{found.frames} frames compared")
        called = (mine.called, b.called)
    _show(found, called, lone if columns is None else [])
    if json_path is not None:
        reporting.write_json(found, called, lone, json_path)
        click.echo(f"All numbers in {json_path}")
    if report is not None:
        written = reporting.write_pictures(found, called, report)
        click.echo(f"{counts(len(written), 'picture')} of the worst frames in {report}")
    if not found.passed:
        raise VerificationError(_verdict(found))


def _other_pipelines(a: Detector, b: Detector) -> None:
    """InputError for bundles whose rows mean different things; a note where the contract alone is another."""
    named = [f"{d.pipeline.name}, contract {d.bundle.contract}" for d in (a, b)]
    if a.pipeline.name != b.pipeline.name:
        raise InputError(
            f"the first bundle is {named[0]}, the second {named[1]}: rows of different pipelines say different things of different "
            "boxes; compare bundles of one pipeline"
        )
    click.secho(
        f"The first bundle is {named[0]}, the second {named[1]}: signs and weights differ.", fg="yellow", err=True
    )


def _pixels(frame: Frame) -> U8:
    """The original's, in which rows are."""
    return frame.rgb_u8 if frame.original_rgb_u8 is None else frame.original_rgb_u8


def _second(paths: Sequence[str]) -> str:
    if len(paths) < 2:
        raise InputError("nothing to compare with: give a second bundle or a CSV after the first, or --against pyfeat")
    return paths[1]


def _needed(inputs: list[str]) -> list[str]:
    if not inputs:
        raise InputError("nothing to compare on: give images or folders of them after the two sides")
    return inputs


def _budgets(given: Sequence[str]) -> dict[str, float]:
    found = {}
    for text in given:
        name, _, number = text.partition("=")
        try:
            found[name.strip()] = float(number)
        except ValueError:
            raise InputError(f"--budget {text!r} is not GROUP=NUMBER, such as au=0.01") from None
        if not found[name.strip()] >= 0:
            raise InputError(f"--budget {text!r} must be 0 or more")
    return found


def _say_stand_ins(detector: Detector) -> None:
    from fexport.cli.tables import stand_in_sentence

    if detector.bundle.stand_ins:
        click.secho(stand_in_sentence(detector.bundle.stand_ins), fg="yellow", err=True)


def _show(found: Comparison, called: tuple[str, str], lone: Sequence[str]) -> None:
    from fexport.cli import tables
    from fexport.cli.running import counts

    column = tables.Column
    table = tables.Sheet(
        column("group", whole=True), column("unit"), column("columns", 4, right=True), column("values", 3, right=True),
        column("max", right=True), column("p99", 2, right=True), column("mean", 1, right=True),
        column("budget", right=True), column("", whole=True),
        title=f"{called[0]} against {called[1]}: {counts(found.frames, 'frame')}, {counts(found.pairs, 'face')}",
    )  # fmt: skip
    for line in found.table():
        numbers = (_number(line[k]) if line["values"] else "–" for k in ("max", "p99", "mean"))
        verdict = "ok" if line["passed"] else tables.BEYOND
        cells = (str(line[k]) for k in ("group", "unit", "columns", "values"))
        table.add(*cells, *numbers, f"{line['budget']:.1e}", verdict if line["values"] else "none compared")
    table.show()
    if found.only_first or found.only_second:
        click.echo(f"Faces of one side alone: {found.only_first} of the first, {found.only_second} of the second.")
    if lone:
        click.echo(
            f"Not compared: {len(lone)} columns that one side alone has ({', '.join(lone[:5])}{'…' * (len(lone) > 5)})"
        )


def _number(value: Any) -> str:
    return f"{value:.2e}" if math.isfinite(value) else "one lacks"


def _verdict(found: Comparison) -> str:
    beyond = []
    for line in found.table():
        if not line["passed"]:
            judged: Any = line["judged"]
            apart = f"{judged:.3g} {line['unit']}" if math.isfinite(judged) else "that one side lacks"
            beyond.append(f"{line['group']} {apart}")
    said = [f"beyond the budget: {', '.join(beyond)}"] if beyond else []
    if found.only_first or found.only_second:
        said.append(f"{found.only_first + found.only_second} faces of one side alone")
    if not found.pairs:
        said.append("no face was compared")
    return "the two sides differ: " + "; ".join(said)

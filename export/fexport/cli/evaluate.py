"""fexport evaluate: a bundle's head pose (or somebody's predictions) against AFLW2000 or BIWI; and which way round it counts."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fexport.cli.extras import need
from fexport.cli.paths import BACKEND, BUNDLE, FILE, FOLDER, RUNS_ON
from fexruntime.backends.base import AUTO
from fexruntime.errors import InputError, StandInWarning
from fexruntime.options import REGIONS

if TYPE_CHECKING:
    from fexport.evaluation.datasets import Dataset
    from fexport.evaluation.predictions import Predictions, Signs
    from fexport.evaluation.report import Evaluation
    from fexport.evaluation.signs import Verdict
    from fexruntime import Detector

_DATASETS, _CROPS = ("aflw2000", "biwi"), ("picture", "6drepnet", "nlml")


@click.command("evaluate")
@click.argument("bundle", type=BUNDLE, required=False)
@click.option(
    "--dataset",
    type=(click.Choice(_DATASETS), FILE),
    metavar="aflw2000|biwi DIR",
    help="Labelled pictures: AFLW2000's folder of X.jpg and X.mat, or the folder of BIWI's npz (or that file).",
)
@click.option("--json", "json_path", type=FILE, metavar="OUT", help="Write all numbers as JSON.")
@click.option(
    "--report",
    type=FOLDER,
    metavar="DIR",
    help="Write the plot of errors over yaw, the worst pictures, and each picture's errors as CSV.",
)
@click.option(
    "--predictions",
    type=FILE,
    metavar="FILE",
    help="Score these instead of running BUNDLE: rotations (.npz, .npy, .json), or rows as `fexport run --out` writes them.",
)
@click.option(
    "--signs",
    type=FILE,
    metavar="IMAGES.csv",
    help="Establish which way round BUNDLE counts, from images of known pose (columns image, pitch, yaw, roll in degrees).",
)
@click.option(
    "--label-order-bug",
    is_flag=True,
    help="BIWI with pitch and yaw labels swapped, as TokenHPE's published test reads them.",
)
@click.option(
    "--crop",
    type=click.Choice(_CROPS),
    help="What is read of AFLW2000's pictures. Default: as the published tests of the pipeline do (6drepnet for region frame).",
)
@click.option(
    "--region",
    type=click.Choice(REGIONS),
    help="frame: the crop is the face; face: look for it. Default: as the published tests of the pipeline do.",
)
@click.option(
    "--bgr", is_flag=True, help="BIWI's npz holds BGR (as NLML_HPE takes it; TokenHPE and 6DRepNet take RGB)."
)
@click.option("--worst", type=click.IntRange(min=0), default=8, show_default=True, help="Worst pictures in the report.")
@click.option("--batch-size", type=click.IntRange(min=1), default=1, show_default=True, help="Pictures run together.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. Default: all cores.")
@click.option("--backend", type=BACKEND, default=AUTO, show_default=True, help=f"What runs the networks: {RUNS_ON}.")
def command(
    bundle: str | None,
    dataset: tuple[str, Path] | None,
    json_path: Path | None,
    report: Path | None,
    predictions: Path | None,
    signs: Path | None,
    label_order_bug: bool,
    crop: str | None,
    region: str | None,
    bgr: bool,
    worst: int,
    batch_size: int,
    threads: int | None,
    backend: str,
) -> None:
    """Score a head pose: MAE and VMAE as TokenHPE and 6DRepNet compute them, NLML_HPE's subset, the geodesic error.

    BUNDLE is any bundle that gives a pose; its Pitch, Roll and Yaw become the data set's by the pipeline's declared signs, or, with
    --signs, by those that the images show. With --predictions nothing is run.
    """
    need("evaluate", "fexport evaluate")

    from fexport.evaluation import datasets
    from fexport.evaluation import predictions as predicting
    from fexport.evaluation import report as reporting
    from fexruntime.files import check_folder, check_ours

    _check(bundle, dataset, predictions, signs)
    if json_path is not None:
        if json_path.is_dir():
            raise InputError(f"--json {str(json_path)!r} is a folder: name a file")
        check_folder(json_path.parent)
        check_ours(json_path, reporting.JSON_MARK)
    if report is not None:
        check_folder(report)
    opened = None if dataset is None else datasets.open_dataset(*dataset, bgr=bgr)
    said: dict[str, Any] = {}
    found = None
    if predictions is not None and opened is not None:
        found = predicting.read(predictions, opened)
    elif bundle is not None:
        warnings.simplefilter("ignore", StandInWarning)  # said below, in colour
        found = _run(bundle, opened, signs, crop, region, batch_size, threads, backend, said)
    if opened is not None and found is not None:
        result = reporting.evaluate(opened, found, label_order_bug)
        said = reporting.as_json(result, worst) | said
        _show(result)
        if report is not None:
            written = reporting.write_folder(result, report, worst)
            click.echo(f"{len(written)} files in {report}: errors.csv, error_over_yaw.png, worst/")
    if json_path is not None:
        reporting.write_json(said, json_path)
        click.echo(f"All numbers in {json_path}")


def _check(bundle: str | None, dataset: tuple[str, Path] | None, predictions: Path | None, signs: Path | None) -> None:
    if dataset is None and signs is None:
        raise InputError("nothing to evaluate on: give --dataset aflw2000|biwi DIR, or --signs IMAGES.csv")
    if bundle is None and (predictions is None or signs is not None):
        raise InputError(
            "there is nothing to run: give a BUNDLE" + (", or --predictions FILE" if signs is None else "")
        )
    if predictions is not None and (signs is not None or dataset is None):
        raise InputError("--predictions are scored on a --dataset, and have no signs to establish: leave out --signs")


def _run(
    bundle: str,
    dataset: Dataset | None,
    signs: Path | None,
    crop: str | None,
    region: str | None,
    batch_size: int,
    threads: int | None,
    backend: str,
    said: dict[str, Any],
) -> Predictions | None:
    from fexport.cli.tables import console, stand_in_sentence
    from fexport.evaluation import predictions as predicting
    from fexport.evaluation import signs as signing
    from fexruntime import Detector

    known = None if signs is None else signing.read(signs)
    with Detector(bundle, backend=backend, threads=threads) as detector:
        if detector.bundle.stand_ins:
            click.secho(stand_in_sentence(detector.bundle.stand_ins), fg="yellow", err=True)
        corrections: Signs = predicting.AGREED
        if known is not None:
            verdicts, readings = signing.establish(detector, known, region or REGIONS[0])
            corrections = signing.corrections(verdicts)
            said["signs"] = {v.column: {"sign": v.sign, "agree": v.agree, "of": v.of} for v in verdicts}
            said["signs_from"] = readings
            _show_signs(detector, verdicts)
        if dataset is None:
            return None
        where = region or detector.pipeline.test_region
        what = crop or ("6drepnet" if where == "frame" else "picture")
        with console(stderr=True).status("reading pictures") as status:
            return predicting.run(
                detector,
                dataset,
                what,
                where,
                corrections,
                batch_size,
                lambda done: status.update(f"{done} of {len(dataset.listed)} pictures"),
            )


def _show(result: Evaluation) -> None:
    from fexport.cli.sheet import Column, Sheet
    from fexport.evaluation import metrics, report

    dataset, found = result.dataset, metrics.scores(result.errors)
    ranks = {"n": 1, "left": 4, "down": 4, "front": 4, "VMAE": 2, "geodesic": 3}
    heads = ("n", "yaw", "pitch", "roll", "MAE", "left", "down", "front", "VMAE", "geodesic")
    table = Sheet(
        Column("", whole=True), *(Column(head, ranks.get(head, 0), right=True) for head in heads),
        title=f"{dataset.name}: {found['n']} of {len(dataset)} samples ({dataset.chosen_by}), degrees",
    )  # fmt: skip

    def row(name: str, values: dict[str, float], names: tuple[str, ...]) -> None:
        table.add(name, str(values.get("n", found["n"])), *(f"{values[n]:.4f}" if n in values else "" for n in names))

    row("TokenHPE, 6DRepNet", found, ("yaw", "pitch", "roll", "mae", "vec1", "vec2", "vec3", "vmae", "geodesic"))
    inside = metrics.nlml(result.labels_rad, result.rotation)
    if inside is not None:
        row("NLML_HPE, its range", inside, ("yaw", "pitch", "roll", "mae", "left", "down", "front", "maev"))
    row("round the circle", metrics.strict(result.errors), ("yaw", "pitch", "roll", "mae"))
    table.show()
    over = ("labelled yaw", "n", "yaw", "pitch", "roll", "geodesic")
    table = Sheet(*(Column(head, right=True) for head in over), title="errors by labelled yaw, degrees")
    for line in report.over_yaw(result):
        numbers = (f"{line[n]:.2f}" for n in ("yaw", "pitch", "roll", "geodesic"))
        table.add(f"{line['from']} … {line['to']}", str(line["n"]), *numbers)
    table.show()
    if result.swapped_labels:
        click.echo(
            "Pitch and yaw labels are swapped, as TokenHPE's published BIWI test reads them: MAE is not the real one."
        )
    if result.missed:
        click.echo(f"{result.missed} samples have no prediction (no face was found): they are in no mean.")
    said = result.predictions.source
    if "signs_to_labels" in said:
        signs = ", ".join(f"{name} {'+' if sign > 0 else '-'}" for name, sign in said["signs_to_labels"].items())
        click.echo(f"Signs to the labels: {signs}; read: {said['read']} of {said['crop']}, region {said['region']}.")


def _show_signs(detector: Detector, verdicts: list[Verdict]) -> None:
    from fexport.cli.sheet import Column, Sheet

    heads = ("column", "counts", "images that agree")
    table = Sheet(*map(Column, heads), title=f"signs of {detector.pipeline.name}, from images of known pose")
    for v in verdicts:
        table.add(v.column, v.words, f"{v.agree} of {v.of}")
    table.show()
    wrong = [v.column for v in verdicts if v.sign == -1 and v.column == v.axis]
    if wrong:
        click.echo(
            f"{', '.join(wrong)}: the declared sign is wrong for these weights; it is turned round in what follows."
        )

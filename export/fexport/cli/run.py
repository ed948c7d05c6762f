"""fexport run: images -> a table on the screen, a file of Fex rows, pictures with what was found."""

from __future__ import annotations

import itertools
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fexport.cli import faces_table
from fexruntime.backends import BACKENDS
from fexruntime.backends.base import AUTO, DEFAULT_BACKEND
from fexruntime.bundle import PACKAGED
from fexruntime.contracts import Pipeline
from fexruntime.errors import FexportError, InputError, OutputError, StandInWarning
from fexruntime.identity import METHODS
from fexruntime.manifest import MANIFEST
from fexruntime.options import LEAST_DETECTOR_SIZE, LEAST_OUTPUT_SIZE, REGIONS, OptionFields, Options
from fexruntime.results import FrameResult

if TYPE_CHECKING:
    from fexruntime import Detector

_DEFAULT = Options()
_log = logging.getLogger("fexport.run")


@click.command("run")
@click.argument("paths", nargs=-1, required=True, metavar="[BUNDLE] INPUT...")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write Fex rows: .csv, .parquet or .jsonl (its folder is made).",
)
@click.option(
    "--overlay", type=click.Path(path_type=Path), metavar="DIR", help="Write each picture with its faces drawn."
)
@click.option(
    "--columns",
    metavar="NAMES",
    help="Only these columns or groups of them (au,pose,FaceRectX…): what nobody asked for is not computed.",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=1, show_default=True, help="Frames run together.")
@click.option(
    "--output-size",
    type=click.IntRange(min=LEAST_OUTPUT_SIZE),
    help="Scale the longer side to this and pad to a square.",
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. Default: all cores.")
@click.option(
    "--face-detection-threshold",
    type=click.FloatRange(0, 1),
    default=_DEFAULT.face_detection_threshold,
    show_default=True,
)
@click.option(
    "--face-identity-threshold",
    type=click.FloatRange(-1, 1),
    default=_DEFAULT.face_identity_threshold,
    show_default=True,
)
@click.option("--identity-method", type=click.Choice(METHODS), default=METHODS[0], show_default=True)
@click.option(
    "--detector-size",
    type=click.IntRange(min=LEAST_DETECTOR_SIZE),
    help="Shrink what the face detector sees: faster, not exact.",
)
@click.option(
    "--region",
    type=click.Choice(REGIONS),
    default=REGIONS[0],
    show_default=True,
    help="frame: take every picture whole as one face, and look for none.",
)
@click.option(
    "--bundle",
    "chosen",
    metavar="NAME|DIR",
    help=f"The bundle, instead of naming it first. Packaged: {'; '.join(f'{name}, {what}' for name, what in PACKAGED.items())}.",
)
@click.option("--max-faces", type=click.IntRange(min=1), help="The best so many faces of a picture. Default: all.")
@click.option(
    "--mediapipe-presence",
    is_flag=True,
    help="FaceMesh with refinement: MediaPipe's own refined answer, which drops many true faces.",
)
@click.option("--exif", is_flag=True, help="Turn pictures as their orientation tag says (py-feat does not).")
@click.option("--skip-bad", is_flag=True, help="Pass over images that cannot be read; exit status 3 if there were any.")
@click.option(
    "--backend",
    default=AUTO,
    show_default=True,
    metavar="NAME|ROLE=NAME,…",
    help=f"What runs the networks ({', '.join(BACKENDS)}), for all or by role (faces=ncnn,identity=ncnn); auto: what `fexport tune` chose here, else {DEFAULT_BACKEND}.",
)
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    metavar="NAME|ROLE=NAME,…",
    help="cpu; vulkan (backend ncnn), gpu or npu (backend openvino), with a number where there are several (vulkan:1); for all or by role.",
)
def command(
    paths: tuple[str, ...],
    out: Path | None,
    overlay: Path | None,
    columns: str | None,
    batch_size: int,
    output_size: int | None,
    threads: int | None,
    face_detection_threshold: float,
    face_identity_threshold: float,
    identity_method: str,
    detector_size: int | None,
    region: str,
    chosen: str | None,
    max_faces: int | None,
    mediapipe_presence: bool,
    exif: bool,
    skip_bad: bool,
    backend: str,
    device: str,
) -> None:
    """Find and read the faces of INPUTs (images or folders of them).

    BUNDLE is a folder made by `fexport build`, or a packaged one: "edge" (the face detector, which runs without one too) or
    "facemesh"; a folder of that name is ./edge. Without --out, a table is shown: a face a line.
    """
    from fexport.cli.tables import loss_sentences, stand_in_sentence
    from fexruntime import Detector, sinks
    from fexruntime.files import check_folder

    bundle, inputs = (chosen, list(paths)) if chosen is not None else _split(paths)
    options: OptionFields = {
        "batch_size": batch_size,
        "output_size": output_size,
        "face_detection_threshold": face_detection_threshold,
        "face_identity_threshold": face_identity_threshold,
        "identity_method": identity_method,
        "exif": exif,
        "detector_size": detector_size,
        "region": region,
        "max_faces": max_faces,
        "mediapipe_presence": mediapipe_presence,
        "columns": None if columns is None else [name.strip() for name in columns.split(",") if name.strip()],
    }
    if out is not None:
        sinks.check_target(out)
    if overlay is not None:
        check_folder(overlay)
        if any(Path(p).is_dir() and Path(p).resolve() == overlay.resolve() for p in inputs):
            raise InputError(
                f"--overlay {str(overlay)!r} is a folder of inputs: give another, or the drawings become inputs"
            )
    warnings.simplefilter("ignore", StandInWarning)  # said below, in colour
    if threads is not None:
        import cv2

        cv2.setNumThreads(threads)
    with Detector(
        bundle,
        backend=_by_role("--backend", backend),
        device=_by_role("--device", device),
        threads=threads,
        shared_pool=True,
    ) as detector:
        for role, said in detector.describe().items():
            _log.info(
                "%s: %s %s on %s, %s, %s threads",
                role,
                said["backend"],
                said["version"],
                said["device"],
                said["precision"],
                said["threads"],
            )
        for sentence in loss_sentences(detector.bundle):
            click.secho(sentence, fg="yellow", err=True)
        made_up = detector.bundle.stand_ins
        if made_up:
            click.secho(stand_in_sentence(made_up), fg="yellow", err=True)
        results, skipped = _read(detector, inputs, options, skip_bad, rows_only=overlay is None)
        fex = detector.to_fex(results, **options)
        row = detector.pipeline
    # the rows first: a drawing that cannot be written must not cost them
    if out is not None:
        sinks.write_table(fex, out)
        faces = sum(len(r) for r in results)
        click.echo(f"{_counts(faces, 'face')} in {_counts(len(results), 'image')}: {_counts(len(fex), 'row')} in {out}")
    else:
        faces_table.show(fex)
    undrawn: list[FexportError] = []
    if overlay is not None:
        undrawn = _write_overlays(results, overlay, made_up, row, exif)
        click.echo(f"{_counts(len(results) - len(undrawn), 'picture')} in {overlay}")
    for error in skipped:
        click.echo(f"Skipped: {error}", err=True)
    if undrawn:
        raise OutputError("; ".join(str(error) for error in undrawn[:3]))
    if skipped:
        sys.exit(3)


def _read(
    detector: Detector, inputs: list[str], options: OptionFields, skip_bad: bool, rows_only: bool
) -> tuple[list[FrameResult], list[FexportError]]:
    """(results, errors of the inputs that were passed over)."""
    from fexport.cli.tables import console

    skipped: list[FexportError] = []
    results = []
    on_bad = skipped.append if skip_bad else None
    stream = detector.stream(inputs, on_bad=on_bad, rows_only=rows_only, **options)
    with console(stderr=True).status("reading faces") as status:
        for count, result in enumerate(stream, start=1):
            status.update(f"{count} images read")
            results.append(result)
    return results, skipped


def _by_role(option: str, text: str) -> str | dict[str, str]:
    """One name for all, or names by role."""
    if "=" not in text:
        return text
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if not all(role.strip() and name.strip() for role, _, name in pairs):
        raise InputError(f"{option} {text!r} is neither a name nor ROLE=NAME,ROLE=NAME")
    return {role.strip(): name.strip() for role, _, name in pairs}


def _counts(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _split(paths: tuple[str, ...]) -> tuple[str | None, list[str]]:
    """(bundle, inputs): the first path is the bundle if it is one. A packaged one's name is that, whatever lies here."""
    first = Path(paths[0])
    if paths[0] in PACKAGED or (first / MANIFEST).is_file():
        if len(paths) == 1:
            also = f" (a folder of that name is ./{paths[0]})" if paths[0] in PACKAGED else ""
            raise InputError(f"nothing to run on: give images or folders after the bundle {paths[0]!r}{also}")
        return paths[0], list(paths[1:])
    for later in paths[1:]:
        if (Path(later) / MANIFEST).is_file():
            raise InputError(f"{later!r} is a bundle: give it first, then the inputs")
    if len(paths) > 1 and not first.exists():
        raise InputError(f"{paths[0]!r} does not exist: neither a bundle nor an image is there")
    if len(paths) > 1 and first.is_dir() and not _has_files(first):
        raise InputError(f"{paths[0]!r} is neither a bundle (it has no {MANIFEST}) nor a folder of images")
    return None, list(paths)


def _has_files(folder: Path) -> bool:
    try:
        return any(p.is_file() for p in folder.iterdir() if p.name[0] != ".")
    except OSError as error:
        raise InputError(f"cannot read the folder {str(folder)!r}: {error.strerror or error}") from None


def _write_overlays(
    results: list[FrameResult], folder: Path, stand_ins: list[str], row: Pipeline, exif: bool
) -> list[FexportError]:
    """Draw each picture; answers the errors of those that could not be read again or written."""
    from fexruntime import overlay
    from fexruntime.sources.images import read_image

    failed: list[FexportError] = []
    targets = _overlay_paths([Path(r.name) for r in results], folder)
    for result, target in zip(results, targets, strict=True):
        try:
            seen = read_image(Path(result.name), exif)
            picture = overlay.draw(seen, result, stand_ins, row.pitch_up, row.labels)
            overlay.write_png(picture, target)
        except FexportError as error:
            failed.append(error)
    return failed


def _overlay_paths(inputs: list[Path], folder: Path) -> Iterator[Path]:
    """A PNG in `folder` for each input, named after it; numbered where a name is taken, and never an input itself."""
    kept = {path.resolve() for path in inputs}
    taken: set[Path] = set()
    for path in inputs:
        names = itertools.chain([path.stem], (f"{path.stem}_{k}" for k in itertools.count(2)))
        candidates = (folder / f"{name}.png" for name in names)
        target = next(c for c in candidates if c not in taken and c.resolve() not in kept)
        taken.add(target)
        yield target

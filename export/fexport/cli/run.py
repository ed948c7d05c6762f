"""fexport run: images -> a table on the screen, a file of Fex rows, pictures with what was found."""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from fexruntime.bundle import EDGE, MANIFEST
from fexruntime.contracts import labels as L
from fexruntime.detector import DEFAULT_THRESHOLD, Detector
from fexruntime.errors import InputError, StandInWarning
from fexruntime.fex import Fex
from fexruntime.identity import DEFAULT_THRESHOLD as SAME_PERSON
from fexruntime.identity import METHODS
from fexruntime.results import FrameResult


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
@click.option("--batch-size", type=click.IntRange(min=1), default=1, show_default=True, help="Frames run together.")
@click.option("--output-size", type=click.IntRange(min=32), help="Scale the longer side to this and pad to a square.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. Default: all cores.")
@click.option("--face-detection-threshold", type=click.FloatRange(0, 1), default=DEFAULT_THRESHOLD, show_default=True)
@click.option("--face-identity-threshold", type=click.FloatRange(-1, 1), default=SAME_PERSON, show_default=True)
@click.option("--identity-method", type=click.Choice(METHODS), default=METHODS[0], show_default=True)
@click.option(
    "--detector-size", type=click.IntRange(min=64), help="Shrink what the face detector sees: faster, not exact."
)
@click.option("--exif", is_flag=True, help="Turn pictures as their orientation tag says (py-feat does not).")
@click.option("--skip-bad", is_flag=True, help="Pass over images that cannot be read; exit status 3 if there were any.")
@click.option("--backend", default="onnxruntime", show_default=True)
@click.option("--device", default="cpu", show_default=True)
def command(
    paths: tuple[str, ...],
    out: Path | None,
    overlay: Path | None,
    batch_size: int,
    output_size: int | None,
    threads: int | None,
    face_detection_threshold: float,
    face_identity_threshold: float,
    identity_method: str,
    detector_size: int | None,
    exif: bool,
    skip_bad: bool,
    backend: str,
    device: str,
) -> None:
    """Find and read the faces of INPUTs (images or folders of them).

    BUNDLE is a folder made by `fexport build`; without one, or with "edge", the packaged face detector runs. Without --out, a
    table is shown: a face a line.
    """
    from fexport.cli.tables import console
    from fexruntime import sinks

    bundle, inputs = _split(paths)
    if out is not None:
        sinks.check_target(out)
    if overlay is not None:
        sinks.check_folder(overlay)
        if any(Path(p).is_dir() and Path(p).resolve() == overlay.resolve() for p in inputs):
            raise InputError(
                f"--overlay {str(overlay)!r} is a folder of inputs: give another, or the drawings become inputs"
            )
    warnings.simplefilter("ignore", StandInWarning)  # said below, in colour
    skipped: list[InputError] = []
    with Detector(bundle, backend, device, threads, shared_pool=True) as detector:
        made_up = detector.bundle.stand_ins
        if made_up:
            click.secho(
                f"STAND-IN WEIGHTS in {', '.join(made_up)}: what they answer means nothing.", fg="yellow", err=True
            )
        stream = detector.stream(
            inputs,
            batch_size,
            output_size,
            face_detection_threshold,
            exif=exif,
            detector_size=detector_size,
            on_bad=skipped.append if skip_bad else None,
        )
        with console(stderr=True).status("reading faces") as status:
            results = list(_counted(stream, status.update))
        fex = detector.to_fex(results, face_identity_threshold, identity_method)
    if overlay is not None:
        _write_overlays(results, overlay, made_up, exif)
    if out is not None:
        sinks.write_table(fex, out)
        faces = sum(len(r) for r in results)
        click.echo(f"{_counts(faces, 'face')} in {_counts(len(results), 'image')}: {_counts(len(fex), 'row')} in {out}")
    else:
        _show(fex)
    if overlay is not None:
        click.echo(f"{_counts(len(results), 'picture')} in {overlay}")
    for error in skipped:
        click.echo(f"Skipped: {error}", err=True)
    if skipped:
        sys.exit(3)


def _counts(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _split(paths: tuple[str, ...]) -> tuple[str, list[str]]:
    """(bundle, inputs): the first path is the bundle if it is one."""
    first = Path(paths[0])
    if (first / MANIFEST).is_file() or (paths[0] == EDGE and not first.exists()):
        if len(paths) == 1:
            raise InputError(f"nothing to run on: give images or folders after the bundle {paths[0]!r}")
        return paths[0], list(paths[1:])
    for later in paths[1:]:
        if (Path(later) / MANIFEST).is_file():
            raise InputError(f"{later!r} is a bundle: give it first, then the inputs")
    if len(paths) > 1 and not first.exists():
        raise InputError(f"{paths[0]!r} does not exist: neither a bundle nor an image is there")
    if len(paths) > 1 and first.is_dir() and not _has_files(first):
        raise InputError(f"{paths[0]!r} is neither a bundle (it has no {MANIFEST}) nor a folder of images")
    return EDGE, list(paths)


def _has_files(folder: Path) -> bool:
    try:
        return any(p.is_file() for p in folder.iterdir() if p.name[0] != ".")
    except OSError as error:
        raise InputError(f"cannot read the folder {str(folder)!r}: {error.strerror or error}") from None


def _counted(stream: Iterator[FrameResult], say: object) -> Iterator[FrameResult]:
    for count, result in enumerate(stream, start=1):
        if callable(say):
            say(f"{count} images read")
        yield result


def _write_overlays(results: list[FrameResult], folder: Path, stand_ins: list[str], exif: bool) -> None:
    from fexruntime import overlay
    from fexruntime.frames import read_image

    targets = _overlay_paths([Path(r.name) for r in results], folder)
    for result, target in zip(results, targets, strict=True):
        picture = overlay.draw(read_image(Path(result.name), exif), result, stand_ins)
        overlay.write_png(picture, target)


def _overlay_paths(inputs: list[Path], folder: Path) -> list[Path]:
    """A PNG in `folder` for each input, named after it; numbered where a name is taken, and never an input itself."""
    kept = {path.resolve() for path in inputs}
    taken: set[Path] = set()
    targets = []
    for path in inputs:
        names = itertools.chain([path.stem], (f"{path.stem}_{k}" for k in itertools.count(2)))
        candidates = (folder / f"{name}.png" for name in names)
        target = next(c for c in candidates if c not in taken and c.resolve() not in kept)
        taken.add(target)
        targets.append(target)
    return targets


def _show(fex: Fex) -> None:
    from rich.table import Table

    from fexport.cli.tables import console

    table = Table()
    whole = L.POSE[0] in fex.columns
    heads = ["image", "face", "crop x, y, w, h" if whole else "box x, y, w, h", "score"]
    heads += ["pitch, roll, yaw °", "strongest AUs", "emotion", "identity"] if whole else []
    for head in heads:
        table.add_column(head)
    face = 0
    for i in range(len(fex)):
        face = face + 1 if i and fex.frame[i] == fex.frame[i - 1] else 0
        name = Path(fex.inputs[i]).name
        if np.isnan(fex["FaceRectX"][i]):
            table.add_row(name, "none")
            continue
        box = ", ".join(f"{v:.0f}" for v in fex.block(L.FACEBOX[:4])[i])
        cells = [name if face == 0 else "", str(face), box, f"{fex['FaceScore'][i]:.3f}"]
        table.add_row(*cells, *(_face_cells(fex, i) if whole else []))
    console().print(table)


def _face_cells(fex: Fex, i: int) -> list[str]:
    pose = ", ".join(f"{v:+.0f}" for v in np.degrees(fex.block(L.POSE[:3])[i]))
    au = fex.block(L.AUS)[i]
    strongest = [] if np.isnan(au).all() else np.argsort(-au)[:3]
    emotions = L.EMOTIONS_V2 if L.EMOTIONS_V2[0] in fex.columns else L.EMOTIONS_V1
    feeling = fex.block(emotions)[i]
    best = int(np.argmax(feeling)) if not np.isnan(feeling).all() else None
    return [
        pose,
        ", ".join(f"{L.AUS[k]} {au[k]:.2f}" for k in strongest),
        "" if best is None else f"{emotions[best]} {feeling[best]:.2f}",
        fex.identities[i] or "",
    ]

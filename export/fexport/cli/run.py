"""fexport run: pictures and videos -> a table on the screen, a file of Fex rows, drawings of what was found."""

from __future__ import annotations

import sys
import warnings
from glob import has_magic
from pathlib import Path
from typing import Any

import click

from fexport.cli.options import pixels_option
from fexport.cli.paths import (
    BACKEND,
    BUNDLE,
    BUNDLE_OR_INPUT,
    DETECTOR_SIZE,
    DEVICE,
    FILE,
    WHOLE,
    by_role,
)
from fexruntime.backends import CHOICES
from fexruntime.backends.base import AUTO, DEFAULT_BACKEND
from fexruntime.bundle import EDGE, EDGE_DETECTOR_SIZE, PACKAGED
from fexruntime.errors import InputError, StandInWarning
from fexruntime.identity import METHODS
from fexruntime.manifest import MANIFEST
from fexruntime.options import LEAST_OUTPUT_SIZE, REGIONS, Options
from fexruntime.sources.limits import MOST_PIXELS, PIXELS_VARIABLE

_DEFAULT = Options()


@click.command("run")
@click.argument("paths", nargs=-1, type=BUNDLE_OR_INPUT, metavar="[BUNDLE] INPUT...")
@click.option(
    "--out",
    type=FILE,
    metavar="FILE",
    help="Write Fex rows: .csv, .parquet or .jsonl (its folder is made); - for CSV on stdout.",
)
@click.option("--recursive", is_flag=True, help="Read folders with the folders in them.")
@click.option("--resume", is_flag=True, help="Go on with a run that did not end (rows in FILE.part).")
@click.option(
    "--overlay",
    type=FILE,
    metavar="DIR|FILE.mp4",
    help="Write each picture or video with its faces drawn, into a folder; or one video as that file.",
)
@click.option(
    "--show",
    is_flag=True,
    help="Show what is found in a window, as it comes; the last frame stays until q, Escape or its closing.",
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
    help="Least score of a face; below 0.5 it changes nothing, as in py-feat.",
)
@click.option(
    "--face-identity-threshold",
    type=click.FloatRange(-1, 1),
    default=_DEFAULT.face_identity_threshold,
    show_default=True,
    help="Least cosine of two embeddings that are one person.",
)
@click.option(
    "--identity-method", type=click.Choice(METHODS), default=METHODS[0], show_default=True, help="How faces are named."
)
@click.option(
    "--detector-size",
    type=DETECTOR_SIZE,
    metavar=f"PIXELS|{WHOLE}",
    help=f'Shrink what the face detector sees to this longer side: faster, and on larger photographs it finds faces better; not exact. Default: {EDGE_DETECTOR_SIZE} for files with the packaged bundle "edge", which degrades above that (it is said); else {WHOLE}.',
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
    type=BUNDLE,
    metavar="NAME|DIR",
    help=f"The bundle, instead of naming it first. Packaged: {'; '.join(f'{name}, {what}' for name, what in PACKAGED.items())}.",
)
@click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    help=f"Refuse frames of more pixels. Default: {PIXELS_VARIABLE}, else {MOST_PIXELS}.",
)
@click.option("--max-faces", type=click.IntRange(min=1), help="The best so many faces of a picture. Default: all.")
@click.option(
    "--mediapipe-presence",
    is_flag=True,
    help="FaceMesh with refinement: MediaPipe's own refined answer, which drops many true faces.",
)
@click.option("--skip-frames", type=click.IntRange(min=1), default=1, show_default=True, help="Read every Nth frame.")
@click.option("--start", metavar="TIME", help="Read a video from here: seconds, or 1:30.")
@click.option("--end", metavar="TIME", help="Read a video up to here.")
@click.option(
    "--rotate/--no-rotate",
    default=_DEFAULT.rotate,
    show_default=True,
    help="Turn videos as their file says, like py-feat's decoder; or read them as they are stored.",
)
@click.option(
    "--detect-every",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Look for faces in every Nth frame, follow them in between: faster, not parity.",
)
@click.option("--track", is_flag=True, help="Number faces from frame to frame (column track).")
@click.option(
    "--use-prev-landmarks",
    is_flag=True,
    help="FaceMesh: read a face where the last frame's mesh lay, look for faces while fewer than --max-faces are known "
    "(MediaPipe's video mode).",
)
@click.option(
    "--bbox-smoothing-alpha",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Smooth boxes over time (py-feat's); 0 for none.",
)
@click.option(
    "--camera", metavar="N|URL", help="Read a webcam or a stream (rtsp://…) instead of INPUTs, until stopped."
)
@click.option("--exif", is_flag=True, help="Turn pictures as their orientation tag says (py-feat does not).")
@click.option(
    "--json", "as_json", is_flag=True, help="Rows as JSON lines on stdout, instead of the table (without --out)."
)
@click.option("--skip-bad", is_flag=True, help="Pass over images that cannot be read; exit status 3 if there were any.")
@click.option(
    "--backend",
    type=BACKEND,
    default=AUTO,
    show_default=True,
    metavar="NAME|ROLE=NAME,…",
    help=f"What runs the networks ({', '.join(CHOICES)}), for all or by role (faces=ncnn,identity=ncnn); auto: what `fexport tune` chose here, else {DEFAULT_BACKEND}.",
)
@click.option(
    "--device",
    type=DEVICE,
    default="cpu",
    show_default=True,
    metavar="NAME|ROLE=NAME,…",
    help="cpu; cuda (backends tensorrt and onnxruntime-cuda), vulkan (backend ncnn), gpu or npu (backend openvino), with a number where there are several (vulkan:1); for all or by role.",
)
@pixels_option
def command(
    paths: tuple[str, ...],
    out: Path | None,
    overlay: Path | None,
    columns: str | None,
    threads: int | None,
    as_json: bool,
    skip_bad: bool,
    recursive: bool,
    resume: bool,
    show: bool,
    camera: str | None,
    chosen: str | None,
    backend: str,
    device: str,
    pixels: str,
    max_pixels: int | None,
    **options: Any,
) -> None:
    """Find and read the faces of INPUTs: images, videos, folders of them, patterns.

    BUNDLE is a folder made by `fexport build`, or a packaged one: "edge" (the face detector, which runs without one too) or
    "facemesh"; a folder of that name is ./edge. Without --out, a table is shown: a face a line.
    """
    from fexport.cli.running import Job
    from fexport.cli.tables import loss_sentences, stand_in_sentence
    from fexport.cli.timings import Timings
    from fexruntime import Detector, sinks
    from fexruntime.options import options_of

    bundle, inputs = _split(paths, camera, chosen, recursive)
    # never where py-feat's numbers are claimed: a program's Detector() sees frames whole, as does a bundle that was built
    shrinks = options["detector_size"] is None and bundle in (None, EDGE) and camera is None
    if shrinks or options["detector_size"] == WHOLE:
        options["detector_size"] = EDGE_DETECTOR_SIZE if shrinks else None
    options["columns"] = None if columns is None else [name.strip() for name in columns.split(",") if name.strip()]
    options_of(options)  # type: ignore[arg-type]  # said before anything is loaded
    piped = ".jsonl" if as_json else ".csv" if str(out) == "-" else None
    if as_json and (out is not None or camera is not None):
        raise InputError("--json writes rows to stdout: leave --out and --camera out, or give --out rows.jsonl")
    if piped is not None:
        if camera is not None or resume:
            raise InputError(
                "--out - writes the rows of files to stdout: give --out rows.csv with --camera and --resume"
            )
        out = None
    elif out is not None:
        sinks.check_target(out)
    elif resume:
        raise InputError("--resume goes on with a file of rows: give --out")
    if camera is not None and (overlay is not None or resume or skip_bad):
        raise InputError("--camera goes with --out and --show: --overlay, --resume and --skip-bad are of files")
    if overlay is not None and resume:
        raise InputError("--overlay draws a whole run: it cannot be gone on with; leave it out, or draw afterwards")
    if overlay is not None and any(Path(p).is_dir() and Path(p).resolve() == overlay.resolve() for p in inputs):
        raise InputError(
            f"--overlay {str(overlay)!r} is a folder of inputs: give another, or the drawings become inputs"
        )
    warnings.simplefilter("ignore", StandInWarning)  # said below, in colour
    if threads is not None:
        import cv2

        cv2.setNumThreads(threads)
    timings = Timings()
    with Detector(
        bundle,
        backend=by_role("--backend", backend),
        device=by_role("--device", device),
        pixels=pixels,
        threads=threads,
        shared_pool=True,
        observe=timings.add,
        max_pixels=max_pixels,
    ) as detector:
        for sentence in loss_sentences(detector.bundle):
            click.secho(sentence, fg="yellow", err=True)
        made_up = detector.bundle.stand_ins
        if made_up:
            click.secho(stand_in_sentence(made_up), fg="yellow", err=True)
        job = Job(detector, inputs, options, out, overlay, skip_bad, resume, show, piped, shrinks, recursive)  # type: ignore[arg-type]
        status = job.live(camera) if camera is not None else job.files()
        timings.say()
    if status:
        sys.exit(status)


def _split(
    paths: tuple[str, ...], camera: str | None, chosen: str | None, recursive: bool = False
) -> tuple[str | None, list[str]]:
    """(bundle, inputs): the first path is the bundle if it is one. A packaged one's name is that, whatever lies here."""
    if camera is not None:
        named = [*([chosen] if chosen is not None else []), *paths]
        if len(named) > 1:
            raise InputError(f"--camera is the input: {named[1]!r} is one too many")
        return (named[0] if named else None), []
    if not paths:
        raise InputError("nothing to run on: give images, videos or folders (fexport run --help)")
    if chosen is not None:
        return chosen, list(paths)
    first = Path(paths[0])
    if paths[0] in PACKAGED or (first / MANIFEST).is_file():
        if len(paths) == 1:
            also = f" (a folder of that name is ./{paths[0]})" if paths[0] in PACKAGED else ""
            raise InputError(f"nothing to run on: give images or folders after the bundle {paths[0]!r}{also}")
        return paths[0], list(paths[1:])
    for later in paths[1:]:
        if (Path(later) / MANIFEST).is_file():
            raise InputError(f"{later!r} is a bundle: give it first, then the inputs")
    if len(paths) > 1 and not first.exists() and "://" not in paths[0] and not has_magic(paths[0]):
        raise InputError(f"{paths[0]!r} does not exist: neither a bundle nor an image is there")
    if len(paths) > 1 and not recursive and first.is_dir() and not _has_files(first):
        raise InputError(f"{paths[0]!r} is neither a bundle (it has no {MANIFEST}) nor a folder of images")
    return None, list(paths)


def _has_files(folder: Path) -> bool:
    try:
        return any(p.is_file() for p in folder.iterdir() if p.name[0] != ".")
    except OSError as error:
        raise InputError(f"cannot read the folder {str(folder)!r}: {error.strerror or error}") from None

"""fexport verify: digests, the recorded answers, and torch again where it and the weights are there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fexport.cli.extras import need
from fexport.cli.paths import BACKEND, BUNDLE, DEVICE, FOLDER, RUNS_ON
from fexruntime.bundle import EDGE, Bundle, open_bundle
from fexruntime.errors import BundleError, CheckpointError, EnvironmentMissingError, InputError, VerificationError

if TYPE_CHECKING:
    from fexport.verify import Report
    from fexruntime.backends.base import Place


@click.command("verify")
@click.argument("bundle", type=BUNDLE, default=EDGE)
@click.option(
    "--weights",
    type=FOLDER,
    metavar="DIR",
    multiple=True,
    help="Weights to compare with, not the hub's. Several folders may be given.",
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. Default: all cores.")
@click.option(
    "--device",
    type=DEVICE,
    default="cpu",
    show_default=True,
    help="Where the recorded answers are to be reproduced: cpu, vulkan, gpu, npu, vulkan:1, …",
)
@click.option(
    "--backend",
    type=BACKEND,
    help=f"What runs the artefacts that it reads, {RUNS_ON}. Default: the first that reads them.",
)
def command(bundle: str, weights: tuple[Path, ...], threads: int | None, device: str, backend: str | None) -> None:
    """Check that BUNDLE is whole and still answers what it answered when it was verified.

    Every file's digest, then every artefact on its recorded input. Where torch is installed and the weights can be had, the
    whole comparison with torch is repeated.
    """
    from fexport.cli import tables
    from fexruntime.backends.base import DEFAULT_BACKEND, Place
    from fexruntime.canonical import check_canonical

    found = open_bundle(bundle)
    for folder in weights:
        if not folder.is_dir():
            raise InputError(f"--weights {str(folder)!r} is not a folder")
    click.echo(f"{found.verify_files()} files are byte for byte those that were verified")
    missing: list[EnvironmentMissingError] = []
    place = Place(backend or DEFAULT_BACKEND, device, threads=threads)
    if backend is not None:
        _check_taken(found, place)
    checks = check_canonical(found, place, missing.append)
    if missing and (backend is not None or not checks):
        raise missing[0]
    table = tables.Sheet(
        tables.Column("network", 3, whole=True, groups=True), tables.Column("output", whole=True), tables.Column("max", right=True),
        tables.Column("limit", right=True), tables.Column("", whole=True), title="answers against the recorded ones",
    )  # fmt: skip
    before = ""
    for check in checks:
        name = f"{check.network} ({check.artefact})"
        verdict = "ok" if check.passed else tables.BEYOND
        cells = (f"{check.output} ({check.unit or check.task})", f"{check.max:.1e}", f"{check.limit:.1e}", verdict)
        table.add(name if name != before else "", *cells)
        before = name
    table.show()
    if not checks or not all(check.passed for check in checks):
        raise VerificationError(
            "the recorded answers are not reproduced here: this ONNX Runtime or CPU computes something else; "
            "rebuild the bundle on this machine, or report it"
        )
    for text in dict.fromkeys(str(error) for error in missing):
        click.echo(f"artefacts not checked here: {text}")
    click.echo("the recorded answers are reproduced")
    for sentence in tables.loss_sentences(found):
        click.echo(f"{sentence}; the limits above are these")
    _against_torch(found, weights, threads)


def _check_taken(bundle: Bundle, place: Place) -> None:
    """BundleError, of the first network, if the backend of `place` takes an artefact of none."""
    from fexruntime.backends import chosen

    errors = []
    for network in bundle.networks.values():
        try:
            chosen(network, place)
            return
        except BundleError as error:
            errors.append(error)
    raise errors[0]


def _against_torch(bundle: Bundle, weights: tuple[Path, ...], threads: int | None) -> None:
    try:
        need("export", "comparing with torch")
    except EnvironmentMissingError as error:
        click.echo(f"not compared with torch: {error}")
        return

    from fexport.cli import tables
    from fexport.reverify import repeat_verification

    reports: list[Report] = []
    for role, network in bundle.networks.items():
        try:
            reports += repeat_verification(network, weights, threads).values()
        except (CheckpointError, EnvironmentMissingError) as error:
            if weights and isinstance(error, CheckpointError):  # they were asked for
                raise
            click.echo(f"{role} not compared with torch: {error}")
    if reports:
        tables.report_table([r.as_json() for r in reports]).show()
    failed = [f"{r.network} ({r.against})" for r in reports if not r.passed]
    if failed:
        raise VerificationError(f"{', '.join(failed)} differs from torch beyond its tolerance")

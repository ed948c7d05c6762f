"""fexport bundle: a bundle as one file, and back."""

from __future__ import annotations

from pathlib import Path

import click

from fexport.cli.paths import BUNDLE, FILE, FOLDER


@click.group("bundle")
def command() -> None:
    """Pack a bundle into one archive, or unpack one safely."""


@command.command("export")
@click.argument("bundle", type=BUNDLE)
@click.argument("archive", type=FILE, metavar="FILE.tar")
def export(bundle: str, archive: Path) -> None:
    """Write BUNDLE as one archive: the same bundle gives the same bytes; every file is checked."""
    from fexport.cli import tables
    from fexruntime.archive import export_bundle
    from fexruntime.bundle import open_bundle
    from fexruntime.files import file_sha256

    written = export_bundle(open_bundle(bundle), archive)
    click.echo(f"{archive}: {tables.size(written)}, sha256 {file_sha256(archive)}")


@command.command("import")
@click.argument("archive", type=FILE, metavar="FILE.tar")
@click.argument("folder", type=FOLDER, metavar="DIR")
def unpack(archive: Path, folder: Path) -> None:
    """Make the bundle DIR of an archive. Nothing is written but the files that its manifest names, with their digests."""
    from fexruntime.archive import import_bundle

    found = import_bundle(archive, folder)
    click.echo(f"{folder}: {found.pipeline.name}, contract {found.contract}, {len(found.manifest.files)} files, whole")

"""fexport view: rows and what they were read from -> one page for a browser."""

from __future__ import annotations

from pathlib import Path

import click

from fexport.cli.paths import FILE
from fexruntime.errors import InputError


@click.command("view")
@click.argument("rows", type=FILE)
@click.argument("media", nargs=-1, type=FILE)
@click.option("--out", type=FILE, required=True, metavar="PAGE.html")
@click.option(
    "--contract", metavar="NAME", help="Whose conventions ROWS follow, where neither they nor ROWS.meta.json say so."
)
@click.option(
    "--link", is_flag=True, help="Leave videos outside the page: it names them by their path from its folder."
)
def command(rows: Path, media: tuple[Path, ...], out: Path, contract: str | None, link: bool) -> None:
    """Write a page that shows the faces of ROWS (.parquet, .csv, .jsonl) over their pictures and videos, and their series.

    The page holds everything and works offline. MEDIA are files that no longer lie where the rows say.
    """
    from fexport.view.page import write_page
    from fexport.view.rows import read_rows
    from fexruntime.files import check_folder

    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--out {str(out)!r} must be a page: give a name that ends in .html")
    for path in media:
        if not path.is_file():
            raise InputError(f"{str(path)!r} is not a file")
    check_folder(out.parent)
    read = read_rows(rows, contract)
    write_page(read, rows, media, out, link)
    for note in read.notes:
        click.echo(f"Note: {note}", err=True)
    faces, inputs = len(read), len(set(read.inputs))
    click.echo(
        f"{faces} face{'s' * (faces != 1)} of {inputs} input{'s' * (inputs != 1)}, {out.stat().st_size / 1e6:.1f} MB in {out}"
    )

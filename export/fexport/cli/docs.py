"""fexport docs: the documentation of the installed version, which comes with it."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import click

from fexruntime.errors import EnvironmentMissingError, InputError

_INSTALLED = "share/doc/fexport/README.md"
"""Where pyproject.toml's shared data put README.md, under the environment's prefix; the other pages lie as in a checkout."""


@click.command("docs")
@click.argument("page", required=False)
@click.option("--path", is_flag=True, help="Print where the page (without PAGE: the folder) lies, and nothing else.")
def command(page: str | None, path: bool) -> None:
    """List the pages of the documentation and where they lie, or show PAGE (README, tutorial, api, …)."""
    root = folder()
    pages = {p.stem: p for p in (root / "README.md", *sorted((root / "docs").glob("*.md")))}
    if page is not None:
        if page not in pages:
            raise InputError(f"there is no page {page!r}: the pages are {', '.join(pages)}")
        _show(pages[page], path)
    elif path:
        click.echo(root)
    else:
        width = max(map(len, pages))
        for name, file in pages.items():
            click.echo(f"{name:{width}}  {_title(file)}")
        click.echo(f"\nThey lie in {root}; `fexport docs tutorial` shows one.")


def folder() -> Path:
    """Where README.md and docs/ lie: the checkout of an editable install, or what the wheel brought.

    Raises EnvironmentMissingError where an installer left the wheel's data out.
    """
    checkout = Path(__file__).parents[3]
    if (checkout / "docs" / "tutorial.md").is_file():
        return checkout
    for file in metadata.files("fexport") or ():
        if file.as_posix().endswith(_INSTALLED) and (found := Path(str(file.locate())).resolve()).is_file():
            return found.parent
    raise EnvironmentMissingError(
        f"the documentation ({_INSTALLED}) is not in this environment: pip install --force-reinstall fexport"
    )


def _show(file: Path, path: bool) -> None:
    from rich.markdown import Markdown

    from fexport.cli import tables

    text = file.read_text(encoding="utf-8")
    screen = tables.console()
    if path:
        click.echo(file)
    elif screen.is_terminal:
        screen.print(Markdown(text))
    else:
        click.echo(text, nl=False)


def _title(file: Path) -> str:
    first = file.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("# ")

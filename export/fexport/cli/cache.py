"""fexport cache: what this device made for itself, and how to be rid of it."""

from __future__ import annotations

import time

import click


@click.command("cache")
@click.option("--clear", is_flag=True, help="Drop everything in it.")
@click.option("--path", "path_only", is_flag=True, help="Print the folder and nothing else.")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def command(clear: bool, path_only: bool, as_json: bool) -> None:
    """List what is kept between runs on this device (optimised graphs), or empty it.

    The folder is $FEXPORT_CACHE, else "fexport" in your cache folder. It is private to you, and bounded: what was not used
    for longest goes first.
    """
    from fexport.cli import tables
    from fexruntime.errors import EnvironmentMissingError, InputError
    from fexruntime.store import MOST_BYTES, VARIABLE, Store, default_folder

    if as_json and (clear or path_only):
        raise InputError("--json lists what there is: leave --clear and --path out")
    folder = default_folder()
    if path_only and not clear:
        click.echo("" if folder is None else str(folder))
        return
    try:
        if folder is None:
            raise OSError("this user has no home")
        store = Store(folder)
    except OSError as error:
        raise EnvironmentMissingError(f"there is no cache: {error}; set {VARIABLE} to a folder of your own") from None
    if clear:
        click.echo(f"{tables.size(store.clear())} dropped from {store.folder}")
        return
    items = store.items()
    if as_json:
        listed = [
            {"key": dict(i.key), "path": str(i.path), "bytes": i.size_bytes, "made": i.made, "used": i.used}
            for i in items
        ]
        tables.print_json({"folder": str(store.folder), "most_bytes": MOST_BYTES, "items": listed})
        return
    table = tables.Sheet(
        tables.Column("what", 1), tables.Column("of"), tables.Column("size", right=True), tables.Column("made", 3, whole=True),
        tables.Column("last used", 2, whole=True),
    )  # fmt: skip
    for item in items:
        made, used = (time.strftime("%Y-%m-%d %H:%M", time.localtime(t)) for t in (item.made, item.used))
        table.add(item.key.get("kind", ""), item.key.get("network", ""), tables.size(item.size_bytes), made, used)
    if items:
        table.show()
    total = sum(item.size_bytes for item in items)
    click.echo(f"{store.folder}: {len(items)} items, {tables.size(total)} of {tables.size(MOST_BYTES)} at most")

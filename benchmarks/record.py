"""Make every record again that README.md and REPORT.md show, into results/.

    python benchmarks/record.py --pyfeat-python PYFEAT_ENV/bin/python

Weights are made up here (`fexport stand-ins`, and for XGB by py-feat's own Python), so nothing else is needed. All of it is pieces of
less than a minute, one after another; it goes on where it was stopped: a piece that was done with these programs is not done again. On a
machine that others use, `--list` names the pieces and `--only NAME` (or NAME/PIECE) does some of them. Ends with `report.py`'s pages.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
from pieces import PREPARED, RECORDS, RESULTS, Piece, Work

ROOT = Path(__file__).parents[1]
PROGRAMS = ("runtime", "export", "calibration")


@click.command()
@click.option(
    "--pyfeat-python",
    type=click.Path(path_type=Path, exists=True),
    required=True,
    help="Of an environment with py-feat.",
)
@click.option(
    "--work", type=click.Path(path_type=Path), default=ROOT / "benchmarks" / "work", help="Weights, bundles and pieces."
)
@click.option("--only", multiple=True, metavar="NAME[/PIECE]", help="These records or pieces alone.")
@click.option("--list", "listing", is_flag=True, help="List the pieces, and whether each is done.")
@click.option("--again", is_flag=True, help="Do pieces again that are done.")
@click.option("--no-report", is_flag=True, help="Leave the pages as they are.")
def main(pyfeat_python: Path, work: Path, only: tuple[str, ...], listing: bool, again: bool, no_report: bool) -> None:
    """Do the pieces that are not done, and write the records that are whole."""
    unknown = [name for name in only if not any(name in (r, f"{r}/{p}") for r in RECORDS for p in RECORDS[r].pieces)]
    if unknown:
        raise click.UsageError(f"there is no {unknown[0]!r}: see --list")
    at = Work(work.absolute(), pyfeat_python.absolute())
    os.environ["FEXPORT_CACHE"] = str(at.folder / "cache")  # with it go the choices of `fexport tune`
    here = programs()
    finished: set[tuple[str, str]] = set()
    for name, record in RECORDS.items():
        for part, piece in record.pieces.items():
            done = _is_done(at, name, part, here)
            if listing:
                kind = "" if piece.timed else " (nothing is timed in it)"
                click.echo(f"{'done' if done else '    '}  {name}/{part}{kind}")
            elif (not only or name in only or f"{name}/{part}" in only) and (again or not done):
                _do(at, name, part, piece, here)
                finished.add((name, part))
        if not listing and all((name, part) in finished or _is_done(at, name, part, here) for part in record.pieces):
            _join(at, name)
    if not (listing or only or no_report):
        subprocess.run([sys.executable, str(ROOT / "benchmarks" / "report.py")], check=True)


def programs() -> str | None:
    """What tells these programs from others: git's digests of their folders; None where they are changed, or there is no git."""
    git = ("git", "-C", str(ROOT))
    try:
        if subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *PROGRAMS], check=False).returncode:
            return None
        words = [*git, "rev-parse", *(f"HEAD:{name}" for name in PROGRAMS)]
        return " ".join(subprocess.run(words, capture_output=True, encoding="utf-8", check=True).stdout.split())
    except (OSError, subprocess.CalledProcessError):
        return None


def _place(at: Work, name: str, part: str) -> Path:
    return at.folder / "pieces" / name / f"{part}.json"


def _read(at: Work, name: str, part: str) -> dict[str, Any] | None:
    path = _place(at, name, part)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _is_done(at: Work, name: str, part: str, here: str | None) -> bool:
    found = _read(at, name, part)
    return found is not None and (name in PREPARED or (here is not None and found["programs"] == here))


def _do(at: Work, name: str, part: str, piece: Piece, here: str | None) -> None:
    click.echo(f"{name}/{part} …", nl=False)
    began = time.perf_counter()
    kept = {"programs": here, "result": piece.run(at)}
    click.echo(f" {time.perf_counter() - began:.0f} s")
    place = _place(at, name, part)
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_suffix(".partial")
    partial.write_text(json.dumps(kept), encoding="utf-8")
    partial.replace(place)


def _join(at: Work, name: str) -> None:
    parts = {part: (_read(at, name, part) or {})["result"] for part in RECORDS[name].pieces}
    RESULTS.mkdir(exist_ok=True)
    for file, value in RECORDS[name].join(parts).items():
        (RESULTS / file).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

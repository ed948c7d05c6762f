"""Each network of a bundle on each backend that it was verified on, in turns; keeps the choice (as `fexport tune`) and the samples."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from fexport.bench import measure
from fexruntime import Place, open_bundle
from fexruntime.tuning import Workload, tune

RESULTS = Path(__file__).parent / "results"


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--name", required=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--faces", default=1, show_default=True)
@click.option("--rounds", default=15, show_default=True)
def main(bundle: Path, name: str, threads: int, faces: int, rounds: int) -> None:
    """Measure, write results/backends_NAME.json, print medians."""
    work = Workload(faces=faces)
    found = tune(open_bundle(bundle), Place(threads=threads), work, rounds)
    result = {
        "machine": measure.machine(),
        "threads": threads,
        "workload": dataclasses.asdict(work),
        "measured": [dataclasses.asdict(m) for m in found],
    }
    (RESULTS / f"backends_{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for m in found:
        print(f"{m.network} on {m.backend}: {m.p50_ms:.1f} ms{' (chosen)' if m.chosen else ''}")


if __name__ == "__main__":
    main()

"""Reads a folder of pictures on every worker of a Ray cluster: rows to Parquet, one file a block, and only what is not there yet.

python examples/ray_data.py PHOTOS ROWS --bundle facemesh --workers 2
"""

from __future__ import annotations

import argparse
import hashlib
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray tells its makers about each cluster, unless this is set

import ray

from fexruntime import Detector

PICTURES = (".jpg", ".jpeg", ".png")


class Reader:
    """One actor: the bundle is loaded once, then blocks of paths come one after another."""

    def __init__(self, bundle: str, out: str, threads: int) -> None:
        self._detector, self._out = Detector(bundle, threads=threads), Path(out)

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        """Rows of a block into a file of their own, there whole or not at all; answers how many, and where."""
        paths = [str(p) for p in block["path"]]
        target = self._out / f"{name_of(paths)}.parquet"
        # picture by picture: the numbers of one are then the same whatever block it is in
        results = list(self._detector.stream(paths, on_bad=lambda error: print(error), rows_only=True))
        fex = self._detector.to_fex(results)
        fex.to_parquet(target)
        return {"file": [target.name], "rows": [len(fex)]}


def name_of(paths: list[str]) -> str:
    """The name of a block's file: by its pictures, so that the same block is known again."""
    return hashlib.sha256("\n".join(paths).encode()).hexdigest()[:16]


def paths_in(photos: Path) -> list[str]:
    """The pictures of a folder, by name."""
    return sorted(str(p) for p in photos.iterdir() if p.suffix.lower() in PICTURES)


def read(photos: Path, out: Path, bundle: str, workers: int, threads: int = 1, block: int = 16) -> int:
    """Read what has no file yet; answers how many blocks were read. Run it again after any end, and it goes on."""
    out.mkdir(parents=True, exist_ok=True)
    paths = paths_in(photos)
    blocks = [paths[at : at + block] for at in range(0, len(paths), block)]
    todo = [b for b in blocks if not (out / f"{name_of(b)}.parquet").exists()]
    if not todo:
        return 0
    tables = [pa.table({"path": b}) for b in todo]
    found = ray.data.from_arrow(tables).map_batches(
        Reader, batch_size=None, concurrency=workers, num_cpus=threads, fn_constructor_args=(bundle, str(out), threads)
    )
    return len(found.take_all())


def table(photos: Path, out: Path, block: int = 16) -> pa.Table:
    """Every row, in the order of the pictures' names."""
    paths = paths_in(photos)
    names = [name_of(paths[at : at + block]) for at in range(0, len(paths), block)]
    return pa.concat_tables([pq.read_table(out / f"{name}.parquet") for name in names])


def main() -> None:
    """The command."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("photos", type=Path)
    words.add_argument("out", type=Path)
    words.add_argument("--bundle", default="edge")
    words.add_argument("--workers", type=int, default=2)
    words.add_argument("--threads", type=int, default=1)
    chosen = words.parse_args()
    photos, out = chosen.photos.absolute(), chosen.out.absolute()
    print(
        read(photos, out, chosen.bundle, chosen.workers, chosen.threads),
        "blocks read,",
        len(table(photos, out)),
        "rows",
    )


if __name__ == "__main__":
    main()

"""Optimised graphs kept between runs: loading one takes half the time and memory of optimising again.

A graph is laid out for one ONNX Runtime version and one CPU, so it is keyed by both and by the model's digest. Beside it
lies a note with its own digest: a graph that is not what its note says is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from fexruntime.digest import file_sha256

_log = logging.getLogger("fexport.graph_cache")


class OptimisedGraph:
    """Where the optimised graph of one model lies in the cache, for this ONNX Runtime and CPU."""

    def __init__(self, cache: Path, model_sha256: str, version: str) -> None:
        key = hashlib.sha256(f"{model_sha256} {version} {cpu_features()}".encode()).hexdigest()[:32]
        self.path = cache / f"{key}.onnx"
        self.note = cache / f"{key}.json"

    def is_whole(self) -> bool:
        """Whether the graph is there and is what its note says."""
        try:
            expected = json.loads(self.note.read_text(encoding="utf-8"))["sha256"]
            return bool(file_sha256(self.path) == expected)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    @contextlib.contextmanager
    def being_written(self) -> Iterator[Path | None]:
        """A path for ONNX Runtime to write to; the file is kept when the block ends well.

        None where the cache cannot be written, which is no error: the next load optimises again.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=".writing-", dir=self.path.parent))
        except OSError as error:
            _log.info("no cache of optimised graphs in %s: %s", self.path.parent, error)
            yield None
            return
        graph, note = folder / "graph.onnx", folder / "note.json"
        try:
            yield graph
            note.write_text(json.dumps({"sha256": file_sha256(graph)}), encoding="utf-8")
            graph.replace(self.path)
            note.replace(self.note)
        except OSError as error:
            _log.info("cannot keep the optimised graph: %s", error)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def default_cache() -> Path:
    """Folder of optimised graphs: $FEXPORT_CACHE, else the user's cache folder."""
    if "FEXPORT_CACHE" in os.environ:
        return Path(os.environ["FEXPORT_CACHE"])
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a container whose user has no home
        home = Path(tempfile.gettempdir())
    return home / "fexport" / "onnxruntime"


@lru_cache(maxsize=1)
def cpu_features() -> str:
    """A text that differs between CPUs for which ONNX Runtime lays out graphs differently."""
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    lines = [line for line in info.splitlines() if line.lower().startswith(("flags", "features"))]
    return f"{platform.machine()} {' '.join(sorted(set(lines[0].split()))) if lines else platform.processor()}"

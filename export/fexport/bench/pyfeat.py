"""The other side of a comparison: py-feat in its own environment, asked for one frame at a time."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fexport.bench.measure import Sample
from fexport.bench.workload import Boxes
from fexruntime.errors import EnvironmentMissingError

WORKER = Path(__file__).with_name("pyfeat_worker.py")


class PyFeat:
    """A py-feat process. `python` is the interpreter of an environment that has py-feat installed.

    Raises EnvironmentMissingError if it cannot start or load, with its last line of output.
    """

    def __init__(
        self,
        python: Path,
        pipeline: str,
        identity: str | None,
        weights: Path | None,
        threads: int,
        boxes: Boxes | None,
        frame: NDArray[np.uint8],
        models: Mapping[str, str | None] | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "frame.npy"
        np.save(path, frame)
        config = {
            "pipeline": pipeline,
            "identity": identity,
            "models": dict(models or {}),
            "weights": str(weights.resolve()) if weights else None,
            "threads": threads,
            "boxes": boxes,
            "frame": str(path),
        }
        self._log = (Path(self._folder.name) / "log").open("w+")
        try:
            self._process = subprocess.Popen(
                [str(python), str(WORKER), json.dumps(config)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                cwd=self._folder.name,
            )
        except OSError as error:
            self._log.close()
            self._folder.cleanup()
            raise EnvironmentMissingError(f"cannot start {str(python)!r} for --against pyfeat: {error}") from None
        try:
            self.ready = self._answer()
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> PyFeat:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        """Let the process end (by itself, when its input does) and drop what was made for it."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._process.wait()
        self._log.close()
        self._folder.cleanup()

    def frame(self, warmup: int = 0) -> Sample:
        """One whole `detect`."""
        return self._sample({"do": "frame", "warmup": warmup})

    def network(self, name: str, warmup: int = 0) -> Sample:
        """One run of a network on random input."""
        return self._sample({"do": "network", "name": name, "warmup": warmup})

    def table(self, images: Sequence[Path], out: Path) -> None:
        """Rows of image files, one `detect` for all, as py-feat's own `to_csv` writes them to `out`."""
        self._ask({"do": "table", "inputs": [str(p.resolve()) for p in images], "out": str(out)})

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # a worker that died says why in its log, below
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _sample(self, request: dict[str, Any]) -> Sample:
        said = self._ask(request)
        self.rss_mb = said["rss_mb"]
        return Sample(said["wall_ms"], said["cpu_ms"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._log.seek(0)
            said = [text for text in self._log.read().splitlines() if text.strip()]
            raise EnvironmentMissingError(f"py-feat stopped: {said[-1] if said else 'it said nothing'}")
        answer: dict[str, Any] = json.loads(line)
        return answer

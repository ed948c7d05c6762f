"""The other side of a comparison: py-feat in its own environment, asked for one frame at a time."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fexport.bench.measure import Sample
from fexport.bench.workload import Boxes, write_picture
from fexruntime.bundle import Bundle
from fexruntime.errors import EnvironmentMissingError, InputError

WORKER = Path(__file__).with_name("pyfeat_worker.py")
_LONGEST_S = 120
DETECTORS = {
    "detectorv2": ("retinaface-r34",),
    "detectorv1": ("retinaface-r34", "img2pose"),
}
"""By pipeline: the face detectors that py-feat has."""


def refuse_other_work(bundle: Bundle, python: Path) -> None:
    """Raise InputError if py-feat of this environment would run other networks or conventions than the bundle does.

    Raises EnvironmentMissingError if there is no py-feat in it. Takes no longer than Python's start: before anything is measured.
    """
    if not bundle.pipeline.stages or bundle.pipeline.name not in DETECTORS:
        raise InputError(
            f"--against pyfeat needs a bundle of {' or '.join(DETECTORS)}: py-feat has no detector of {bundle.pipeline.title} alone"
        )
    finder = bundle.networks["faces"].row.name
    known = DETECTORS[bundle.pipeline.name]
    if finder not in known:
        raise InputError(
            f"{str(bundle.path)!r} finds faces with {finder}, py-feat's {bundle.pipeline.title} with {' or '.join(known)}: two "
            f"networks are no comparison; build one with --face-detector {known[0]}"
        )
    found = _version(python)
    if bundle.contract != f"pyfeat-{'.'.join(found.split('.')[:2])}":
        raise InputError(
            f"{str(bundle.path)!r} follows {bundle.contract}, and {str(python)!r} has py-feat {found}, whose networks and signs are "
            "others: build the bundle under that contract (--contract), or give an environment with that py-feat"
        )


def _interpreter(python: Path) -> str:
    """Where a Python lies that was given as a path, also a relative one (the worker runs in another folder), or as a name on PATH.

    Links stay: a virtual environment's Python is a link, and finds its environment by where the link lies.
    """
    return str(Path(shutil.which(str(python)) or python).absolute())


def _version(python: Path) -> str:
    program = "from importlib.metadata import version; print(version('py-feat'))"
    try:
        done = subprocess.run(
            [_interpreter(python), "-c", program],
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=_LONGEST_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentMissingError(f"cannot start {str(python)!r} for --against pyfeat: {error}") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise EnvironmentMissingError(f"there is no py-feat in the environment of {str(python)!r}: {said[-1]}")
    return done.stdout.strip()


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
        output_size: int | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "frame.npy"
        np.save(path, frame)
        if output_size is not None:
            write_picture(frame, path.with_suffix(".png"))
        config = {
            "pipeline": pipeline,
            "identity": identity,
            "models": dict(models or {}),
            "weights": str(weights.resolve()) if weights else None,
            "threads": threads,
            "boxes": boxes if boxes is None or output_size is None else _fitted(boxes, frame, output_size),
            "frame": str(path),
            "picture": str(path.with_suffix(".png")),
            "output_size": output_size,
        }
        self._log = (Path(self._folder.name) / "log").open("w+", encoding="utf-8")
        try:
            self._process = subprocess.Popen(
                [_interpreter(python), str(WORKER), json.dumps(config)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                encoding="utf-8",
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

    def video(self, path: Path, skip_frames: int = 1, out: Path | None = None) -> dict[str, Any]:
        """One `detect` of a video: how many rows and frames, and seconds; its rows go to `out`."""
        said = {"input": str(path.resolve()), "skip_frames": skip_frames, "out": out and str(out.resolve())}
        return self._ask({"do": "video"} | said)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # a worker that died says why in its log, below
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _sample(self, request: dict[str, Any]) -> Sample:
        said = self._ask(request)
        self.memory = {name: said[name] for name in ("rss_mb", "peak_mb")}
        self.faces: int | None = said["faces"]
        return Sample(said["wall_ms"], said["cpu_ms"], said["foreign_share"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._log.seek(0)
            said = [text for text in self._log.read().splitlines() if text.strip()]
            cure = (
                "; give its weights with --weights DIR"
                if any("LocalEntryNotFoundError" in text for text in said)
                else ""
            )
            raise EnvironmentMissingError(f"py-feat stopped: {said[-1] if said else 'it said nothing'}{cure}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _fitted(boxes: Boxes, frame: NDArray[np.uint8], output_size: int) -> Boxes:
    """Boxes where the frame lies in the padded square that py-feat's `output_size` makes of it."""
    height, width = frame.shape[:2]
    scale = output_size / max(height, width)
    left, top = ((output_size - side * scale) / 2 for side in (width, height))
    return [[x * scale + pad for x, pad in zip(box, (left, top, left, top), strict=True)] for box in boxes]

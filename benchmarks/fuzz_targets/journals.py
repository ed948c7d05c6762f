"""The journal of an unfinished run."""

from __future__ import annotations

import json
import random
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fexruntime import Detector, record
from fexruntime.errors import InputError, OutputError
from fexruntime.sinks.appending import journal_text
from fexruntime.sources import images
from fuzz_targets.target import READ, Broken, Target, mutate_json, refusal, working_folder

PHOTO = Path(__file__).parent.parent.parent / "export" / "fexport" / "photographs" / "astronaut.jpg"


@dataclass(frozen=True, slots=True)
class _Unfinished:
    """A run that was stopped before its last picture: its inputs, what it left, and what it would have written."""

    detector: Detector
    inputs: list[str]
    options: dict[str, Any]
    journal: bytes
    part: bytes
    whole: bytes


@cache
def _unfinished() -> _Unfinished:
    folder = working_folder()
    photo = images.read_image(PHOTO)[20:220, 130:330]
    inputs = []
    for k in range(4):
        inputs.append(str(folder / f"{k}.png"))
        cv2.imwrite(
            inputs[-1],
            np.ascontiguousarray(cv2.resize(photo[k:, k:], (64, 64), interpolation=cv2.INTER_AREA)[:, :, ::-1]),
        )
    detector = Detector(threads=1)
    options = {"detect_every": 3, "bbox_smoothing_alpha": 0.5}
    record(detector, inputs, folder / "whole.csv", commit_every_s=0, **options)
    stop, seen = threading.Event(), []

    def on_batch(batch: Sequence[Any]) -> None:
        seen.extend(batch)
        if len(seen) == 3:
            stop.set()

    record(detector, inputs, folder / "out.csv", commit_every_s=0, stop=stop, on_batch=on_batch, **options)
    left = [(folder / f"out.csv.{name}").read_bytes() for name in ("journal", "part")]
    return _Unfinished(detector, inputs, options, *left, (folder / "whole.csv").read_bytes())


def _journals() -> list[bytes]:
    journal = _unfinished().journal
    return [b"\0" + journal, b"\1" + journal, b"\0" + b"".join(journal.splitlines(True)[:2])]


def check_journal(data: bytes) -> str:
    """A run is gone on with from this journal, or refused. The first byte odd: its lines get right checksums, as somebody might forge
    them, and any table may come of it. Else the table must be the one of a run that was never stopped.
    """
    was, folder = _unfinished(), working_folder() / "resumed"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    forged, journal = bool(data and data[0] & 1), data[1:]
    if forged:
        journal = _sealed(journal)
    (folder / "out.csv.journal").write_bytes(journal)
    (folder / "out.csv.part").write_bytes(was.part)
    try:
        record(was.detector, was.inputs, folder / "out.csv", resume=True, commit_every_s=0, **was.options)
    except (InputError, OutputError) as error:
        return refusal(error)
    if not forged and (folder / "out.csv").read_bytes() != was.whole:
        raise Broken("a damaged journal gave another table")
    return READ


def _sealed(journal: bytes) -> bytes:
    """Lines with the checksums that they should have."""
    lines = []
    for line in journal.split(b"\n"):
        text = line.partition(b" ")[2]
        lines.append(journal_text(text) if text else line)
    return b"".join(lines)


def _mutate_journal(data: bytes, rng: random.Random) -> bytes:
    first, lines = data[:1], data[1:].splitlines()
    if not lines:
        return data
    at = rng.randrange(len(lines))
    try:
        value = json.loads(lines[at].partition(b" ")[2])
    except (ValueError, RecursionError):
        return data
    lines[at] = b"0" * 8 + b" " + json.dumps(mutate_json(value, rng)).encode()  # a forged line is sealed by the check
    return (first if rng.random() < 0.7 else bytes([rng.randrange(2)])) + b"\n".join(lines) + b"\n"


TARGET = Target(
    _journals,
    check_journal,
    _mutate_journal,
    ("sinks/appending.py", "recording.py", "walk.py", "naming.py"),
    1 << 15,
)

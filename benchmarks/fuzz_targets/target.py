"""What the checks of all readers share: what a target is, a refusal, a folder of the process, mutations of JSON and of bytes."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fexruntime.errors import FexportError

READ, REFUSED = "read", "refused"
MOST_WORDS = 1000
"""Characters of a message: one sentence, whatever stands in the file."""


class Broken(AssertionError):
    """An answer that does not hold together."""


@dataclass(frozen=True, slots=True)
class Target:
    """One reader: inputs to begin with, the check of one, a mutation that knows its format, the files whose lines are counted."""

    seeds: Callable[[], list[bytes]]
    check: Callable[[bytes], str]
    mutate: Callable[[bytes, random.Random], bytes]
    files: tuple[str, ...]
    most_bytes: int


def refusal(error: FexportError) -> str:
    """`REFUSED`; Broken unless the message is one sentence."""
    said = str(error)
    if not said or "\n" in said or len(said) > MOST_WORDS:
        raise Broken(f"a message of {len(said)} characters: {said[:300]!r}")
    return REFUSED


@cache
def working_folder() -> Path:
    """A folder of this process, which ends with it."""
    made = tempfile.TemporaryDirectory(prefix="fuzz-")
    _kept.append(made)
    return Path(made.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []


_ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**400, 1e308, 1.5, "", "x", "../x", "/etc/passwd", "a\0b", "\n", "\ud800", "x" * 3000,
    [], {}, [[]], [0], {"": 0}, "onnx", "any", "int8", "<f4", "|O", "AAAA", "===",
)  # fmt: skip


def mutate_json(value: Any, rng: random.Random) -> Any:
    """A value of JSON with one thing in it changed, taken out, doubled, or swapped with another."""
    places = list(_places(value))
    if not places:
        return rng.choice(_ODD)
    at, key = rng.choice(places)
    what = rng.randrange(6)
    if what == 0:
        at[key] = rng.choice(_ODD)
    elif what == 1:
        del at[key]
    elif what == 2:
        other, name = rng.choice(places)
        with_it = json.dumps(other[name]) if name in range(len(other)) or name in other else "null"
        at[key] = json.loads(with_it)
    elif what == 3 and isinstance(at, list):
        at.insert(key, json.loads(json.dumps(at[key])))
    elif what == 3:
        at[rng.choice(("x", "", str(key) + "_", "0", "99"))] = at[key]
    elif isinstance(at[key], (int, float)) and not isinstance(at[key], bool):
        at[key] = at[key] + rng.choice((-1, 1, 256, -(2**31), 0.5))
    elif isinstance(at[key], str):
        where = rng.randrange(len(at[key]) + 1)
        at[key] = (
            at[key][:where]
            + rng.choice(("", "\0", "/", "..", "é", "\ud800", "9" * 40))
            + at[key][where + rng.randrange(2) :]
        )
    else:
        at[key] = rng.choice(_ODD)
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def mutate_json_text(data: bytes, rng: random.Random) -> bytes:
    """`mutate_json` of a text; what is none stays as it is."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data
    return json.dumps(mutate_json(value, rng)).encode()


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes with a few numbers in them overwritten."""
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        if changed:
            at = rng.randrange(len(changed))
            changed[at : at + 4] = rng.choice(
                (bytes(4), b"\xff" * 4, b"\x7f" + b"\xff" * 3, b"\0\0\0\1", rng.randbytes(rng.randrange(5)))
            )
    return bytes(changed)

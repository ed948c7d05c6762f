"""Protobuf's text format, as far as a model's configuration needs it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


class Word(str):
    """An enumeration's value: written without quotes."""

    __slots__ = ()


def text(message: Mapping[str, Any], indent: str = "") -> str:
    """A message's fields, one a line: mappings are messages, lists of mappings are repeated ones, other lists are scalars."""
    lines = []
    for name, value in message.items():
        for one in value if isinstance(value, list) and value and isinstance(value[0], Mapping) else [value]:
            if isinstance(one, Mapping):
                lines.append(f"{indent}{name} {{\n{text(one, indent + '  ')}{indent}}}\n")
            else:
                lines.append(f"{indent}{name}: {_scalar(one)}\n")
    return "".join(lines)


def _scalar(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    if isinstance(value, Word) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(str(value))  # its escapes are the format's too

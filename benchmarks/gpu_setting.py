"""What the parts of `gpu.py run` are given, and what they find of each other's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


class Skipped(Exception):
    """A part that has nothing to work with here, and why."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a part is given. `tell` writes down what it has so far."""

    work: str
    tree: str | None
    bundles: list[str]
    rounds: int
    size_hw: list[int]
    weights: str | None
    tell: Callable[..., None]

    @property
    def folder(self) -> Path:
        """Where parts leave things for later ones."""
        return Path(self.work)


def listed(setting: Setting) -> list[dict[str, str]]:
    """The bundles."""
    path = setting.folder / "bundles.list"
    if not path.is_file():
        raise Skipped("there are no bundles")
    found: list[dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def references(setting: Setting) -> dict[str, Mapping[str, Any]]:
    """By bundle: the frame, and its rows by ONNX Runtime on the CPU."""
    found: dict[str, Mapping[str, Any]] = {}
    for path in sorted(setting.folder.glob("reference*.npz")):
        with np.load(path) as file:
            found[str(file["path"])] = dict(file)
    if not found:
        raise Skipped("there are no reference rows")
    return found


def need_tensorrt() -> Any:
    """TensorRT; Skipped where it is not."""
    from fexruntime.engines import import_tensorrt
    from fexruntime.errors import EnvironmentMissingError

    try:
        return import_tensorrt()
    except EnvironmentMissingError as error:
        raise Skipped(str(error)) from None

"""Paths and names on the command line: read as a person means them, completed by the shell.

One kind of type for every argument that is a path: `~` is the home wherever it stands, nothing and a variable that no shell has
replaced are refused (`fexruntime.files.user_path`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from fexruntime.backends import CHOICES
from fexruntime.backends.base import AUTO
from fexruntime.bundle import PACKAGED
from fexruntime.errors import EnvironmentMissingError, InputError
from fexruntime.files import check_local, user_path
from fexruntime.options import LEAST_DETECTOR_SIZE

if TYPE_CHECKING:
    _Type = click.ParamType[Any]
else:  # older clicks' is not generic
    _Type = click.ParamType


class _Given(_Type):
    """A path, as `Path` or as text; `names` may be given instead of one."""

    name = "path"

    def __init__(self, folders: bool = False, names: Sequence[str] = (), text: bool = False) -> None:
        self._folders, self._names, self._text = folders, tuple(names), text

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        given = os.fspath(value)
        if given in self._names:
            return given
        if not self._text:
            check_local(given)
            return Path(user_path(given))
        # an address is no path; what is wrong with it is said where it is read
        return given if "://" in given else user_path(given)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        names = [CompletionItem(name) for name in self._names if name.startswith(incomplete)]
        if not names:
            return [CompletionItem(incomplete, type="dir" if self._folders else "file")]
        # a shell completes either files by itself or what it is told: beside names they have to be told
        return names + [CompletionItem(path) for path in _beginning(incomplete, self._folders)]


def _beginning(incomplete: str, folders: bool) -> list[str]:
    head, tail = os.path.split(incomplete)
    try:
        entries = sorted(os.scandir(os.path.expanduser(head) or "."), key=lambda e: e.name)
    except OSError:
        return []
    there = [e for e in entries if e.name.startswith(tail) and (tail.startswith(".") or e.name[0] != ".")]
    return [os.path.join(head, e.name) + ("/" if e.is_dir() else "") for e in there if e.is_dir() or not folders]


class _Python(_Given):
    """A Python to be run from another folder: absolute, links left as they are (an environment's Python is one)."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path: Path = super().convert(value, param, ctx)
        found = shutil.which(path)
        if found is None:
            what = (
                "is a folder: name the Python in its bin"
                if path.is_dir()
                else "is not there"
                if not path.exists()
                else "cannot be run"
            )
            raise EnvironmentMissingError(f"the Python {str(path)!r} {what}")
        return Path(os.path.abspath(found))


class _Names(_Type):
    """A name of a few, or names by role (faces=ncnn,identity=openvino): what it may be is for others to check."""

    name = "name"

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value:
            raise InputError(f"{param.opts[0] if param else 'a name'} is empty: use {', '.join(self._names)}")
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        cut = max(incomplete.rfind(","), incomplete.rfind("=")) + 1
        head, tail = incomplete[:cut], incomplete[cut:]
        return [CompletionItem(head + name) for name in self._names if name.startswith(tail)]


class _Size(_Type):
    """A number of pixels, or the word for all of them."""

    name = "size"

    def __init__(self, least: int) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == WHOLE:
            return value
        try:
            size = int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number of pixels nor {WHOLE!r}", param, ctx)
        if size < self._least:
            self.fail(f"{value} is too small: {self._least} or more", param, ctx)
        return size

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(WHOLE)] if WHOLE.startswith(incomplete) else []


WHOLE = "whole"
"""The size of frames that are not shrunk."""
DETECTOR_SIZE = _Size(LEAST_DETECTOR_SIZE)
FILE, FOLDER = _Given(), _Given(folders=True)
INPUT = _Given(text=True)
BUNDLE = _Given(folders=True, names=tuple(PACKAGED), text=True)
BUNDLE_OR_INPUT = _Given(names=tuple(PACKAGED), text=True)
AGAINST = _Given(folders=True, names=("pyfeat", *PACKAGED), text=True)
PYTHON = _Python()
BACKEND = _Names((AUTO, *CHOICES))
DEVICE = _Names(("cpu", "vulkan", "gpu", "npu", "cuda"))
RUNS_ON = f"one of {', '.join(CHOICES)}; auto: what `fexport tune` chose here"
"""The values of --backend, for help."""


def by_role(option: str, text: str) -> str | dict[str, str]:
    """One name for all, or names by role."""
    if "=" not in text:
        return text
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if not all(role.strip() and name.strip() for role, _, name in pairs):
        raise InputError(f"{option} {text!r} is neither a name nor ROLE=NAME,ROLE=NAME")
    return {role.strip(): name.strip() for role, _, name in pairs}

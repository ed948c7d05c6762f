"""Options that several commands have: how a whole bundle is run, and how large a picture that others send may be; and their names in errors."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from fexport.cli.paths import DEVICE
from fexruntime.backends.base import CPU, PIXELS
from fexruntime.sources.limits import MOST_PIXELS

_NAMED = re.compile(r"(?<![\w./'\"=-])(?P<name>[a-z]+(?:_[a-z]+)*)(?:=(?P<value>'[^']*'|\w+))?(?![\w/'\"=(])")
"""A name of Python's in a sentence, with or without a value; not a part of a path, a quotation or a call."""
_Command = TypeVar("_Command", bound=Callable[..., Any])


def device_option(command: _Command) -> _Command:
    """--device, of commands that run a whole bundle."""
    words = "Where networks run: cpu, cuda, vulkan, gpu, npu."
    return click.option("--device", type=DEVICE, default=CPU, show_default=True, help=words)(command)


def threads_option(command: _Command) -> _Command:
    """--threads, where they are a network's alone (`run` has the process's)."""
    words = "CPU threads of each network. Default: all cores."
    return click.option("--threads", type=click.IntRange(min=1), help=words)(command)


def megapixels_option(words: str) -> Callable[[_Command], _Command]:
    """--max-megapixels, of what serves pictures that others send; `words` are its help."""
    kind = click.FloatRange(min=0.01)
    return click.option("--max-megapixels", type=kind, default=MOST_PIXELS / 1e6, show_default=True, help=words)


def pixels_option(command: _Command) -> _Command:
    """--pixels, of commands that run a whole bundle."""
    words = "Where pixels are worked on: cuda leaves them on the face detector's GPU (--device cuda)."
    return click.option("--pixels", type=click.Choice(PIXELS), default=CPU, show_default=True, help=words)(command)


def as_options(text: str, params: Sequence[click.Parameter]) -> str:
    """A sentence of the Python package as its reader here would say it: `device='cuda'` is `--device cuda`, `detector_size` `--detector-size`."""
    names = {p.name: p for p in params if isinstance(p, click.Option) and p.name}
    usual = {
        name: click.Option([f"--{name}"]) for name in ("backend", "device", "pixels")
    }  # a command's that has none of its own

    def option(found: re.Match[str]) -> str:
        given = names.get(found["name"]) or usual.get(found["name"])
        # a word that is no name with an underscore is a word, unless it has a value
        if given is None or (found["value"] is None and "_" not in found["name"]):
            return found[0]
        said = max(given.opts, key=len)
        if found["value"] is None or given.is_flag:
            return given.secondary_opts[0] if found["value"] == "False" and given.secondary_opts else said
        return f"{said} {found['value'].strip(chr(39))}"

    return _NAMED.sub(option, text)

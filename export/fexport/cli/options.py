"""Options that several commands have: how a whole bundle is run, and how large a picture that others send may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from fexport.cli.paths import DEVICE
from fexruntime.backends.base import CPU, PIXELS
from fexruntime.sources.limits import MOST_PIXELS

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

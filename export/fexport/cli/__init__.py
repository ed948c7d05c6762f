"""The `fexport` command. One file a subcommand, imported when it is called, so that `fexport run` never loads torch."""

from __future__ import annotations

import io
import logging
import os
import sys
from importlib import import_module

import click

from fexruntime.errors import FexportError

COMMANDS = {
    "build": "Build a verified bundle from weights (needs torch).",
    "fetch": "Fetch a pipeline's weights into a folder.",
    "stand-ins": "Write made-up weights that py-feat loads too.",
    "run": "Find and read faces in images, videos, cameras.",
    "view": "Write a page to look at rows over their pictures and videos.",
    "verify": "Check that a bundle is whole and still right.",
    "inspect": "Show what is in a bundle, where from, and how it was verified.",
    "calibrate": "Measure ranges for int8 on your pictures, or what lowering each part of a network costs.",
    "bundle": "Pack a bundle into one archive, or unpack one safely.",
    "serve": "Serve a bundle over HTTP: images in, JSON or Arrow out.",
    "triton": "Write a bundle as a model repository for NVIDIA's Triton Inference Server.",
    "lint": "Say what TensorRT would refuse, or get wrong, in an ONNX graph.",
    "tune": "Measure which backend runs each network of a bundle fastest here.",
    "engines": "Build TensorRT engines of a bundle for this GPU.",
    "cache": "Show or empty what is kept between runs on this device.",
    "bench": "Measure how fast a bundle is here, against py-feat if asked for.",
    "compare": "Hold a bundle's rows to another's, to a saved table's, or to py-feat's.",
    "evaluate": "Score a head pose on AFLW2000 or BIWI, or establish its signs.",
    "models": "List the networks with their licences and sizes.",
    "docs": "List the pages of the documentation, which comes along, or show one.",
    "doctor": "Show what this environment can do, and what mends the rest.",
}

EXAMPLES = {
    "build": ("fexport build bundle --weights DIR", "fexport build v1 --pipeline detectorv1 --au svm"),
    "fetch": ("fexport fetch --to weights", "fexport fetch --pipeline detectorv1 --au svm --to weights"),
    "stand-ins": ("fexport stand-ins weights",),
    "run": (
        "fexport run photo.jpg --out faces.csv --overlay drawn",
        "fexport run bundle photos/ --columns au,pose --out au.parquet",
        "fexport run bundle photo.jpg --json",
    ),
    "view": ("fexport view faces.csv --out page.html",),
    "verify": ("fexport verify bundle --weights DIR",),
    "inspect": ("fexport inspect bundle --json", "fexport inspect bundle --sbom"),
    "calibrate": ("fexport calibrate ranges.json photos/ --bundle bundle",),
    "bundle": ("fexport bundle export bundle bundle.tar", "fexport bundle import bundle.tar elsewhere"),
    "serve": ("fexport serve bundle --port 8000 --threads 2",),
    "triton": ("fexport triton bundle models --threads 2", "fexport triton bundle models --steps onnxruntime"),
    "tune": ("fexport tune bundle",),
    "cache": ("fexport cache", "fexport cache --clear"),
    "bench": ("fexport bench bundle --faces 1 --size 640x480",),
    "compare": (
        "fexport compare bundle other photos/ --report worst",
        "fexport compare bundle pyfeat.csv --budget au=0.01",
    ),
    "evaluate": ("fexport evaluate bundle --dataset aflw2000 AFLW2000",),
    "models": ("fexport models --json",),
    "lint": ("fexport lint model.onnx --tensorrt 10.3",),
    "engines": ("fexport engines bundle --if-needed", "fexport engines bundle --profile 720x1280"),
    "docs": ("fexport docs", "fexport docs tutorial"),
    "doctor": ("fexport doctor",),
}
"""By command: what its help ends with."""


PIPE_CLOSED = 141
"""Exit status where the output's reader went away, as of any program."""
_VERBOSE = "Say what runs, where and how long; the traceback of an error. Twice: every detail."
_LOGGERS = ("fexruntime", "fexport", "fexcalibration")
"""The packages, whose names their loggers begin with."""


def _talk(ctx: click.Context, param: click.Parameter, count: int) -> None:
    """What `-v` does, before or after the command's name."""
    if count:
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.INFO if count == 1 else logging.DEBUG)


def _with_verbose(command: click.Command) -> None:
    """Give a command (and those of a group) `-v`, too."""
    if not any(p.name == "verbose" for p in command.params):
        option = click.Option(["-v", "--verbose"], count=True, expose_value=False, callback=_talk, help=_VERBOSE)
        command.params.append(option)
    for inner in getattr(command, "commands", {}).values():
        _with_verbose(inner)


def _verbose() -> bool:
    return logging.getLogger("fexport").isEnabledFor(logging.INFO)


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f"fexport.cli.{name.replace('-', '_')}").command
        lines = EXAMPLES.get(name, ())
        _with_verbose(command)
        command.epilog = "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines))) if lines else command.epilog
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except FexportError as error:
            from fexport.cli.options import as_options

            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            error.args = (as_options(str(error), command.params if command else ()),)
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):  # from the table above: help must not import torch
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fexport", prog_name="fexport")
@click.option("-v", "--verbose", count=True, expose_value=False, callback=_talk, help=_VERBOSE)
def group() -> None:
    """py-feat's networks as verified artefacts: the same numbers, faster, without torch.

    Shell completion: eval "$(_FEXPORT_COMPLETE=bash_source fexport)" in ~/.bashrc (zsh_source, fish_source likewise).
    """


def _having(option: str) -> list[str]:
    """Commands that have an option."""
    commands = {name: import_module(f"fexport.cli.{name.replace('-', '_')}").command for name in COMMANDS}
    return [name for name, command in commands.items() if any(option in p.opts for p in command.params)]


def _colourless() -> bool:
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def _any_character() -> None:
    """What a terminal's or a pipe's encoding has no sign for is shown as a backslash escape; it must not end the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main() -> None:
    """Entry point: errors of the FexportError tree become one line and exit status 1."""
    # huggingface_hub reports each of its retries, twice
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    # OpenCV says on stderr what fexport says in one sentence; this has to be set before it is imported
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    _any_character()
    try:
        # None lets click decide by the stream
        group(standalone_mode=False, color=False if _colourless() else None)
    except FexportError as error:
        if _verbose():
            raise
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:  # whoever read the output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE_CLOSED)
    except MemoryError:
        if _verbose():
            raise
        click.echo("Error: there is not enough memory for this", err=True)
        sys.exit(1)
    except OSError as error:  # what no command foresaw: a full disk, a folder that cannot be read
        if _verbose():
            raise
        where = f" {error.filename!r}" if error.filename else ""
        click.echo(f"Error: the system refused{where}: {error.strerror or error}", err=True)
        sys.exit(1)
    except click.ClickException as error:
        if isinstance(error, click.NoSuchOption) and (having := _having(error.option_name)):
            named = ", ".join(f"`fexport {name}`" for name in having)
            error = click.NoSuchOption(error.option_name, f"{error.message} It is an option of {named}.", ctx=error.ctx)
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        sys.exit(130)

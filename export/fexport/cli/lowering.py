"""Options of precision and calibration, for commands that build."""

from __future__ import annotations

from collections.abc import Callable

import click

from fexcalibration import METHODS
from fexport.cli.paths import FILE
from fexruntime.contracts.precision import FULL, PRECISIONS
from fexruntime.errors import InputError

_PRECISION_HELP = {
    "fp16": "Half the bytes: networks in float16, what would lose by it in fp32.",
    "bf16": "Half the bytes, in bfloat16: faster in OpenVINO on CPUs that have it.",
    "int8": "A quarter of the bytes, fastest on CPUs with VNNI; needs --calibration or --ranges.",
}
REDUCED = tuple(_PRECISION_HELP)


def precision_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add --fp16, --bf16, --int8, --precision and what belongs to them."""
    for option in reversed(
        (
            *(click.option(f"--{name}", is_flag=True, help=text) for name, text in _PRECISION_HELP.items()),
            click.option(
                "--precision",
                metavar="P|ROLE=P,…",
                help=f"One of {', '.join(PRECISIONS)} for all, or by role: faces=int8,multitask=bf16.",
            ),
            click.option(
                "--calibration",
                type=FILE,
                multiple=True,
                metavar="FOLDER|VIDEO|IMAGE",
                help="Pictures of faces like those that will be read, for int8 and for fp16's range. May be given several times.",
            ),
            click.option(
                "--ranges",
                type=FILE,
                metavar="FILE",
                help="What `fexport calibrate` measured, instead.",
            ),
            click.option(
                "--range-method",
                "method",
                type=click.Choice(METHODS),
                default=METHODS[0],
                show_default=True,
                help="How a calibrated range is cut.",
            ),
            click.option(
                "--allow-loss",
                is_flag=True,
                help="Publish what is beyond its precision's budget, with the loss written in the bundle.",
            ),
        )
    ):
        command = option(command)
    return command


def precisions_of(precision: str | None, flags: list[str]) -> str | dict[str, str]:
    """What is asked for: one of all, or one by role."""
    if len(flags) + (precision is not None) > 1:
        raise InputError("give one of --fp16, --bf16, --int8 and --precision: --precision ROLE=P,… mixes them")
    if flags:
        return flags[0]
    if precision is None or "=" not in precision:
        return precision or FULL
    pairs = [pair.partition("=") for pair in precision.split(",") if pair.strip()]
    found = {role.strip(): name.strip() for role, _, name in pairs}
    if len(found) < len(pairs):
        raise InputError(f"--precision {precision!r} names a role twice")
    return found

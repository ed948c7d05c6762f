"""fexport serve: a bundle behind HTTP."""

from __future__ import annotations

import errno
import json
import logging
import socket
import sys
import warnings
from typing import Any

import click

from fexport.cli.extras import need
from fexport.cli.options import device_option, megapixels_option, pixels_option, threads_option
from fexport.cli.paths import BACKEND, BUNDLE, RUNS_ON, by_role
from fexruntime.backends.base import AUTO
from fexruntime.errors import EnvironmentMissingError, InputError, StandInWarning
from fexruntime.sources.limits import bound_decoders

ENDS_S = 25
"""Seconds on SIGTERM for the requests under way; who has not read its answer by then is cut off (containers are killed after 30)."""


@click.command("serve")
@click.argument("bundle", type=BUNDLE, required=False)
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0: every interface. There is no login.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Requests that run at a time."
)
@click.option(
    "--queue", type=click.IntRange(min=1), default=16, show_default=True, help="Requests that wait or run; more: 429."
)
@click.option(
    "--max-megabytes", type=click.FloatRange(min=0.001), default=20.0, show_default=True, help="Of a body; more: 413."
)
@megapixels_option("Of a picture; more: 400.")
@threads_option
@click.option("--backend", type=BACKEND, default=AUTO, show_default=True, help=f"What runs the networks: {RUNS_ON}.")
@device_option
@pixels_option
def command(
    bundle: str | None,
    host: str,
    port: int,
    workers: int,
    queue: int,
    max_megabytes: float,
    max_megapixels: float,
    threads: int | None,
    backend: str,
    device: str,
    pixels: str,
) -> None:
    """Serve BUNDLE (default: the packaged face detector): images in, JSON or Arrow out. One process, nothing kept.

    POST an image's bytes to /v1/faces (?columns=au,pose; Accept: application/vnd.apache.arrow.stream for Arrow) or to /v1/overlay
    (PNG); / is a page to drop pictures on; /healthz, /readyz, /metrics. Logs are JSON lines. Ends on SIGTERM, after the requests under way.
    """
    need("serve", "fexport serve")
    if "cv2" in sys.modules:
        raise EnvironmentMissingError(
            "OpenCV was imported before its limit on pixels could be set: run `fexport serve` by itself"
        )
    bound = sockets(host, port)
    most = round(max_megapixels * 1e6)
    bound_decoders(most)

    import uvicorn

    from fexport.cli.tables import stand_in_sentence
    from fexport.serving.app import Counters, Limits, make_app
    from fexruntime import Detector

    warnings.simplefilter("ignore", StandInWarning)  # said below, in colour, and in every answer
    logging.getLogger("fexruntime.images").setLevel(
        logging.ERROR
    )  # a turned picture is its sender's: the answer says it
    counters, limits = Counters(), Limits(round(max_megabytes * 1e6), queue, workers)
    detector = Detector(
        bundle,
        backend=by_role("--backend", backend),
        device=by_role("--device", device),
        pixels=pixels,
        threads=threads,
        workspaces=workers,
        observe=counters.observe,
        max_pixels=most,
    )
    if detector.bundle.stand_ins:
        click.secho(stand_in_sentence(detector.bundle.stand_ins), fg="yellow", err=True)
    log = _logs()
    addresses = [f"http://{f'[{ip}]' if ':' in ip else ip}:{port}" for ip, port in (a.getsockname()[:2] for a in bound)]
    log.info(json.dumps({"addresses": addresses, "bundle": str(detector.bundle.path)}))
    app = make_app(detector, limits, counters)
    config = uvicorn.Config(
        app, log_config=None, log_level="warning", access_log=False, timeout_graceful_shutdown=ENDS_S
    )
    uvicorn.Server(config).run(bound)


class _Line(logging.Formatter):
    """What a library says, as the JSON line that whoever reads the log expects."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps({"level": record.levelname, "logger": record.name, "message": super().format(record)})


def _logs() -> logging.Logger:
    """The service's own logger, whose messages are JSON already; every other's become so."""
    others = logging.StreamHandler()
    others.setFormatter(_Line())
    logging.basicConfig(level=logging.WARNING, handlers=[others], force=True)
    log = logging.getLogger("fexport.serve")
    log.setLevel(logging.INFO)
    log.propagate = False
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    return log


def sockets(host: str, port: int) -> list[socket.socket]:
    """One bound to each address of the host; who connects is refused until the service listens. InputError where they cannot be had."""
    made: list[socket.socket] = []
    missing: _NotHere | None = None
    try:
        for family, kind, _, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            try:
                made.append(_bound(family, kind, address))
            except _NotHere as error:
                missing = error
        if missing is not None and not made:
            raise missing
    except (OSError, UnicodeError) as error:  # a name that cannot be one of a host is a UnicodeError
        for each in made:
            each.close()
        raise InputError(
            f"--host {host} --port {port} cannot be had ({getattr(error, 'strerror', None) or error}): give an address of this machine and a free port"
        ) from None
    return made


class _NotHere(OSError):
    """An address that this system has not, or one of a family that it has not: the host's others may do."""


def _bound(family: int, kind: int, address: tuple[Any, ...]) -> socket.socket:
    """A socket of that address alone; _NotHere, or the OSError of one that is here and cannot be had."""
    try:
        made = socket.socket(family, kind)
    except OSError as error:
        raise _NotHere(*error.args) from None
    try:
        if sys.platform != "win32":  # there it would let two processes have one port
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
    except OSError as error:
        made.close()
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        raise _NotHere(*error.args) from None
    return made

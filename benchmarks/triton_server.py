"""Starts the tritonserver of the nvidia-pytriton wheel on a model repository, on this machine's CPU (`make triton` installs it)."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENVIRONMENT = Path(os.environ.get("FEXPORT_TRITON", ROOT / ".venv" / "triton"))
"""Has the wheel, and what a model needs: its stub's bindings are of before NumPy 2, so it is an environment of its own."""


@dataclass(frozen=True)
class Server:
    """One that is up: its addresses and its process."""

    http: str
    grpc: str
    process: subprocess.Popen[bytes]
    log: Path
    ends: Path
    """Exit statuses of the models' processes (stubs), a line each as they end: the server says nothing of them."""


def installed() -> str:
    """What is missing, in a sentence; empty where nothing is."""
    found = list(ENVIRONMENT.glob("lib/python*/site-packages/pytriton/tritonserver/bin/tritonserver"))
    if not found:
        return f"no tritonserver in {ENVIRONMENT}: make triton"
    if not (_library() / str(sysconfig.get_config_var("LDLIBRARY"))).exists():
        return "this Python has no shared library, which the Python backend's stub needs"
    return ""


@contextlib.contextmanager
def serving(repository: Path, work: Path, seconds: float = 60, exit_s: int = 30) -> Iterator[Server]:
    """The server for the block, ready; RuntimeError with its log if it does not come up. `work` takes its log and backends.

    It ends on SIGTERM, `exit_s` later at the latest: so long it waits for connections that clients leave open (status 1 then, else 0).
    """
    (packages,) = ENVIRONMENT.glob("lib/python*/site-packages")
    home = packages / "pytriton" / "tritonserver"
    backend = work / "backends" / "python"
    backend.mkdir(parents=True, exist_ok=True)
    stub, ends = _stub(home, packages), work / "stubs.txt"
    ends.write_bytes(b"")
    for path in (*(home / "backends" / "python").glob("*.*"), stub):
        (backend / path.name).unlink(missing_ok=True)
        (backend / path.name).symlink_to(path)  # they find their libraries beside where they lie
    (backend / stub.name).unlink()
    # once for each model it is called without arguments, to see whether it is there
    (backend / stub.name).write_text(
        f'#!/bin/sh\n{shlex.quote(str(stub))} "$@"\nended=$?\n'
        f"[ $# = 0 ] || echo $ended >> {shlex.quote(str(ends))}\nexit $ended\n",
        encoding="utf-8",
    )
    (backend / stub.name).chmod(0o755)
    ports = [_free_port(), _free_port()]
    libraries = f"{_library()}{os.pathsep}{packages / 'nvidia_pytriton.libs'}"
    environment = os.environ | {"PATH": f"{ENVIRONMENT / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    log = work / "tritonserver.log"
    command = [
        home / "bin" / "tritonserver", "--model-repository", repository, "--backend-directory", backend.parent,
        "--http-address", "127.0.0.1", "--http-port", str(ports[0]),
        "--grpc-address", "127.0.0.1", "--grpc-port", str(ports[1]), "--allow-metrics", "false",
        "--exit-timeout-secs", str(exit_s),
    ]  # fmt: skip
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment | {"LD_LIBRARY_PATH": libraries})
        try:
            end = time.monotonic() + seconds
            while not _ready(ports[0]):
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(
                        f"tritonserver did not come up:\n{log.read_text(errors='replace', encoding='utf-8')[-4000:]}"
                    )
                time.sleep(0.1)
            yield Server(f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}", process, log, ends)
        finally:
            process.terminate()
            try:
                process.wait(exit_s + 30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            shutil.rmtree(backend.parent, ignore_errors=True)


def _stub(home: Path, packages: Path) -> Path:
    return home / "python_backend_stubs" / packages.parent.name.removeprefix("python") / "triton_python_backend_stub"


def _library() -> Path:
    return Path(str(sysconfig.get_config_var("LIBDIR")))


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _ready(port: int) -> bool:
    import httpx

    try:
        return httpx.get(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False

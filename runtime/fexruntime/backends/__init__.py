"""Backends by name: what runs a network. Each imports its library when it is made, not before."""

from __future__ import annotations

from pathlib import Path

from fexruntime.backends.base import Backend
from fexruntime.bundle import BundleNetwork
from fexruntime.errors import EnvironmentMissingError, InputError

BACKENDS = ("onnxruntime", "numpy")


def make_backend(
    name: str,
    network: BundleNetwork,
    device: str = "cpu",
    threads: int | None = None,
    cache: Path | None = None,
    shared_pool: bool = False,
) -> Backend:
    """A backend called `name` for a network of a bundle, on `device`, with `threads` CPU threads (None: all cores).

    "onnxruntime" runs every network; "numpy" only Pose-MLP. Raises InputError for another name and
    EnvironmentMissingError for a device that the backend has not: it never runs elsewhere instead.
    """
    if name not in BACKENDS:
        raise InputError(f"no backend {name!r}: use {', '.join(BACKENDS)}")
    if device != "cpu":
        raise EnvironmentMissingError(
            f"device {device!r} is not available with the backend {name!r}: this version runs on device 'cpu'"
        )
    if name == "numpy":
        from fexruntime.backends.numpy import NumpyBackend

        return NumpyBackend(network)
    from fexruntime.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(network, threads, cache, shared_pool)

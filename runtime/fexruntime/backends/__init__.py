"""Backends by name: what runs a network. Each imports its library when it is made, not before."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from fexruntime.backends.base import AUTO, Backend, Place
from fexruntime.bundle import BundleNetwork
from fexruntime.contracts.ncnn import SMALL_TILES_BACKEND
from fexruntime.errors import BundleError, EnvironmentMissingError, InputError
from fexruntime.manifest import ANY, Variant

BACKENDS = {
    "onnxruntime": ("fexruntime.backends.onnxruntime", "OnnxRuntime"),
    "ncnn": ("fexruntime.backends.ncnn", "Ncnn"),
    SMALL_TILES_BACKEND: ("fexruntime.backends.ncnn", "NcnnSmallTiles"),
    "openvino": ("fexruntime.backends.openvino", "OpenVino"),
    "onnxruntime-cuda": ("fexruntime.backends.onnxruntime_cuda", "OnnxRuntimeCuda"),
    "tensorrt": ("fexruntime.backends.tensorrt", "TensorRT"),
    "triton": ("fexruntime.backends.triton", "Triton"),
    "arrays": ("fexruntime.backends.arrays", "Arrays"),
}
"""Module and class of each. A class says which kinds of artefact it `reads` and on which `devices` it runs."""
CHOICES = tuple(name for name in BACKENDS if name not in ("triton", "arrays"))
"""Those that a user can ask for: Triton fills in its own, and what is arrays alone is run by "arrays" whatever was asked."""


def open_backend(network: BundleNetwork, place: Place) -> Backend:
    """A network of a bundle, loaded as `place` says.

    A network that is in the bundle as arrays alone is run by "arrays", its only form, whatever else was asked of all of them.
    Raises InputError for a name that is not there, EnvironmentMissingError for a device that the backend has not,
    BundleError if the bundle has no such artefact: never another is run instead.
    """
    kind, variant = chosen(network, place)
    return kind(network, variant, place)  # type: ignore[no-any-return]


def chosen(network: BundleNetwork, place: Place) -> tuple[Any, Variant]:
    """The class that `place` means for a network and the artefact that it would load, without loading it or its library."""
    alone = {v.kind for v in network.record.variants} == {"arrays"}
    name = "arrays" if alone else place.backend_of(network.role)
    kind = _backend(name)
    if not (alone and isinstance(place.device, str)):  # a device of all is not this one's; one by its role is meant
        _check_device(kind, name, network, place)
    variant = network.variant(place.precision_of(network.role), kind.reads, getattr(kind, "target", ANY))
    if getattr(kind, "off", ()) and name not in variant.verified_on:
        raise BundleError(
            f"{network.row.name} ({network.role}) was not held to torch on {name!r}, but on {', '.join(variant.verified_on)}: "
            "give one of these for it"
        )
    return kind, variant


def open_variant(network: BundleNetwork, variant: Variant, place: Place) -> Backend:
    """One artefact of a network, loaded by the backend that `place` names if that reads its kind, else by one that does."""
    for name in (place.backend_of(network.role), *BACKENDS):
        kind = _backend(name)
        if variant.kind in kind.reads:
            _check_device(kind, name, network, place)
            return kind(network, variant, place)  # type: ignore[no-any-return]
    raise BundleError(f"no backend reads artefacts of kind {variant.kind!r} ({network.row.name})")


def _backend(name: str) -> Any:
    if name not in BACKENDS:
        raise InputError(f"no backend {name!r}: use {', '.join((*CHOICES, AUTO))}")
    module, attribute = BACKENDS[name]
    return getattr(import_module(module), attribute)


def _check_device(kind: Any, name: str, network: BundleNetwork, place: Place) -> None:
    device = place.device_of(network.role)
    if device.kind in kind.devices:
        return
    own = " or ".join(f"device={kind!r}" for kind in kind.devices)
    having = " or ".join(f"backend={other!r}" for other in CHOICES if device.kind in _backend(other).devices)
    raise EnvironmentMissingError(
        f"{network.role} cannot be run on {str(device)!r} by the backend {name!r}, which has {' and '.join(kind.devices)}: give {own}"
        + (f", or for {device.kind} {having}" if having else "")
    )

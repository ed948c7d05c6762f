"""The engines of a bundle: each graph built for this GPU, and kept in the device's store with what it was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from fexport.tensorrt_build import EngineOptions, Say, build_engine, timing_cache
from fexruntime.backends.base import Place
from fexruntime.bundle import Bundle, BundleNetwork
from fexruntime.contracts.precision import FULL
from fexruntime.driver import Gpu, gpu
from fexruntime.engines import FLAGGED, TYPED, import_tensorrt, key_of, profiles_of, shown
from fexruntime.errors import EnvironmentMissingError, InputError
from fexruntime.manifest import Variant


def make(
    bundle: Bundle, options: EngineOptions, sizes_hw: Sequence[tuple[int, int]], if_needed: bool, say: Say
) -> Mapping[str, str]:
    """Build what is not there (or everything), and answer for each role what was done.

    Raises EnvironmentMissingError without a GPU, TensorRT or a store; BundleError for a precision that the bundle lacks.
    """
    here = gpu()  # before TensorRT is imported: without a GPU its runtime ends the process
    return make_with(import_tensorrt(), here, bundle, options, sizes_hw, if_needed, say)


def make_with(
    trt: Any,
    here: Gpu,
    bundle: Bundle,
    options: EngineOptions,
    sizes_hw: Sequence[tuple[int, int]],
    if_needed: bool,
    say: Say,
) -> Mapping[str, str]:
    """`make` with this TensorRT on this GPU."""
    store = Place().store()
    if store is None:
        raise EnvironmentMissingError("there is no store to keep engines in: set FEXPORT_CACHE to a folder of your own")
    done = {}
    for role, network in bundle.networks.items():
        if not any(v.kind == "onnx" for v in network.record.variants):
            done[role] = f"{network.row.name} has no graph: it runs on the CPU"
            continue
        if TYPED in network.record.not_held:
            done[role] = f"{network.row.name} is not for TensorRT ({network.record.not_held[TYPED]})"
            continue
        precision = options.precision or network.record.precision
        own = replace(options, precision=precision)
        if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") or precision == FULL:
            variant = _typed(network, precision)
        elif FLAGGED in network.record.not_held:
            done[role] = (
                f"{network.row.name} is not for TensorRT {trt.__version__} ({network.record.not_held[FLAGGED]})"
            )
            continue
        else:
            variant = _flagged(trt, network, precision)
            islands, moved = pins_of(network, variant)
            own = replace(own, islands=islands, moved=moved)
        profiles = profiles_of(network.record.inputs, sizes_hw)
        key = key_of(network, variant, trt.__version__, here, shown(profiles), own.shown())
        if if_needed and store.find(key) is not None:
            done[role] = f"{network.row.name} is there already"
            continue
        say(f"{role}: {network.row.name}")
        cache = timing_cache(store.folder, trt.__version__, here)
        plan = build_engine(trt, network.read(variant.model), profiles, own, cache, partial(_said, say, role))
        with store.writing(key) as path:
            if path is None:
                raise EnvironmentMissingError(f"engines cannot be kept in {store.folder}: is the disk full?")
            path.write_bytes(plan)
        done[role] = f"{network.row.name}, {precision}, {len(plan) / 1e6:.1f} MB"
    return done


def _typed(network: BundleNetwork, precision: str) -> Variant:
    """The graph for a TensorRT that takes types from it; InputError for int8 where the bundle has none for TensorRT: its quantisers
    are not those of CPUs, and CPUs' may be of weights alone, which would be computed in fp32.
    """
    variant = network.variant(precision, ("onnx",), TYPED)
    if precision == "int8" and variant.target != TYPED:
        raise InputError(
            f"{network.row.name} has no int8 graph for TensorRT here: build the bundle with --target tensorrt, or use --precision fp32"
        )
    return variant


def _flagged(trt: Any, network: BundleNetwork, precision: str) -> Variant:
    """The graph for a TensorRT that has precision as a flag; InputError if the bundle has none."""
    for variant in network.record.variants:
        if (variant.precision, variant.target) == (precision, FLAGGED):
            return variant
    raise InputError(
        f"TensorRT {trt.__version__} has precision as a flag, and {network.row.name} has no {precision} graph for that here, with "
        "a plan of what stays fp32: build the bundle with --target tensorrt, use --precision fp32, or TensorRT 10.3 or newer"
    )


def pins_of(network: BundleNetwork, variant: Variant) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """`EngineOptions.islands` and `moved` of an artefact, out of its plan."""
    if variant.plan is None:
        raise InputError(
            f"the {variant.precision} graph of {network.row.name} has no plan of what stays fp32: build it again"
        )
    said = json.loads(network.read(variant.plan))
    pins = tuple(said["pins"])
    kept = (name for names in said["nodes"].get(FULL, {}).values() for name in names)
    return pins, tuple(name for name in kept if name not in set(pins))


def _said(say: Say, role: str, phase: str) -> None:
    say(f"{role}: {phase}")

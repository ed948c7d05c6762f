"""How far the tensors of a graph reach on calibration faces: what an int8 scale is made from.

Four ways to cut a tensor's range, on the same histogram:

- "minmax": all of it.
- "percentile": without the outermost 1e-4 of the values on either side.
- "mse": as much of it as makes the mean squared error of eight bits smallest.
- "entropy": as much of it as loses least information (Kullback-Leibler, as TensorRT's calibrator: S. Migacz, "8-bit Inference
  with TensorRT", GTC 2017).

Ranges are an artefact of their own: small, without a face in it, and good for every build from the same weights.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from fexcalibration import METHODS
from fexcalibration.chips import Inputs
from fexruntime.arrays import F32, F64
from fexruntime.backends.onnxruntime import PROVIDER, import_onnxruntime
from fexruntime.errors import InputError, one_line
from fexruntime.files import check_ours, replacing

FORMAT = 1
BINS = 2048
LEVELS = 256
_OUTERMOST = 1e-4
_VALUES = 1 << 16
"""Of a larger tensor so many values, evenly spread, go into the histogram (all go into the range)."""
Range = tuple[float, float]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Ranges:
    """Ranges of one network's tensors, by method; `weights` are digests of the weights that they hold for."""

    network: str
    weights: tuple[str, ...]
    chips: int
    pictures: str
    """Digest of the pictures that they were measured on."""
    tensors: Mapping[str, Mapping[str, Range]]
    """By tensor and method: (lowest, highest)."""
    channels: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Largest |value| of each channel, of tensors whose channels reach unevenly far; the others' ranges are of graphs in which
    those were evened out."""

    def by(self, method: str) -> dict[str, Range]:
        """By tensor, for one method."""
        return {name: found[method] for name, found in self.tensors.items()}


def measure(
    model: onnx.ModelProto, cases: Sequence[Inputs], names: Iterable[str], say: Say = lambda text: None
) -> dict[str, dict[str, Range]]:
    """Ranges of the tensors called `names` over `cases`, by method. Reads the cases twice: for the extent, for the histogram."""
    if not cases:
        raise InputError("there is nothing to calibrate on: no face, no frame")
    run = _watched(model, list(dict.fromkeys(names)))
    lowest: dict[str, float] = {}
    highest: dict[str, float] = {}
    for k, case in enumerate(cases):
        for name, value in run(case).items():
            if not value.size:
                continue
            low, high = float(value.min()), float(value.max())
            if not np.isfinite(low + high):
                raise InputError(f"{name} is not finite on a calibration face: nothing can be calibrated on it")
            lowest[name] = min(low, lowest.get(name, low))
            highest[name] = max(high, highest.get(name, high))
        say(f"extent, {k + 1} of {len(cases)}")
    counts = {name: np.zeros(BINS) for name in lowest}
    for k, case in enumerate(cases):
        for name, value in run(case).items():
            if name in counts and highest[name] > lowest[name]:
                flat = value.ravel()[:: max(1, value.size // _VALUES) | 1]  # odd: no stride of whole rows
                counts[name] += np.histogram(flat, BINS, (lowest[name], highest[name]))[0]
        say(f"histogram, {k + 1} of {len(cases)}")
    return {name: cut(counts[name], (lowest[name], highest[name])) for name in lowest}


def channel_maxima(
    model: onnx.ModelProto, cases: Sequence[Inputs], axes: Mapping[str, int]
) -> dict[str, NDArray[np.float32]]:
    """Largest |value| of each channel of these tensors over `cases`; `axes` has the axis of each tensor's channels."""
    run = _watched(model, list(axes))
    found: dict[str, NDArray[np.float32]] = {}
    for case in cases:
        for name, value in run(case).items():
            moved = np.moveaxis(np.abs(value), axes[name], 0)
            reach = moved.reshape(len(moved), -1).max(axis=1, initial=0.0)
            found[name] = np.maximum(found[name], reach) if name in found else reach
    return found


def cut(counts: F64, whole: Range) -> dict[str, Range]:
    """The range of a histogram [BINS] over `whole`, by each method."""
    found = {"minmax": whole}
    if counts.sum() == 0 or whole[1] <= whole[0]:
        return dict.fromkeys(METHODS, whole)
    found["percentile"] = _percentile(counts, whole)
    found["mse"] = _least_error(counts, whole)
    found["entropy"] = _entropy(counts, whole)
    return {name: (float(low), float(high)) for name, (low, high) in found.items()}


def _centres(whole: Range) -> F64:
    width = (whole[1] - whole[0]) / BINS
    return np.asarray(whole[0] + width * (np.arange(BINS) + 0.5))


def _percentile(counts: F64, whole: Range) -> Range:
    share = np.cumsum(counts) / counts.sum()
    edges = np.linspace(whole[0], whole[1], BINS + 1)
    low = edges[np.searchsorted(share, _OUTERMOST)]
    high = edges[min(int(np.searchsorted(share, 1.0 - _OUTERMOST)) + 1, BINS)]
    return (float(low), float(high)) if high > low else whole


def _least_error(counts: F64, whole: Range) -> Range:
    values = _centres(whole)
    best, least = whole, np.inf
    for part in np.linspace(0.3, 1.0, 71):
        low, high = whole[0] * part if whole[0] < 0 else whole[0], whole[1] * part if whole[1] > 0 else whole[1]
        step = (high - low) / (LEVELS - 1)
        if step <= 0:
            continue
        said = low + step * np.clip(np.rint((values - low) / step), 0, LEVELS - 1)
        error = float((counts * (values - said) ** 2).sum())
        if error < least:
            best, least = (float(low), float(high)), error
    return best


def _entropy(counts: F64, whole: Range) -> Range:
    """Of the values by their size, folded: those beyond the threshold fall to its last bin."""
    values, largest = np.abs(_centres(whole)), max(abs(whole[0]), abs(whole[1]))
    folded, _ = np.histogram(values, BINS // 2, (0.0, largest), weights=counts)
    best, least = len(folded), np.inf
    for size in range(LEVELS // 2, len(folded) + 1, 8):
        true = folded[:size].copy()
        true[-1] += folded[size:].sum()
        divergence = _divergence(true, folded[:size])
        if divergence < least:
            best, least = size, divergence
    threshold = largest * best / len(folded)
    return max(whole[0], -threshold), min(whole[1], threshold)


def _divergence(true: F64, inside: F64) -> float:
    """Kullback-Leibler divergence of a histogram from itself in half as many levels as int8 has."""
    levels = LEVELS // 2
    group = np.minimum(np.arange(len(inside)) * levels // len(inside), levels - 1)
    filled = inside > 0
    mass = np.bincount(group, inside, levels)
    members = np.bincount(group, filled, levels)
    spread = np.where(filled, mass[group] / np.maximum(members[group], 1), 0.0)
    p, q = true / true.sum(), spread / max(spread.sum(), 1e-12)
    known = p > 0
    return float((p[known] * np.log(p[known] / np.maximum(q[known], 1e-9))).sum())


def save(path: Path, found: Sequence[Ranges]) -> None:
    """Write ranges of several networks as JSON."""
    networks = [
        {
            "network": r.network,
            "weights": list(r.weights),
            "chips": r.chips,
            "pictures": r.pictures,
            "channels": {name: [float(f"{v:.6g}") for v in reach] for name, reach in r.channels.items()},
            "tensors": {name: {m: list(v) for m, v in by.items()} for name, by in r.tensors.items()},
        }
        for r in found
    ]
    check_ranges(path)
    with replacing(path) as partial:
        partial.write_text(json.dumps({"format": FORMAT, "networks": networks}, indent=1) + "\n", encoding="utf-8")


def check_ranges(path: Path) -> None:
    """OutputError if a file is at `path` that `save` did not write: one that `load` does not read."""
    try:
        load(path)
    except InputError:
        check_ours(path)


def load(path: Path) -> dict[str, Ranges]:
    """What `save` wrote, by network. Raises InputError for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value["format"] != FORMAT:
            raise InputError(f"the ranges {str(path)!r} have format {value['format']!r}; this version reads {FORMAT}")
        return {n["network"]: _read(n) for n in value["networks"]}
    except OSError as error:
        raise InputError(f"cannot read the ranges {str(path)!r}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{str(path)!r} holds no ranges ({one_line(error)}): make them with `fexport calibrate {path} PICTURES`"
        ) from None


def _read(value: Any) -> Ranges:
    tensors: dict[str, dict[str, Range]] = {}
    for name, by in value["tensors"].items():
        tensors[name] = {m: (float(by[m][0]), float(by[m][1])) for m in METHODS}
        if not all(np.isfinite(v).all() and v[0] <= v[1] for v in tensors[name].values()):
            raise ValueError(f"{name} has a range that is none")
    channels = {name: [float(v) for v in reach] for name, reach in value["channels"].items()}
    return Ranges(
        str(value["network"]),
        tuple(map(str, value["weights"])),
        int(value["chips"]),
        str(value["pictures"]),
        tensors,
        channels,
    )


def _watched(model: onnx.ModelProto, names: list[str]) -> Callable[[Inputs], dict[str, F32]]:
    """A function that runs the graph and answers these tensors, inputs and constants included."""
    watched = copy.deepcopy(model)
    outputs = {o.name for o in watched.graph.output}
    inputs = [i.name for i in watched.graph.input]
    made = {name for node in watched.graph.node for name in node.output}
    for name in names:
        if name in made and name not in outputs:
            watched.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(watched.SerializeToString(), options, providers=[PROVIDER])
    asked = [n for n in names if n in made]

    def run(case: Inputs) -> dict[str, F32]:
        given = dict(zip(inputs, case, strict=True))
        values: dict[str, NDArray[Any]] = dict(zip(asked, session.run(asked, given), strict=True)) if asked else {}
        return values | {name: given[name] for name in names if name in given}

    return run

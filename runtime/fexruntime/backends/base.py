"""What a backend is: five members. What is asked of it travels as one value, a `Place`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fexruntime.arrays import F32, Values
from fexruntime.contracts import Tensor
from fexruntime.cores import available_cores
from fexruntime.errors import InputError
from fexruntime.store import Store, open_store

DEFAULT_BACKEND = "onnxruntime"
MOST_THREADS_A_CORE = 4
CPU = "cpu"
PIXELS = (CPU, "cuda")
Located = tuple[int, tuple[int, ...]]
"""An array on a device: its address and shape."""
AUTO = "auto"
"""The backends that `fexport tune` chose here for a bundle; the default where nobody tuned."""


@dataclass(frozen=True, slots=True)
class Device:
    """A kind of device, and which of them (None: the engine's first)."""

    kind: str = CPU
    index: int | None = None

    def __str__(self) -> str:
        return self.kind if self.index is None else f"{self.kind}:{self.index}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how networks run.

    - `backend`: a name in `BACKENDS`, one by role (`{"faces": "ncnn"}`; roles that are not named: the default), or "auto":
      what `fexport tune` measured to be fastest here, else the default.
    - `device`: "cpu", or one by role: "vulkan" (ncnn), "gpu" or "npu" (OpenVINO), each with a number where there are several
      ("vulkan:1"). Never another than asked for.
    - `precision`: None, what the bundle was built in; or "fp32", "fp16", "bf16", "int8", or one by role: the artefact that is
      run. Never another than asked for.
    - `threads`: CPU threads of each network, which run one after another; or a number by role (roles that are not named: all
      cores). None: all cores that the process may use.
    - `cache`: the folder of what this device makes for itself (see `store`); None for the default, False for none.
    - `shared_pool`: all ONNX Runtime sessions of the process on one thread pool: only for a process in which nothing
      else uses ONNX Runtime (see `backends.onnxruntime`).
    - `pixels`: where pixels and raw outputs are worked on: "cpu", or "cuda", the finder's GPU (backend "tensorrt" or
      "onnxruntime-cuda"), which then has one small copy back a frame (see `ops.resident`).

    Raises InputError for a number of threads that cannot be.
    """

    backend: str | Mapping[str, str] = DEFAULT_BACKEND
    device: str | Mapping[str, str] = CPU
    precision: str | Mapping[str, str] | None = None
    threads: int | Mapping[str, int] | None = None
    cache: Path | str | bool | None = None
    shared_pool: bool = False
    pixels: str = CPU

    def __post_init__(self) -> None:
        if self.pixels not in PIXELS:
            raise InputError(f"pixels must be {' or '.join(PIXELS)}, not {self.pixels!r}")
        for threads in self.threads.values() if isinstance(self.threads, Mapping) else (self.threads,):
            _check_threads(threads)

    def store(self) -> Store | None:
        """The store of what this device makes for itself; None where there is to be none, or can be none."""
        if self.cache is False:
            return None
        return open_store(Path(self.cache) if isinstance(self.cache, (str, Path)) else None)

    @property
    def cores(self) -> int:
        """The number of threads of networks that have none of their own."""
        return available_cores() if self.threads is None or isinstance(self.threads, Mapping) else int(self.threads)

    def threads_of(self, role: str) -> int:
        """CPU threads of a role."""
        return int(self.threads.get(role, self.cores)) if isinstance(self.threads, Mapping) else self.cores

    def backend_of(self, role: str) -> str:
        """Name of the backend of a role."""
        return self.backend if isinstance(self.backend, str) else self.backend.get(role, DEFAULT_BACKEND)

    def device_of(self, role: str) -> Device:
        """The device of a role; InputError for a number that is none."""
        given = self.device if isinstance(self.device, str) else self.device.get(role, CPU)
        kind, colon, number = given.partition(":")
        if colon and not (number.isascii() and number.isdigit()):
            raise InputError(f"device={given!r} is not a kind and a number, such as 'vulkan:1'")
        return Device(kind, int(number) if colon else None)

    def check_roles(self, roles: Iterable[str]) -> None:
        """InputError if it names a role that is not among these."""
        given = {"backend": self.backend, "device": self.device, "precision": self.precision, "threads": self.threads}
        for option, by_role in given.items():
            unknown = set(by_role) - set(roles) if isinstance(by_role, Mapping) else set()
            if unknown:
                raise InputError(f"{option} names {', '.join(sorted(unknown))}: this bundle has {', '.join(roles)}")

    def precision_of(self, role: str) -> str | None:
        """The precision of a role; None: what the bundle was built in."""
        return self.precision.get(role) if isinstance(self.precision, Mapping) else self.precision


def _check_threads(threads: int | None) -> None:
    if threads is None:
        return
    if isinstance(threads, bool) or not hasattr(threads, "__index__") or threads < 1:
        raise InputError(f"threads must be a whole number of 1 or more, not {threads!r}")
    if threads > MOST_THREADS_A_CORE * available_cores():
        raise InputError(
            f"threads={threads} cannot be meant: this process may use {available_cores()} cores; more threads than cores are slower"
        )


@dataclass(frozen=True, slots=True)
class Spec:
    """Inputs and outputs of a network as it was loaded (strings in shapes are dynamic axes), and the most items a run."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    largest_batch: int | None = None


class Backend(Protocol):
    """A loaded network. A backend that cannot be what was asked for raises; it never becomes something else."""

    spec: Spec

    def infer(self, inputs: Values, out: Values | None = None) -> dict[str, F32]:
        """Outputs by name for inputs by name (C-contiguous float32).

        `out` names arrays that the outputs are written into; they must have the right shapes. Outputs that it does not name
        are not computed where the library can leave them out (OpenVINO cannot). Without it, new arrays of every output.
        Raises InferenceError if the network could not be run.
        """
        ...

    def share(self) -> Backend:
        """Another runner of the same loaded network, for another thread; it may be this one where that is safe."""
        ...

    def close(self) -> None:
        """Release the network; `infer` fails afterwards."""
        ...

    def describe(self) -> dict[str, Any]:
        """Provider, device, precision, threads and version really in use: read off the library and what it loaded.

        "precision" is what is computed; "weights" is there too where they are stored as another type.
        """
        ...


def precision_said(described: Mapping[str, Any]) -> str:
    """The precision of a network in words, of what its backend's `describe` said."""
    stored = described.get("weights")
    return str(described["precision"]) + (f" (weights {stored})" if stored else "")


class Resident(Protocol):
    """A loaded network that reads and writes a device's memory, in the order of a stream that it was given."""

    spec: Spec
    most: Mapping[str, tuple[int, ...]] | None
    """The largest shape of each input; None where there is no largest."""

    used: set[int]
    """Which of its contexts have run; the caller clears it."""

    @property
    def versions(self) -> tuple[int, ...] | None:
        """Of each context a number that is another whenever its shapes or addresses are; None if no run can be captured."""
        ...

    def enqueue(self, inputs: Mapping[str, Located], outputs: Mapping[str, Located]) -> None:
        """Put a run into the stream; every output has to have a place. Nothing is waited for."""
        ...

    def close(self) -> None:
        """Release what it holds of the network."""
        ...

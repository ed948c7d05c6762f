"""What a backend is: four members and a description."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Arrays = Mapping[str, F32]


@dataclass(frozen=True, slots=True)
class Spec:
    """Names of a network's input and outputs, and the input's shape (strings are dynamic axes)."""

    input_name: str
    input_shape: tuple[int | str, ...]
    output_names: tuple[str, ...]


class Backend(Protocol):
    """Runs one network. A backend that cannot be what was asked for raises; it never becomes something else."""

    spec: Spec

    def infer(self, inputs: Arrays, out: dict[str, F32] | None = None) -> dict[str, F32]:
        """Outputs by name for inputs by name (C-contiguous float32).

        `out` names arrays that the outputs are written into; they must have the right shapes. Without it, new arrays.
        """
        ...

    def warmup(self, shapes: list[tuple[int, ...]]) -> None:
        """Run once for each input shape, so that the first real call pays no set-up."""
        ...

    def close(self) -> None:
        """Release the network; `infer` fails afterwards."""
        ...

    def describe(self) -> dict[str, Any]:
        """Provider, device, precision, threads and version really in use."""
        ...

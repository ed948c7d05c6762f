"""The array types that travel through the runtime, named once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

F32: TypeAlias = NDArray[np.float32]
F64: TypeAlias = NDArray[np.float64]
U8: TypeAlias = NDArray[np.uint8]
Indices: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]
Values: TypeAlias = Mapping[str, F32]
"""Arrays by name, float32, the first axis one item a face (or a frame, for a network that reads frames)."""


class ArrayLike(Protocol):
    """What NumPy makes an array of: an array itself, a torch tensor."""

    def __array__(self) -> Any:
        """The array."""
        ...


class ByteFile(Protocol):
    """An open file that gives bytes."""

    def read(self) -> bytes:
        """All of it."""
        ...


class PictureLike(Protocol):
    """An image of PIL, which is not imported here."""

    @property
    def mode(self) -> str:
        """Its kind of pixels."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        ...

    def load(self) -> Any:
        """Decode it."""
        ...

"""The seam between the walk and what works on pixels and raw outputs: the CPU, or a device on which networks run too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from fexruntime.arrays import F32
from fexruntime.sources.on_device import is_on_device, refused

Finder = Callable[..., "list[dict[str, F32]]"]
"""As in `finders`."""
Note = tuple[str, float, int]
"""What took how many seconds, for how many items (frames or faces)."""
FACES_A_RUN = 2
"""Faces per run of the face networks on a CPU. More at once pass its caches and are no faster (multitask is slower), and each
needs up to 90 MB for as long as it runs."""
FACES_A_RUN_OF_A_GPU = 8
"""Where a network runs on a GPU, and pixels are worked on by the CPU."""


def faces_a_run(kinds: Iterable[str]) -> int:
    """Faces per run of the walk, of the kinds of devices that the networks run on."""
    return FACES_A_RUN if all(kind == "cpu" for kind in kinds) else FACES_A_RUN_OF_A_GPU


class Ops(Protocol):
    """What the walk asks for. Steps, frames and blocks are those of `faces`."""

    faces_a_run: int
    """Faces of a block."""
    finders: Mapping[str, Finder]
    """Finders of its own, by the name that a finder's stage decodes by; the others are those of `finders`."""

    def begin(self, frames: Sequence[Any], steps: Sequence[Any]) -> None:
        """A call begins, on these frames; the steps will be asked for on the faces that are found, as they are found."""
        ...

    def answer(self, block: Any, steps: Sequence[Any]) -> None:
        """Put raw outputs, by role, into `block.answers` for those of the steps that are not left to the walk."""
        ...

    def notes(self) -> list[Note]:
        """What it did and how long that took, beside what the walk notes itself; forgotten then."""
        ...

    def close(self) -> None:
        """Release what it holds."""
        ...


class HostOps:
    """The CPU: NumPy and OpenCV, a step at a time, by the walk itself."""

    finders: Mapping[str, Finder] = {}

    def __init__(self, faces_a_run: int = FACES_A_RUN) -> None:
        self.faces_a_run = faces_a_run

    def begin(self, frames: Sequence[Any], steps: Sequence[Any]) -> None:
        """Nothing is done ahead; InputError for a frame whose pixels are not the CPU's."""
        for frame in frames:
            if is_on_device(frame.rgb_u8):
                raise refused(frame.rgb_u8)

    def answer(self, block: Any, steps: Sequence[Any]) -> None:
        """Every step is the walk's."""

    def notes(self) -> list[Note]:
        """The walk notes everything."""
        return []

    def close(self) -> None:
        """It holds nothing."""

"""What a bundle takes of a GPU's memory."""

from __future__ import annotations

from fexruntime.backends.base import Place
from fexruntime.bundle import Bundle
from fexruntime.cuda import Cuda

CUDA = "cuda"


class Vram:
    """A GPU's memory, from now on: what is taken of it by this process and everybody else."""

    def __init__(self, index: int | None) -> None:
        self._cuda = Cuda(index)
        self._free, self._total = self._cuda.memory()

    def used(self) -> dict[str, float]:
        """Megabytes that were taken since, and that the GPU has."""
        free, _ = self._cuda.memory()
        self._cuda.close()
        return {"vram_mb": (self._free - free) / 1e6, "vram_total_mb": self._total / 1e6}


def of(bundle: Bundle, place: Place) -> Vram | None:
    """The memory of the first GPU that a network runs on; None where none does. EnvironmentMissingError without that GPU."""
    on_gpu = [device for device in map(place.device_of, bundle.networks) if device.kind == CUDA]
    return Vram(on_gpu[0].index) if on_gpu else None

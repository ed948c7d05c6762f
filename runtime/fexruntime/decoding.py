"""What a decoder is, and what it may ask of the faces that it decodes for. The decoders are in `heads` and `facemesh`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from fexruntime.arrays import F32, Values
from fexruntime.contracts import Crop, Stage
from fexruntime.crop import Region
from fexruntime.options import Options


class Faces(Protocol):
    """What a decoder may ask of the N faces that it decodes for."""

    options: Options
    """The caller's."""
    values: Mapping[str, F32]
    """What earlier stages said of them, by name."""

    def regions(self, crop: Crop) -> Region:
        """Where their crops lie."""
        ...

    def pictures_xywh_px(self) -> F32:
        """[N,4] left, top, width, height of the original picture in the frame that the detector saw."""
        ...


Decoder = Callable[[Values, Faces, Stage, "Crop | None"], dict[str, F32]]
"""(raw outputs by name, the faces, the stage, the crop that its network read) -> the stage's values by name.

Of a stage without a graph the raw outputs are what it reads: "chips" for a crop, a value by its name.
"""

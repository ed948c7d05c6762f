"""Networks that ncnn's smallest Winograd tiles are worth a try for (the backend "ncnn-f2x2").

Measured with `benchmarks/ncnn_options.py` on two CPUs: what gained on one of them is held to torch in both ways, and `fexport tune` measures
both. The others never gained, so a build and a tune need not try.
"""

from __future__ import annotations

from fexruntime.contracts import networks as N

SMALL_TILES = (
    # half of it is convolutions on 14 x 14 and 7 x 7, which F(4x4) pads to 16 and 8: faster on an Intel Xeon, slower on an AMD Zen 4
    N.ARCFACE.name,
)

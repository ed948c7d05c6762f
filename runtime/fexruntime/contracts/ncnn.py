"""Networks that ncnn's smallest Winograd tiles are worth a try for.

Measured with `benchmarks/ncnn_options.py`. What gained on a CPU is held to torch in both ways, and `fexport tune` measures both. RetinaFace-R34
never gained; MobileFaceNet, FaceNet and ResMaskNet were not measured.
"""

from __future__ import annotations

from fexruntime.contracts import networks as N

SMALL_TILES_BACKEND = "ncnn-f2x2"
SMALL_TILES = (
    # half of it is convolutions on 14 x 14 and 7 x 7, which F(4x4) pads to 16 and 8: faster on an Intel Xeon, not on an AMD Zen 4
    N.ARCFACE.name,
)

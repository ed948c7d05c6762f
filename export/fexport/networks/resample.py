"""Image resampling as two fixed matrix products, so that a graph needs no Resize operator.

TensorRT has no antialiased Resize, and ONNX's differs between runtimes; M·X·Mᵀ is the same everywhere. The
weights come from `fexruntime.resample`, where the NumPy side has them too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fexruntime.resample import antialias_taps, bilinear_taps, dense_matrix


def antialias_matrix(size: int, new_size: int) -> NDArray[np.float32]:
    """[new_size, size] float32: torchvision's antialiased bilinear resize along one axis."""
    return dense_matrix(antialias_taps(size, new_size), size)


def bilinear_matrix(size: int, new_size: int) -> NDArray[np.float32]:
    """[new_size, size] float32: `interpolate(mode="bilinear", align_corners=False)` along one axis."""
    return dense_matrix(bilinear_taps(size, new_size), size)


def resample(chips: Tensor, matrix: Tensor) -> Tensor:
    """[N,C,S,S] and [S',S] -> [N,C,S',S']."""
    return matrix.matmul(chips).matmul(matrix.t())

"""Rewrites of ncnn's layers that change where the arithmetic is done and not what it answers."""

from __future__ import annotations

import numpy as np

from fexport.ncnn_layers import RAW_FP32, Layer, raw

_MOST_CHANNELS = 4
"""ncnn packs channels by four and more: fewer than that are convolved at a fraction of its speed."""


def quartered_stems(layers: list[Layer]) -> list[Layer]:
    """Convolutions with stride 2 of a picture's few channels as such of stride 1 on its four quarters.

    Row 2i + a of the padded picture is row i of quarter a, and columns likewise, so a kernel of k x k (odd) steps over the
    quarters one pixel at a time with (k + 1) / 2 squared taps in four times the channels; it gets a row and a column of
    zeros in front, and the padding one pixel more there. Odd and even sizes come out the same: the quarters drop a last row
    that no window reads.
    """
    done: list[Layer] = []
    for layer in layers:
        done += _quartered(layer) if _is_stem(layer) else [layer]
    return done


def _is_stem(layer: Layer) -> bool:
    if layer.kind != "Convolution":
        return False
    p = layer.parameters
    size, channels = p[1], p[6] // (p[0] * p[1] * p[11])
    square = p[11] == size and p[3] == p[13] == 2 and p[2] == p[12] == 1 and p[4] == p[14] == p[15] == p[16]
    return bool(square and size % 2 and size > 1 and channels <= _MOST_CHANNELS)


def _quartered(layer: Layer) -> list[Layer]:
    p, source, name = layer.parameters, layer.inputs[0], layer.name
    size, pad = int(p[1]), int(p[4])
    kernel = np.frombuffer(layer.weights[0][len(RAW_FP32) :], np.float32).reshape(p[0], -1, size, size)
    half = (size + 1) // 2
    whole = np.pad(kernel, ((0, 0), (0, 0), (1, 0), (1, 0)))
    quarters = whole.reshape(*kernel.shape[:2], half, 2, half, 2).transpose(0, 1, 3, 5, 2, 4)
    parameters = p | {1: half, 11: half, 3: 1, 13: 1, 4: 0, 14: 0, 15: 0, 16: 0, 6: quarters.size}
    padded, split = f"{name}.padded", f"{name}.quarters"
    return [
        Layer("Padding", padded, [source], [padded], {0: pad + 1, 1: pad, 2: pad + 1, 3: pad, 4: 0, 5: 0.0}),
        Layer("Reorg", split, [padded], [split], {0: 2}),
        Layer("Convolution", name, [split], layer.outputs, parameters, [RAW_FP32 + raw(quarters), *layer.weights[1:]]),
    ]

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fexruntime.resample import antialias_taps, bilinear_taps, dense_matrix, resize_u8


@pytest.mark.parametrize(("size", "new_size"), [(256, 224), (256, 112), (100, 333), (7, 3), (50, 50)])
@pytest.mark.parametrize("antialias", [True, False])
def test_taps_equal_torchs_interpolate(size, new_size, antialias):
    x = torch.from_numpy(np.random.RandomState(0).rand(1, 1, size, size).astype(np.float32))
    expected = F.interpolate(x, size=(new_size, new_size), mode="bilinear", align_corners=False, antialias=antialias)
    matrix = dense_matrix((antialias_taps if antialias else bilinear_taps)(size, new_size), size)
    assert np.abs(matrix @ x[0, 0].numpy() @ matrix.T - expected[0, 0].numpy()).max() < 2e-6


@pytest.mark.parametrize("size", [(120, 90), (333, 500), (481, 640), (64, 480)])
def test_uint8_resize_equals_torchs_but_for_ties(size):
    image = np.random.RandomState(1).randint(0, 256, (240, 320, 3), np.uint8)
    x = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32))
    expected = F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True).round()[0].numpy()
    found = resize_u8(image, *size).transpose(2, 0, 1)
    gap = np.abs(found.astype(int) - expected.astype(int))
    assert gap.max() <= 1
    assert (gap > 0).mean() < 1e-3

"""What a face network does to its chips first, as its contract row says: the resize, the mean, the standard deviation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fexport.networks.resample import antialias_matrix, bilinear_matrix, resample
from fexruntime.contracts import Crop, Network, Preprocessing

_MATRICES = {"antialias": antialias_matrix, "bilinear": bilinear_matrix}


class Preprocess(nn.Module):
    """chips [N,3,S,S] RGB in [0,1] -> what the network's first layer reads. Adds nothing to the state dict."""

    def __init__(self, network: Network, crop: Crop) -> None:
        super().__init__()
        self.resize: Tensor | None
        self.mean: Tensor | None
        self.std: Tensor | None
        matrix = None
        if network.resize is not None and network.resize.size != crop.size:
            matrix = torch.from_numpy(_MATRICES[network.resize.kind](crop.size, network.resize.size))
        row, plain = network.preprocessing, Preprocessing()
        mean = None if row.mean == plain.mean else torch.tensor(row.mean).view(1, 3, 1, 1)
        std = None if row.std == plain.std else torch.tensor(row.std).view(1, 3, 1, 1)
        for name, value in (("resize", matrix), ("mean", mean), ("std", std)):
            self.register_buffer(name, value, persistent=False)

    def forward(self, chips: Tensor) -> Tensor:
        x = chips if self.resize is None else resample(chips, self.resize)
        x = x if self.mean is None else x - self.mean
        return x if self.std is None else x / self.std

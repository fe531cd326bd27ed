"""A small convolutional classifier for images of 8x8 to 64x64."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from cl_bench.config import Positive
from cl_bench.networks.base import Network


class CNN(Network):
    """3x3 convolutions of stride 2 with ReLU, then one hidden linear layer; no normalization layers.

    Args:
        image_shape: (C, H, W).
        n_outputs, mean, std: see `Network`.
        channels: channels of each convolution.
        hidden: units of the linear layer before the head.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_outputs: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        *,
        channels: Sequence[Positive] = (32, 64, 64),
        hidden: Positive = 256,
    ) -> None:
        layers = [
            layer
            for n, m in pairwise([image_shape[0], *channels])
            for layer in (nn.Conv2d(n, m, 3, stride=2, padding=1), nn.ReLU())
        ]
        convolutions = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            flat = convolutions(torch.zeros(1, *image_shape)).shape[1]
        super().__init__([convolutions, nn.Linear(flat, hidden), nn.ReLU()], hidden, n_outputs, mean, std)

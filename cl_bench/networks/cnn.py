"""A small convolutional classifier for images of 8x8 to 64x64."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from cl_bench.config import Positive


class CNN(nn.Module):
    """3x3 convolutions of stride 2 with ReLU, then one hidden linear layer; no normalisation layers.

    image_shape: (C, H, W). n_outputs: logits. channels: width of each convolution. hidden: units before the head.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_outputs: int,
        *,
        channels: Sequence[Positive] = (32, 64, 64),
        hidden: Positive = 256,
    ) -> None:
        super().__init__()
        layers = [
            layer
            for n, m in pairwise([image_shape[0], *channels])
            for layer in (nn.Conv2d(n, m, 3, stride=2, padding=1), nn.ReLU())
        ]
        convolutions = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            flat = convolutions(torch.zeros(1, *image_shape)).shape[1]
        self.features = nn.Sequential(convolutions, nn.Linear(flat, hidden), nn.ReLU())
        self.head = nn.Linear(hidden, n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

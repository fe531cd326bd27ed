"""Generators and critics. Images lie in [0, 1]; critics have no batch normalisation (it couples the samples)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

from torch import Tensor, nn

from cl_bench.config import InputError, Positive


class Generator(Protocol):
    """A network from noise (B, z_dim) to images (B, C, H, W) in [0, 1]."""

    z_dim: int

    def __call__(self, z: Tensor) -> Tensor: ...


class MLPGenerator(nn.Sequential):
    """Linear layers with ReLU, sigmoid at the end; quick, and good enough for digits.

    image_shape: (C, H, W). z_dim: noise dimensions. hidden: width of each hidden layer.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        z_dim: Positive = 64,
        hidden: Sequence[Positive] = (256, 256),
    ) -> None:
        widths = [z_dim, *hidden]
        layers = [layer for n, m in pairwise(widths) for layer in (nn.Linear(n, m), nn.ReLU())]
        super().__init__(
            *layers, nn.Linear(widths[-1], math.prod(image_shape)), nn.Sigmoid(), nn.Unflatten(1, image_shape)
        )
        self.z_dim = z_dim


class MLPCritic(nn.Sequential):
    """Linear layers with leaky ReLU to one score per image, shape (B,)."""

    def __init__(self, image_shape: tuple[int, int, int], *, hidden: Sequence[Positive] = (256, 256)) -> None:
        widths = [math.prod(image_shape), *hidden]
        layers = [layer for n, m in pairwise(widths) for layer in (nn.Linear(n, m), nn.LeakyReLU(0.2))]
        super().__init__(nn.Flatten(), *layers, nn.Linear(widths[-1], 1), nn.Flatten(0))


def _quarter(image_shape: tuple[int, int, int]) -> int:
    size = image_shape[1]
    if size != image_shape[2] or size % 4:
        raise InputError(
            f"dataset.size={size}: a convolutional generator needs square images of a multiple of 4; try 32"
        )
    return size // 4


class DCGenerator(nn.Sequential):
    """A linear layer to a quarter of the size, then two transposed convolutions (Radford et al., 2016).

    image_shape: (C, H, W), H = W a multiple of 4. width: channels of the last hidden layer; more draws better.
    """

    def __init__(self, image_shape: tuple[int, int, int], *, z_dim: Positive = 100, width: Positive = 32) -> None:
        quarter = _quarter(image_shape)
        super().__init__(
            nn.Linear(z_dim, 2 * width * quarter * quarter),
            nn.Unflatten(1, (2 * width, quarter, quarter)),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, image_shape[0], 4, stride=2, padding=1),
            nn.Sigmoid(),
        )
        self.z_dim = z_dim


class DCCritic(nn.Sequential):
    """Two strided convolutions with leaky ReLU and a linear score, shape (B,); the mirror of `DCGenerator`."""

    def __init__(self, image_shape: tuple[int, int, int], *, width: Positive = 32) -> None:
        quarter = _quarter(image_shape)
        super().__init__(
            nn.Conv2d(image_shape[0], width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(2 * width * quarter * quarter, 1),
            nn.Flatten(0),
        )

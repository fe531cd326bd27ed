"""Generators, critics and discriminators. Pixels are in [0, 1].

Critics have no batch normalization by default: with it the score of an image depends on the other images, and the
gradient penalty is defined for single images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from cl_bench.config import InputError, Positive
from cl_bench.networks.base import Network


class Generator(Protocol):
    """A network from noise (B, z_dim) to images (B, C, H, W) in [0, 1]."""

    z_dim: int

    def __call__(self, z: Tensor) -> Tensor: ...


class MLPGenerator(nn.Sequential):
    """Linear layers with ReLU, and a sigmoid at the end. It is fast, and good enough for digits.

    Args:
        image_shape: (C, H, W).
        z_dim: noise dimensions.
        hidden: units of each hidden layer.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        z_dim: Positive = 64,
        hidden: Sequence[Positive],
    ) -> None:
        widths = [z_dim, *hidden]
        layers = [layer for n, m in pairwise(widths) for layer in (nn.Linear(n, m), nn.ReLU())]
        super().__init__(
            *layers, nn.Linear(widths[-1], math.prod(image_shape)), nn.Sigmoid(), nn.Unflatten(1, image_shape)
        )
        self.z_dim = z_dim


class MLPCritic(nn.Sequential):
    """Linear layers with leaky ReLU to one score per image, shape (B,)."""

    def __init__(self, image_shape: tuple[int, int, int], *, hidden: Sequence[Positive]) -> None:
        widths = [math.prod(image_shape), *hidden]
        layers = [layer for n, m in pairwise(widths) for layer in (nn.Linear(n, m), nn.LeakyReLU(0.2))]
        super().__init__(nn.Flatten(), *layers, nn.Linear(widths[-1], 1), nn.Flatten(0))


def _quarter(image_shape: tuple[int, int, int]) -> int:
    height, width = image_shape[1:]
    if height != width or height % 4:
        raise not_of(image_shape, "a multiple of 4")
    return height // 4


def not_of(image_shape: tuple[int, int, int], sides: str) -> InputError:
    """The error for images of a shape for which there is no generator. sides: the sides that are possible."""
    height, width = image_shape[1:]
    size = height if height == width else f"{height}x{width}"
    return InputError(f"dataset.size={size}: a convolutional generator needs square images of {sides}; try 32")


class DCGenerator(nn.Sequential):
    """A linear layer to a quarter of the size, then two transposed convolutions (Radford et al., 2016).

    Args:
        image_shape: (C, H, W), H = W a multiple of 4.
        z_dim: noise dimensions.
        width: channels of the last hidden layer; more channels draw better images and take longer.
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


def halvings(image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """The first side of a generator, 4 to 7, and how often it is doubled to reach the side of the image.

    Raises InputError for images that are not square, or have another side.

    >>> halvings((1, 28, 28)), halvings((3, 32, 32))
    ((7, 2), (4, 3))
    """
    size, times = image_shape[1], 0
    while size > 7 and size % 2 == 0:
        size, times = size // 2, times + 1
    if image_shape[1] != image_shape[2] or not times or not 4 <= size <= 7:
        raise not_of(image_shape, "a side of 4 to 7, doubled several times")
    return size, times


def with_class(z: Tensor, y: Tensor, n_outputs: int) -> Tensor:
    """Noise (B, z_dim) and one-hot classes, from y (B,), in one tensor (B, z_dim + n_outputs).

    >>> with_class(torch.tensor([[0.5]]), torch.tensor([1]), n_outputs=2).tolist()
    [[0.5, 0.0, 1.0]]
    """
    return torch.cat([z, (y[:, None] == torch.arange(n_outputs, device=y.device)).to(z.dtype)], dim=1)


class ConditionalGenerator(nn.Module):
    """A network from noise and a class to an image: (B, z_dim), (B,) -> (B, C, H, W) in [0, 1].

    layers: take the result of `with_class`. An image must not depend on other images of the batch, even in training.
    """

    def __init__(self, n_outputs: int, z_dim: int, layers: nn.Module) -> None:
        super().__init__()
        self.n_outputs, self.z_dim, self.layers = n_outputs, z_dim, layers

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.layers(with_class(z, y, self.n_outputs))


class ConditionalMLP(ConditionalGenerator):
    """`MLPGenerator` with a class. n_outputs: number of classes."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_outputs: int,
        *,
        z_dim: Positive = 64,
        hidden: Sequence[Positive],
    ) -> None:
        super().__init__(n_outputs, z_dim, MLPGenerator(image_shape, z_dim=z_dim + n_outputs, hidden=hidden))


class ConditionalDCGenerator(ConditionalGenerator):
    """A linear layer to 4x4 (up to 7x7), then transposed convolutions that double the side, with layer normalization.

    Args:
        image_shape: (C, H, W), H = W = 4, 5, 6 or 7, doubled one or several times.
        n_outputs: number of classes.
        z_dim: noise dimensions.
        width: channels of the last hidden layer, with twice as many in each layer before. More channels draw better
            images and take longer.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], n_outputs: int, *, z_dim: Positive = 100, width: Positive
    ) -> None:
        size, times = halvings(image_shape)
        widths = [width * 2**n for n in reversed(range(times))]
        layers: list[nn.Module] = [
            nn.Linear(z_dim + n_outputs, widths[0] * size * size),
            nn.Unflatten(1, (widths[0], size, size)),
        ]
        for n, m in pairwise([*widths, image_shape[0]]):
            layers += [nn.GroupNorm(1, n), nn.ReLU(), nn.ConvTranspose2d(n, m, 4, stride=2, padding=1)]
        super().__init__(n_outputs, z_dim, nn.Sequential(*layers, nn.Sigmoid()))


class DCNetwork(Network):
    """Strided convolutions with leaky ReLU and a linear head: a DCGAN's discriminator as a classifier.

    Args:
        image_shape: (C, H, W).
        n_outputs, mean, std: see `Network`.
        width: channels of the first convolution, with twice as many in each later one.
        depth: number of convolutions; each halves the side.
        norm: `batch`: batch normalization after all convolutions except the first.

    Raises InputError for more convolutions than the side can be halved.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_outputs: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        *,
        width: Positive,
        depth: Positive = 3,
        norm: Literal["none", "batch"] = "none",
    ) -> None:
        side = max(image_shape[1:])
        most = max(math.ceil(math.log2(side)), 1)
        if depth > most:
            raise InputError(f"network.depth={depth}: a side of {side} can be halved {most} times; choose 1 to {most}")
        layers: list[nn.Module] = []
        for n, m in pairwise([image_shape[0], *(width * 2**i for i in range(depth))]):
            layers.append(nn.Conv2d(n, m, 5, stride=2, padding=2))
            if norm == "batch" and m > width:
                layers.append(nn.BatchNorm2d(m))
            layers.append(nn.LeakyReLU(0.2))
        height, width_ = (math.ceil(side / 2**depth) for side in image_shape[1:])
        super().__init__([*layers, nn.Flatten()], m * height * width_, n_outputs, mean, std)


class Discriminator(nn.Module):
    """Images -> the score of a critic (B,) and the logits of a classifier (B, n_outputs), from the same features.

    network: gives the features, and its head is the classifier.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.critic = nn.Linear(network.head.in_features, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.network.features(x)
        return self.critic(features).squeeze(1), self.network.head(features)

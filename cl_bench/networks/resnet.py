"""Residual networks for small images (He et al., 2016). Most published numbers on CIFAR use them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_bench.config import Positive
from cl_bench.networks.base import Network


class Residual(nn.Module):
    """x -> shortcut(x) + branch(x)."""

    def __init__(self, shortcut: nn.Module, branch: nn.Module) -> None:
        super().__init__()
        self.shortcut, self.branch = shortcut, branch

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.branch(x)


class Subsampled(nn.Module):
    """A shortcut without weights: every second row and column, and zeros in the new channels."""

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.new_channels = new_channels

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[..., ::2, ::2], (0, 0, 0, 0, 0, self.new_channels))


class ResNet18(Network):
    """A 3x3 convolution that keeps the side, eight residual blocks in four stages, the mean over positions, a head.

    All stages except the first halve the side and double the channels. Weights have the memory layout `channels_last`,
    which is fastest and changes results only by rounding. Networks with fewer than 8 channels do not have it, because
    with it the backward pass of torch crashes on some CPUs.

    Args:
        image_shape: (C, H, W).
        n_outputs, mean, std: see `Network`.
        width: channels of the first stage; 20 is the smaller network of Gradient Episodic Memory (Lopez-Paz and
            Ranzato, 2017).
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_outputs: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        *,
        width: Positive = 64,
    ) -> None:
        features = [
            *_convolution(image_shape[0], width, 3),
            nn.ReLU(),
            *_stage(width, width, stride=1),
            *_stage(width, 2 * width, stride=2),
            *_stage(2 * width, 4 * width, stride=2),
            *_stage(4 * width, 8 * width, stride=2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        ]
        super().__init__(features, 8 * width, n_outputs, mean, std)
        if width >= 8:
            self.to(memory_format=torch.channels_last)


class ResNet32(Network):
    """A 3x3 convolution, fifteen residual blocks in three stages, the mean over positions, a head.

    The second and the third stage halve the side and double the channels. Their first shortcut has no weights and pads
    with zeros (option A of the paper, section 4.2). The network has 0.46 million weights, in the memory layout of
    `ResNet18`.

    Args:
        image_shape: (C, H, W).
        n_outputs, mean, std: see `Network`.
        width: channels of the first stage.
        signed: True: without the last ReLU, so that features can be negative, for a cosine head (Hou et al., 2019).
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_outputs: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        *,
        width: Positive = 16,
        signed: bool = False,
    ) -> None:
        layers: list[nn.Module] = [*_convolution(image_shape[0], width, 3), nn.ReLU()]
        for n, m in pairwise([width, width, 2 * width, 4 * width]):
            layers += _block(n, m, 1) if n == m else _block(n, m, 2, Subsampled(m - n))
            for _ in range(4):
                layers += _block(m, m, 1)
        layers = [*(layers[:-1] if signed else layers), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        super().__init__(layers, 4 * width, n_outputs, mean, std)
        if width >= 8:
            self.to(memory_format=torch.channels_last)


def _convolution(n: int, m: int, size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(n, m, size, stride, padding=size // 2, bias=False), nn.BatchNorm2d(m))


def _stage(n: int, m: int, stride: int) -> nn.Sequential:
    """Two blocks; the first changes n channels to m."""
    return nn.Sequential(*_block(n, m, stride), *_block(m, m, 1))


def _block(n: int, m: int, stride: int, shortcut: nn.Module | None = None) -> nn.Sequential:
    """A block and its ReLU. shortcut: None: the identity, or a 1x1 convolution if the shape changes."""
    if shortcut is None:
        shortcut = nn.Identity() if n == m and stride == 1 else _convolution(n, m, 1, stride)
    branch = nn.Sequential(*_convolution(n, m, 3, stride), nn.ReLU(), *_convolution(m, m, 3))
    return nn.Sequential(Residual(shortcut, branch), nn.ReLU())

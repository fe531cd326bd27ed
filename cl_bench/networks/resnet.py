"""ResNet-18 for small images (He et al., 2016), the classifier of most published numbers on CIFAR."""

from __future__ import annotations

from collections.abc import Sequence

import torch
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


class ResNet18(Network):
    """A 3x3 convolution that keeps the side, eight residual blocks in four stages, the mean over positions, a head.

    All but the first stage halve the side and double the channels. Its weights lie with channels last in memory, which
    is how convolutions are fastest; no number depends on it but by rounding. A network narrower than 8 channels keeps
    them first: on some CPUs the backward pass of torch dies there.

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


def _convolution(n: int, m: int, size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(n, m, size, stride, padding=size // 2, bias=False), nn.BatchNorm2d(m))


def _stage(n: int, m: int, stride: int) -> nn.Sequential:
    """Two blocks; the first takes n channels to m."""
    return nn.Sequential(*_block(n, m, stride), *_block(m, m, 1))


def _block(n: int, m: int, stride: int) -> nn.Sequential:
    shortcut = nn.Identity() if n == m and stride == 1 else _convolution(n, m, 1, stride)
    branch = nn.Sequential(*_convolution(n, m, 3, stride), nn.ReLU(), *_convolution(m, m, 3))
    return nn.Sequential(Residual(shortcut, branch), nn.ReLU())

"""The residual networks of WGAN-GP on CIFAR-10 (Gulrajani et al., 2017, appendix): a generator and its critic."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from cl_bench.config import InputError, Positive
from cl_bench.networks.base import Network
from cl_bench.networks.gan import ConditionalGenerator, halvings
from cl_bench.networks.resnet import Residual


class ConditionalResNetGenerator(ConditionalGenerator):
    """A linear layer to 4x4 (up to 7x7), then residual blocks that double the side, and a convolution to the colors.

    It has layer normalization instead of the paper's batch normalization with weights for each class. The class is only
    in the input, with the noise.

    Args:
        image_shape: (C, H, W), H = W = 4, 5, 6 or 7, doubled one or several times.
        n_outputs: number of classes.
        z_dim: noise dimensions.
        width: channels of every layer; more channels draw better images and take longer.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], n_outputs: int, *, z_dim: Positive = 128, width: Positive = 128
    ) -> None:
        size, times = halvings(image_shape)
        layers = nn.Sequential(
            nn.Linear(z_dim + n_outputs, width * size * size),
            nn.Unflatten(1, (width, size, size)),
            *(_doubling(width) for _ in range(times)),
            nn.GroupNorm(1, width),
            nn.ReLU(),
            _convolution(width, image_shape[0]),
            nn.Sigmoid(),
        )
        super().__init__(n_outputs, z_dim, layers)


class ResNetNetwork(Network):
    """Two residual blocks that halve the side, two that keep it, the mean over positions and a linear head.

    It has no normalization layers, so that it can be a critic with a gradient penalty.

    Args:
        image_shape: (C, H, W), H and W at least 4.
        n_outputs, mean, std: see `Network`.
        width: channels of every layer.

    Raises InputError for smaller images.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_outputs: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        *,
        width: Positive = 128,
    ) -> None:
        side = min(image_shape[1:])
        if side < 4:
            raise InputError(f"dataset.size={side}: network=resnet_gan halves the side twice; choose 4 or more")
        features = [
            _halving(image_shape[0], width),
            _halving(width, width, nn.ReLU()),
            _level(width),
            _level(width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        ]
        super().__init__(features, width, n_outputs, mean, std)


def _convolution(n: int, m: int) -> nn.Conv2d:
    return nn.Conv2d(n, m, 3, padding=1)


def _doubling(n: int) -> Residual:
    branch = nn.Sequential(
        nn.GroupNorm(1, n),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        _convolution(n, n),
        nn.GroupNorm(1, n),
        nn.ReLU(),
        _convolution(n, n),
    )
    # a 1x1 convolution before the up-sampling has the same result as after it, for a quarter of the cost
    return Residual(nn.Sequential(nn.Conv2d(n, n, 1), nn.Upsample(scale_factor=2)), branch)


def _halving(n: int, m: int, *before: nn.Module) -> Residual:
    """before: layers before the first convolution; none if the input is the image."""
    branch = nn.Sequential(*before, _convolution(n, m), nn.ReLU(), _convolution(m, m), nn.AvgPool2d(2))
    return Residual(nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(n, m, 1)), branch)


def _level(n: int) -> Residual:
    return Residual(nn.Identity(), nn.Sequential(nn.ReLU(), _convolution(n, n), nn.ReLU(), _convolution(n, n)))

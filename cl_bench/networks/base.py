"""The base class of every classifier network: features of an image, and one linear head over all outputs."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Network(nn.Module):
    """head(features(x)).

    Args:
        features: layers from images (B, C, H, W) to (B, width), applied one after another.
        width: the number of features.
        n_outputs: the number of logits.
        mean, std: of each channel, for pixels in [0, 1]. Then the features begin with `Normalize`, so that no method
            can forget the normalization. None: no normalization.
    """

    def __init__(
        self,
        features: Iterable[nn.Module],
        width: int,
        n_outputs: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        first = [Normalize(mean, std)] if mean is not None and std is not None else []
        self.features = nn.Sequential(*first, *features)
        self.head = nn.Linear(width, n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, n_outputs) for images in [0, 1], shape (B, C, H, W)."""
        return self.head(self.features(x))

    def with_head(self, head: nn.Linear) -> Self:
        """This network with another head on the same features, for methods whose paper has another head."""
        self.head = head
        return self

    def fresh(self) -> Self:
        """Another network of the same shape, with its own random weights."""
        network = copy.deepcopy(self)
        reset_parameters(network)
        return network


class Normalize(nn.Module):
    """(x - mean) / std, for each channel. Mean and std belong to the data set, so they are not in a network's state.

    >>> Normalize([0.5], [0.25])(torch.ones(1, 1, 1, 1)).item()
    2.0
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """All batch normalization layers of a module."""
    return [part for part in module.modules() if isinstance(part, _BatchNorm)]


def reset_parameters(module: nn.Module) -> None:
    """Gives every part of a module that has `reset_parameters` new random weights."""
    for part in module.modules():
        reset = getattr(part, "reset_parameters", None)
        if part is not module and reset is not None:
            reset()

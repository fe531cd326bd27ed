"""What every classifier network is: features of an image, and one linear head over all outputs."""

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
        width: what the features give, and the head takes.
        n_outputs: logits of the head.
        mean, std: of each channel, on the [0, 1] scale. The features then begin with `Normalize`, so that every user of
            a network sees the same pixels. None leaves them as they are.
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
        """This network with another head over the same features, for methods whose paper asks for one."""
        self.head = head
        return self

    def fresh(self) -> Self:
        """Another network of the same shape, with random weights of its own."""
        network = copy.deepcopy(self)
        reset_parameters(network)
        return network


class Normalize(nn.Module):
    """(x - mean) / std, for each channel; what follows from the data set is no part of a network's state."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """Every part that normalizes by the statistics of mini-batches."""
    return [part for part in module.modules() if isinstance(part, _BatchNorm)]


def reset_parameters(module: nn.Module) -> None:
    """Fresh random weights for every part of a module."""
    for part in module.modules():
        reset = getattr(part, "reset_parameters", None)
        if part is not module and reset is not None:
            reset()

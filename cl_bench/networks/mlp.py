"""A multi-layer perceptron. Most published continual-learning numbers on MNIST use it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from cl_bench.config import Positive
from cl_bench.networks.base import Network


class MLP(Network):
    """Linear layers with ReLU between them, on flattened images.

    Args:
        image_shape: (C, H, W).
        n_outputs, mean, std: see `Network`.
        hidden: units of each hidden layer.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_outputs: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        *,
        hidden: Sequence[Positive],
    ) -> None:
        widths = [math.prod(image_shape), *hidden]
        layers = [layer for n, m in pairwise(widths) for layer in (nn.Linear(n, m), nn.ReLU())]
        super().__init__([nn.Flatten(), *layers], widths[-1], n_outputs, mean, std)

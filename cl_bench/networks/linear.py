"""A network without hidden layers: logistic regression on pixels, or a linear probe of features."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from cl_bench.networks.base import Network


class Linear(Network):
    """One linear layer, the head, on flattened images.

    Args:
        image_shape: (C, H, W).
        n_outputs, mean, std: see `Network`.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_outputs: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__([nn.Flatten()], math.prod(image_shape), n_outputs, mean, std)

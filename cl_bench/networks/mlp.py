"""A multi-layer perceptron, the classifier of most published continual-learning numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from cl_bench.config import Positive


class MLP(nn.Module):
    """Linear layers with ReLU between them, on flattened images.

    image_shape: (C, H, W). n_outputs: logits. hidden: width of each hidden layer; wider remembers more.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], n_outputs: int, *, hidden: Sequence[Positive] = (400, 400)
    ) -> None:
        super().__init__()
        widths = [math.prod(image_shape), *hidden]
        layers = [layer for n, m in pairwise(widths) for layer in (nn.Linear(n, m), nn.ReLU())]
        self.features = nn.Sequential(nn.Flatten(), *layers)
        self.head = nn.Linear(widths[-1], n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

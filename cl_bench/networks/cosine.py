"""A cosine head: its logits do not depend on the lengths of features and class vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CosineHead(nn.Linear):
    """scale cos(features, w_c) for each output c, without biases (Hou et al., 2019, equation 4).

    Args:
        width: number of features.
        n_outputs: number of class vectors.

    scale: eta, learned; it starts at 1.

    >>> head = CosineHead(2, 1)
    >>> _ = head.weight.data.copy_(torch.tensor([[3.0, 0.0]]))
    >>> head(torch.tensor([[5.0, 0.0], [0.0, 5.0]])).tolist()
    [[1.0], [0.0]]
    """

    scale: nn.Parameter

    def __init__(self, width: int, n_outputs: int) -> None:
        super().__init__(width, n_outputs, bias=False)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.scale = nn.Parameter(torch.ones(()))

    def cosines(self, features: Tensor) -> Tensor:
        """The cosines (B, n_outputs) in [-1, 1], for features (B, width)."""
        return F.linear(F.normalize(features), F.normalize(self.weight))

    def forward(self, input: Tensor) -> Tensor:
        return self.scale * self.cosines(input)

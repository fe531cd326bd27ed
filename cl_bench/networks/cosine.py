"""A head that compares directions: its logits don't depend on the lengths of features and class vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CosineHead(nn.Linear):
    """scale cos(features, w_c) for each output c, without biases (Hou et al., 2019, equation 4).

    Args:
        width: of the features.
        n_outputs: class vectors.

    scale: eta, learned, 1 at first.
    """

    scale: nn.Parameter

    def __init__(self, width: int, n_outputs: int) -> None:
        super().__init__(width, n_outputs, bias=False)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.scale = nn.Parameter(torch.ones(()))

    def cosines(self, features: Tensor) -> Tensor:
        """(B, n_outputs), each in [-1, 1], for features (B, width)."""
        return F.linear(F.normalize(features), F.normalize(self.weight))

    def forward(self, input: Tensor) -> Tensor:
        return self.scale * self.cosines(input)

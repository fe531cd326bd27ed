"""Proximal maps of penalties: prox(v) = argmin_w step * penalty(w) + 1/2 |w - v|^2, in place.

A step of the optimizer on the loss without the penalty, followed by the map, is a step of proximal gradient descent
(Parikh and Boyd, 2014). With a penalty such as |w| it makes weights exactly 0; the gradient of the penalty does not.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def soft_threshold(weights: Tensor, amount: float) -> None:
    """The map for the penalty |w| of each weight: sign(w) max(|w| - amount, 0). amount: step size times strength, at
    least 0.

    >>> w = torch.tensor([-3.0, 0.5, 2.0])
    >>> soft_threshold(w, 1.0)
    >>> w.tolist()
    [-2.0, 0.0, 1.0]
    """
    weights.copy_(F.softshrink(weights, min(amount, torch.finfo(weights.dtype).max)))  # torch refuses more


@torch.no_grad()
def shrink_rows(weights: Tensor, amount: float) -> None:
    """The map for the penalty |r| of each row r of a matrix (group lasso): r max(1 - amount / |r|, 0).

    >>> w = torch.tensor([[3.0, 4.0], [0.6, 0.8]])
    >>> shrink_rows(w, 2.5)
    >>> w.tolist()
    [[1.5, 2.0], [0.0, 0.0]]
    """
    norms = weights.norm(dim=1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    weights.mul_((1 - amount / norms).clamp(min=0))


@torch.no_grad()
def pull(weights: Tensor, old: Tensor, amount: float) -> None:
    """The map for the penalty (w - old)^2 of each weight: (w + 2 amount old) / (1 + 2 amount).

    >>> w = torch.tensor([3.0])
    >>> pull(w, torch.tensor([1.0]), 0.5)
    >>> w.tolist()
    [2.0]
    """
    weights.lerp_(old, 2 * amount / (1 + 2 * amount))

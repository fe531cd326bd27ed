"""Masks that a task learns with its network, and weights that later tasks must not change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Gate(torch.autograd.Function):
    """m = sigmoid(s e), a soft mask that becomes binary as s grows. In the backward pass its slope is `slope`
    sigmoid'(e).

    The true slope is s sigmoid'(s e). For large s it is 0 almost everywhere, and no mask would change any more (Serrà
    et al., 2018, section 2.5).
    """

    @staticmethod
    def forward(ctx: Any, embedding: Tensor, s: float, slope: float) -> Tensor:
        ctx.save_for_backward(embedding)
        ctx.slope = slope
        return torch.sigmoid(s * embedding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (embedding,) = ctx.saved_tensors
        sigmoid = torch.sigmoid(embedding)
        return gradient * ctx.slope * sigmoid * (1 - sigmoid), None, None


def gate(embedding: Tensor, s: float, slope: float) -> Tensor:
    """A mask in [0, 1] of the embedding's shape, see `Gate`. s: scale. slope: factor of sigmoid'(e) in the gradient.

    >>> gate(torch.tensor([-0.1, 0.0, 0.1]), s=100.0, slope=100.0).round(decimals=4).tolist()
    [0.0, 0.5, 1.0]
    """
    return Gate.apply(embedding, s, slope)


def annealed(s_max: float, along: float) -> float:
    """The scale s of masks (Serrà et al., 2018, equation 3). It grows linearly from 1 / s_max at the beginning (along =
    0) to s_max at the end (along = 1).

    >>> annealed(400.0, 0.0), annealed(400.0, 1.0)
    (0.0025, 400.0)
    """
    return 1 / s_max + (s_max - 1 / s_max) * along


class Frozen:
    """Entries of parameters that keep their current values.

    A gradient of 0 is not enough: momentum and weight decay change a weight without a gradient. So `restore` sets these
    entries back after a step of the optimizer.

    Args:
        parts: the entries of each parameter, bool, of a shape that broadcasts to the parameter's.

    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> frozen = Frozen({weight: torch.tensor([True, False])})
    >>> _ = weight.data.add_(1.0)
    >>> frozen.restore()
    >>> weight.tolist()
    [0.0, 1.0]
    """

    def __init__(self, parts: Mapping[Any, Tensor]) -> None:
        self.parts = [(p, part.to(p.dtype), p.detach().clone()) for p, part in parts.items() if part.any()]

    @torch.no_grad()
    def restore(self) -> None:
        for parameter, part, value in self.parts:
            parameter.lerp_(value, part)  # exact for weights 0 and 1; `where` with bool takes 25 times as long

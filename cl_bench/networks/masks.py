"""Masks that a task learns with its network, and the weights that no later task may move."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Gate(torch.autograd.Function):
    """m = sigmoid(s e), a mask between soft and binary, with the slope `slope` sigmoid'(e).

    The true slope s sigmoid'(s e) is 0 almost everywhere once s is large, and no mask would change any more. Hard
    attention puts sigmoid'(e) in its place (Serrà et al., 2018, section 2.5).
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
    """A mask in [0, 1] of the embedding's shape, see `Gate`.

    >>> gate(torch.tensor([-0.1, 0.0, 0.1]), s=100.0, slope=100.0).round(decimals=4).tolist()
    [0.0, 0.5, 1.0]
    """
    return Gate.apply(embedding, s, slope)


def annealed(s_max: float, along: float) -> float:
    """The scale s of masks: 1 / s_max at the beginning (along = 0), s_max at the end (along = 1) (equation 3 of Serrà
    et al., 2018).

    >>> annealed(400.0, 0.0), annealed(400.0, 1.0)
    (0.0025, 400.0)
    """
    return 1 / s_max + (s_max - 1 / s_max) * along


class Frozen:
    """Entries of parameters that stay what they are now.

    A zero gradient is not enough: momentum and weight decay move a weight without one. So `restore` undoes what an
    optimizer's step did to them.

    Args:
        parts: the entries of each parameter, bool, of a shape that broadcasts to the parameter's.
    """

    def __init__(self, parts: Mapping[Any, Tensor]) -> None:
        self.parts = [(p, part.to(p.dtype), p.detach().clone()) for p, part in parts.items() if part.any()]

    @torch.no_grad()
    def restore(self) -> None:
        for parameter, part, value in self.parts:
            parameter.lerp_(value, part)  # to an end, so exactly; `where` and a mask of bool take 25 times as long

"""The quadratic penalty on changes of old weights, which EWC, SI, MAS and RWalk share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class QuadraticPenalty(nn.Module):
    """sum_k sum_j W_kj (theta_j - theta*_kj)^2 over all anchors k, kept as one quadratic function.

    With S = sum_k W_k and m = sum_k W_k theta*_k / S it equals sum_j S_j (theta_j - m_j)^2 + constant. So value and
    gradient cost the same for one anchor and for a hundred.

    Args:
        parameters: by name. At first the penalty is 0.

    >>> penalty = QuadraticPenalty({"w": torch.zeros(1)})
    >>> penalty.add({"w": torch.tensor([0.0])}, {"w": torch.ones(1)})
    >>> penalty.add({"w": torch.tensor([2.0])}, {"w": torch.ones(1)})
    >>> penalty({"w": torch.ones(1)}).item()
    2.0
    """

    constant: Tensor

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names = list(parameters)
        self.weight = nn.ParameterList(nn.Parameter(torch.zeros_like(p), False) for p in parameters.values())
        self.anchor = nn.ParameterList(nn.Parameter(p.detach().clone(), False) for p in parameters.values())
        self.register_buffer("constant", torch.zeros(()))

    def forward(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The value at these parameters, a scalar, without a strength."""
        now = [parameters[name] for name in self.names]
        return _Quadratic.apply(list(self.weight), list(self.anchor), *now) + self.constant

    @torch.no_grad()
    def added_to(
        self, gradient: Sequence[Tensor], parameters: Mapping[str, Tensor], strength: float
    ) -> Sequence[Tensor]:
        """gradient + 2 strength S (theta - m), a tensor per parameter. It needs no value and no graph."""
        distance = torch._foreach_sub([parameters[name] for name in self.names], list(self.anchor))  # pyright: ignore
        return torch._foreach_addcmul(gradient, list(self.weight), distance, value=2 * strength)  # pyright: ignore

    @torch.no_grad()
    def add(self, parameters: Mapping[str, Tensor], weight: Mapping[str, Tensor]) -> None:
        """Adds an anchor at these parameters. weight: W_k by name, at least 0, in the shapes of the parameters."""
        for name, total, anchor in zip(self.names, self.weight, self.anchor, strict=True):
            old, new = total.clone(), weight[name]
            total += new
            share = torch.where(total > 0, new / total, 0.0)
            gap = parameters[name] - anchor
            self.constant += (old * share * gap.square()).sum()  # the sum of two parabolas has this minimum
            anchor += share * gap

    @torch.no_grad()
    def replace(self, parameters: Mapping[str, Tensor], weight: Mapping[str, Tensor], decay: float = 1.0) -> None:
        """Sets a single anchor at these parameters, with S = decay S + weight."""
        for name, total, anchor in zip(self.names, self.weight, self.anchor, strict=True):
            total.mul_(decay).add_(weight[name])
            anchor.copy_(parameters[name])


class _Quadratic(torch.autograd.Function):
    """The value. Its gradient 2 S (theta - m) costs only one more product."""

    @staticmethod
    def forward(ctx: Any, weight: list[Tensor], anchor: list[Tensor], *now: Tensor) -> Tensor:
        # foreach: one call for all tensors, 4% of a step of a small network
        distance = torch._foreach_sub(now, anchor)  # pyright: ignore
        slope = torch._foreach_mul(distance, weight)  # pyright: ignore
        ctx.save_for_backward(*slope)
        return torch.stack([torch.dot(a.flatten(), b.flatten()) for a, b in zip(distance, slope, strict=True)]).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *torch._foreach_mul(ctx.saved_tensors, 2 * gradient)  # pyright: ignore

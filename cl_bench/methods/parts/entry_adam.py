"""Adam that can restart for some entries of a weight, while it continues for the others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


class EntryAdam(torch.optim.Optimizer):
    """Adam (Kingma and Ba, 2015, algorithm 1), with a separate bias correction for each entry of a weight.

    Moments start at 0, so Adam divides them by 1 - beta^n after n steps. This is the running mean of n ones. Here it is
    kept for each entry. If the whole state of an entry is set to 0, the entry restarts as at the first step. torch
    counts the steps of a whole tensor. There a moment that is set to 0 would get the correction of an old moment.

    Args:
        parameters: to train.
        lr: step size.
        betas: decay of the two moments, in [0, 1).
        weight_decay: L2 factor.
        decoupled: True: weight decay does not enter the moments, as in AdamW (Loshchilov and Hutter, 2019).
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        decoupled: bool = False,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "eps": 1e-8})
        self.decoupled = decoupled

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One step for all parameters that have a gradient."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            gradients = [p.grad for p in parameters]
            if group["weight_decay"] and self.decoupled:
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])  # pyright: ignore
            elif group["weight_decay"]:
                gradients = torch._foreach_add(gradients, parameters, alpha=group["weight_decay"])  # pyright: ignore
            for p in parameters:
                if not self.state[p]:
                    self.state[p] = {name: torch.zeros_like(p) for name in ("m", "v", "ones_m", "ones_v")}
            m, v, ones_m, ones_v = (
                [self.state[p][name] for p in parameters] for name in ("m", "v", "ones_m", "ones_v")
            )
            first, second = group["betas"]
            torch._foreach_lerp_(m, gradients, 1 - first)  # pyright: ignore
            torch._foreach_mul_(v, second)  # pyright: ignore
            torch._foreach_addcmul_(v, gradients, gradients, 1 - second)  # pyright: ignore
            for ones, beta in ((ones_m, first), (ones_v, second)):
                torch._foreach_mul_(ones, beta)  # pyright: ignore
                torch._foreach_add_(ones, 1 - beta)  # pyright: ignore
            scale = torch._foreach_div(v, ones_v)  # pyright: ignore
            torch._foreach_sqrt_(scale)  # pyright: ignore
            torch._foreach_add_(scale, group["eps"])  # pyright: ignore
            torch._foreach_addcdiv_(parameters, torch._foreach_div(m, ones_m), scale, -group["lr"])  # pyright: ignore

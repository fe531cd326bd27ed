"""Optimisers as values: their settings now, the parameters they step later.

Adam is fused: one kernel goes through memory once, and a step of a small network takes a quarter of the time. That
kernel takes a gradient to lie in memory as its parameter does, which `backward` sees to; who sets `grad` must too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from cl_bench.config import Decay, NonNegative, Rate


@runtime_checkable
class Optimizer(Protocol):
    """Anything that makes a torch optimiser for given parameters."""

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer: ...


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba, 2015). lr: step size; betas: decay of the two moments; weight_decay: L2 factor."""

    lr: Rate = 1e-3
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    weight_decay: NonNegative = 0.0

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay, fused=True)


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent. lr: step size; momentum: share of the last step kept; weight_decay: L2 factor."""

    lr: Rate = 0.1
    momentum: Decay = 0.0
    weight_decay: NonNegative = 0.0

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)

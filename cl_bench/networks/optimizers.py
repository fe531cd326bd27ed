"""Optimizers as values: their settings now, the parameters they step later.

Adam is fused: one kernel goes through memory once, and a step of a small network takes a quarter of the time. That
kernel reads a gradient by the memory layout of its parameter. `backward` lays gradients so, but a method may set
`grad` itself, so every optimizer made here corrects the layout first.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, runtime_checkable

import torch
from annotated_types import Ge, Lt
from torch import nn

from cl_bench.config import Decay, NonNegative, Rate

Along = Annotated[float, Ge(0), Lt(1)]


@runtime_checkable
class Optimizer(Protocol):
    """Anything that makes a torch optimizer for given parameters."""

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer: ...


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba, 2015).

    Args:
        lr: step size.
        betas: decay of the two moments.
        weight_decay: L2 factor.
        keep_state: whether its moments go on from one phase of a classifier to the next; otherwise they start anew.
    """

    lr: Rate
    betas: tuple[Decay, Decay]
    weight_decay: NonNegative = 0.0
    keep_state: bool = False

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        betas, decay = self.betas, self.weight_decay
        return laid_out(torch.optim.Adam(parameters, lr=self.lr, betas=betas, weight_decay=decay, fused=True))


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent.

    Args:
        lr: step size.
        momentum: share of the last step that is kept.
        weight_decay: L2 factor.
        keep_state: see `Adam`.
        milestones: shares of a phase's steps, in [0, 1), after each of which the step size is multiplied by `gamma`:
            (0.5, 0.75) are epochs 80 and 120 of 160.
        gamma: the factor.
    """

    lr: Rate = 0.1
    momentum: Decay = 0.0
    weight_decay: NonNegative = 0.0
    keep_state: bool = False
    milestones: tuple[Along, ...] = ()
    gamma: Rate = 0.1

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        momentum, decay = self.momentum, self.weight_decay
        optimizer = torch.optim.SGD(parameters, lr=self.lr, momentum=momentum, weight_decay=decay)
        if self.milestones:
            for group in optimizer.param_groups:
                group |= {"initial_lr": self.lr, "milestones": self.milestones, "gamma": self.gamma}
        return laid_out(optimizer)


def follow_milestones(optimizer: torch.optim.Optimizer, along: float) -> None:
    """Sets the step sizes that hold at this moment of a phase; what it sets follows from the moment alone, so a phase
    that goes on after a kill needs no state of it.

    Args:
        along: share of the phase's steps that are done, in [0, 1).

    >>> optimizer = SGD(lr=1.0, milestones=(0.5, 0.75))([nn.Parameter(torch.zeros(1))])
    >>> for along in (0.0, 0.5, 0.9):
    ...     follow_milestones(optimizer, along)
    ...     print(round(optimizer.param_groups[0]["lr"], 4))
    1.0
    0.1
    0.01
    """
    for group in optimizer.param_groups:
        if milestones := group.get("milestones"):
            group["lr"] = group["initial_lr"] * group["gamma"] ** sum(along >= share for share in milestones)


@dataclass(frozen=True)
class RMSprop:
    """RMSprop (Tieleman and Hinton, 2012).

    Args:
        lr: step size.
        alpha: decay of the mean square of the gradient.
        momentum: share of the last step that is kept.
        weight_decay: L2 factor.
        keep_state: see `Adam`.
    """

    lr: Rate
    alpha: Decay
    momentum: Decay
    weight_decay: NonNegative
    keep_state: bool

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        alpha, momentum, decay = self.alpha, self.momentum, self.weight_decay
        return laid_out(torch.optim.RMSprop(parameters, lr=self.lr, alpha=alpha, momentum=momentum, weight_decay=decay))


class KeptState(nn.Module):
    """The state of an optimizer that goes on from one phase to the next, a part of the learner's state.

    It is on the device of the parameters and as large as they are (SGD with momentum, RMSprop) or twice as large
    (Adam).
    """

    def __init__(self) -> None:
        super().__init__()
        self.state: dict[str, Any] = {}
        self.optimizer: torch.optim.Optimizer | None = None

    def handed_to(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """The optimizer with the state that the last one ended with; from now on its own state is kept."""
        state = self.get_extra_state()
        if state:
            optimizer.load_state_dict(state)
        self.optimizer = optimizer
        return optimizer

    def get_extra_state(self) -> dict[str, Any]:
        return copy.deepcopy(self.optimizer.state_dict() if self.optimizer else self.state)

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.state, self.optimizer = state, None


def laid_out(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer, which from now on gives each gradient the memory layout of its parameter before a step."""
    optimizer.register_step_pre_hook(_lay_out_gradients)
    return optimizer


def _lay_out_gradients(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None and p.grad.stride() != p.stride():
                p.grad = torch.empty_like(p).copy_(p.grad)

"""Optimizers as values: their settings now, the parameters they step later.

Adam is fused: one kernel goes through memory once, and a step of a small network takes a quarter of the time. That
kernel reads a gradient by the memory layout of its parameter. `backward` lays gradients so, but a method may set
`grad` itself, so every optimizer made here corrects the layout first.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from cl_bench.config import Decay, InputError, NonNegative, Rate


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
class AdamW:
    """Adam whose weight decay takes no part in its moments (Loshchilov and Hutter, 2019).

    Args:
        lr: step size.
        betas: decay of the two moments.
        weight_decay: each step takes lr times so much of a weight away.
        keep_state: see `Adam`.
    """

    lr: Rate
    betas: tuple[Decay, Decay]
    weight_decay: NonNegative
    keep_state: bool

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        betas, decay = self.betas, self.weight_decay
        return laid_out(torch.optim.AdamW(parameters, lr=self.lr, betas=betas, weight_decay=decay, fused=True))


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent.

    Args:
        lr: step size.
        momentum: share of the last step that is kept.
        weight_decay: L2 factor.
        keep_state: see `Adam`.
        nesterov: whether the momentum looks ahead (Nesterov, 1983).

    Raises InputError for Nesterov's without momentum.
    """

    lr: Rate = 0.1
    momentum: Decay = 0.0
    weight_decay: NonNegative = 0.0
    keep_state: bool = False
    nesterov: bool = False

    def __post_init__(self) -> None:
        if self.nesterov and not self.momentum:
            raise InputError("optimizer.nesterov=true: needs momentum; set e.g. optimizer.momentum=0.9")

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        how = {"momentum": self.momentum, "weight_decay": self.weight_decay, "nesterov": self.nesterov}
        return laid_out(torch.optim.SGD(parameters, lr=self.lr, **how))


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
        self.state = state
        if state and self.optimizer:  # it may be at work, and what it does next is to be kept
            self.optimizer.load_state_dict(state)
        else:
            self.optimizer = None


def laid_out(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer, which from now on gives each gradient the memory layout of its parameter before a step."""
    optimizer.register_step_pre_hook(_lay_out_gradients)
    return optimizer


def _lay_out_gradients(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None and p.grad.stride() != p.stride():
                p.grad = torch.empty_like(p).copy_(p.grad)


def clip_gradients(optimizer: torch.optim.Optimizer, norm: float) -> None:
    """Scales the gradients that the optimizer finds down to this norm, taken as one vector, where theirs is larger.

    They are other tensors afterwards: a method may still need those that it set.
    """
    learned = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    for p, gradient in zip(learned, clipped([p.grad for p in learned], norm), strict=True):
        p.grad = gradient


def clipped(gradients: Sequence[Tensor], norm: float) -> list[Tensor]:
    """The gradients, scaled down where their norm, taken as one vector, is larger.

    >>> clipped([torch.tensor([3.0]), torch.tensor([4.0])], 1.0)
    [tensor([0.6000]), tensor([0.8000])]
    """
    scale = (norm / (nn.utils.get_total_norm(gradients) + 1e-6)).clamp(max=1)  # as torch clips
    return [gradient * scale for gradient in gradients]

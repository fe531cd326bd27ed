"""Settings of optimizers. A call with parameters makes the torch optimizer.

Adam is fused: one kernel for all operations, so a step of a small network takes a quarter of the time. This kernel
expects gradients with the memory layout of their parameters. `backward` makes such gradients, but a method may set
`grad` itself. So every optimizer made here corrects the layout first.
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
        keep_state: True: the next phase of a classifier continues with the moments; False: it starts with new ones.
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
    """Adam with decoupled weight decay, which does not enter the moments (Loshchilov and Hutter, 2019).

    Args:
        lr: step size.
        betas: decay of the two moments.
        weight_decay: each step multiplies weights by 1 - lr * weight_decay.
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
        momentum: factor of the last step that is added.
        weight_decay: L2 factor.
        keep_state: see `Adam`.
        nesterov: whether to use the momentum of Nesterov (1983).

    Raises InputError for `nesterov` without momentum.
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
        momentum: factor of the last step that is added.
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
    """The state of an optimizer that is kept between phases, as a part of the learner's state.

    It is on the device of the parameters. It is as large as they are (SGD with momentum, RMSprop) or twice as large
    (Adam).
    """

    def __init__(self) -> None:
        super().__init__()
        self.state: dict[str, Any] = {}
        self.optimizer: torch.optim.Optimizer | None = None

    def handed_to(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """The optimizer, with the last state of the optimizer before it. From now on its state is kept."""
        state = self.get_extra_state()
        if state:
            optimizer.load_state_dict(state)
        self.optimizer = optimizer
        return optimizer

    def get_extra_state(self) -> dict[str, Any]:
        return copy.deepcopy(self.optimizer.state_dict() if self.optimizer else self.state)

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.state = state
        if state and self.optimizer:  # it may be in use, and its later steps must be kept too
            self.optimizer.load_state_dict(state)
        else:
            self.optimizer = None


def laid_out(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer. Before each step, gradients get the memory layout of their parameters from now on."""
    optimizer.register_step_pre_hook(_lay_out_gradients)
    return optimizer


def _lay_out_gradients(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None and p.grad.stride() != p.stride():
                p.grad = torch.empty_like(p).copy_(p.grad)


def clip_gradients(optimizer: torch.optim.Optimizer, norm: float) -> None:
    """Scales the gradients of the optimizer's parameters down to this norm, see `clipped`.

    `grad` gets new tensors, because a method may still need the tensors that it set.
    """
    learned = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    for p, gradient in zip(learned, clipped([p.grad for p in learned], norm), strict=True):
        p.grad = gradient


def clipped(gradients: Sequence[Tensor], norm: float) -> list[Tensor]:
    """The gradients, scaled down to this norm if their norm, as one vector, is larger.

    >>> clipped([torch.tensor([3.0]), torch.tensor([4.0])], 1.0)
    [tensor([0.6000]), tensor([0.8000])]
    """
    scale = (norm / (nn.utils.get_total_norm(gradients) + 1e-6)).clamp(max=1)  # as torch clips
    return [gradient * scale for gradient in gradients]

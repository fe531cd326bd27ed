"""Three terms at once: the task, distillation from the old network, and weights near the solutions of all tasks."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from cl_bench.config import NonNegative, Rate, Share
from cl_bench.data.batches import Batch
from cl_bench.data.problem import Problem, Task
from cl_bench.methods.base import Fit
from cl_bench.methods.lwf import LwF, Teacher
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer


class MetaRegularized(LwF):
    """Objective at task t > 1: cross-entropy + strength sum_k KD(q_k, p_k) + (pull / 2) |theta - theta_meta|^2.

    The second term is that of `LwF`. theta_meta are weights near the solutions of all tasks. They start as the initial
    weights. When task t ends, they become theta_meta + rate (theta_t - theta_meta), the rule of Reptile (Nichol et al.,
    2018). With rate 1 they are the weights at the end of the last task, and with rate 1/t the mean over all tasks. Rows
    of the head for new outputs have no penalty.

    This is our reading of a loss that surveys describe in words. No paper has this method.

    Args:
        strength: lambda_1, of the distillation; a higher value forgets less and learns less.
        temperature: T of the distillation.
        pull: lambda_2; a higher value keeps the weights of all tasks nearer to each other.
        rate: epsilon; a higher value follows the last task more. None: 1/t.
        start: the weights at which a task's training begins: those at the end of the last task (`previous`), or
            theta_meta (`meta`).
    """

    grows = False

    unread: ClassVar[dict[str, dict[str, Any]]] = {}

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        *,
        strength: NonNegative,
        temperature: Rate,
        pull: NonNegative,
        rate: Share | None,
        start: Literal["previous", "meta"],
    ) -> None:
        super().__init__(problem, network, optimizer, strength=strength, temperature=temperature)
        self.pull, self.rate = pull, rate
        self.start: Literal["previous", "meta"] = start
        self.meta = nn.ParameterList(nn.Parameter(p.detach().clone(), False) for p in self.weights.values())

    def learn(self, task: Task, fit: Fit) -> None:
        teacher = self.teacher() if task.index and self.strength else None
        if task.index and self.start == "meta":
            move(self.weights.values(), self.meta, 1.0)
        fit(self, task.train, phase="train", step=partial(self.train_step, teacher=teacher))
        move(self.meta, self.weights.values(), 1 / (task.index + 1) if self.rate is None else self.rate)

    def loss(self, batch: Batch, teacher: Teacher | None = None) -> Tensor:
        loss = super().loss(batch, teacher)
        if self.index > 0 and self.pull:
            loss = loss + self.pull / 2 * self.distance()
        return loss

    def distance(self) -> Tensor:
        """|theta - theta_meta|^2, without the rows of the head for new outputs."""
        old, squares = self.task_of_output < self.index, []
        for (name, weight), meta in zip(self.weights.items(), self.meta, strict=True):
            gap = weight - meta
            if name.startswith("head."):
                gap = gap * old.view(-1, *[1] * (gap.dim() - 1))
            squares.append(gap.square().sum())
        return torch.stack(squares).sum()


@torch.no_grad()
def move(these: Iterable[Tensor], towards: Iterable[Tensor], share: float) -> None:
    """Moves each tensor by a share of the way towards its target: tensor <- tensor + share (target - tensor).

    >>> weight = torch.zeros(1)
    >>> move([weight], [torch.ones(1)], share=0.25)
    >>> weight.item()
    0.25
    """
    for tensor, target in zip(these, towards, strict=True):
        tensor.lerp_(target, share)

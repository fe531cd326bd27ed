"""Riemannian walk (Chaudhry et al., 2018): EWC and the path integral, with distances in the network's answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn

from cl_bench.config import NonNegative, Positive, Rate, Share
from cl_bench.data.batches import Batch
from cl_bench.data.problem import Problem, Task
from cl_bench.methods.base import Fit
from cl_bench.methods.parts.importance import RunningFisher
from cl_bench.methods.si import SI
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer


class RWalk(SI):
    """Objective at task t: cross-entropy + strength sum_j (F_j + s_j) (theta_j - theta*_j)^2, theta* the weights that
    task t-1 left; F and s are each scaled to [0, 1] over all weights, so that both count.

    While a task is learned, every `interval` mini-batches:
    - F <- fisher_rate F_b + (1 - fisher_rate) F, a moving average over the tasks too ("EWC++"), with F_b the Fisher
      information at the labels given, the mean over the images b of the mini-batch;
    - s' grows by [w_j / (F_j D_j^2 / 2 + damping)]+, the loss that the weight has saved in the interval (`SI`'s w)
      by how far it has moved the network's answers, a KL divergence; D_j is its way, F as the interval found it.
    At the end of the task s is the mean of s and s' (s' itself for the first task), then s' = 0.

    The paper stores a few images per class besides ("RWalk-S"); this is RWalk without them.

    Args:
        strength: lambda; higher forgets less and learns less.
        damping: epsilon; higher brings s' nearer to w alone.
        fisher_rate: alpha.
        interval: delta t, in mini-batches.
    """

    needs_borders: ClassVar[bool] = True  # the score of a task joins those of the tasks before

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        *,
        strength: NonNegative = 1.0,
        damping: Rate = 1e-3,
        fisher_rate: Share = 0.9,
        interval: Positive = 10,
    ) -> None:
        super().__init__(problem, network, optimizer, strength=strength, damping=damping)
        self.interval = interval
        weights = self.weights.values()
        self.fisher = RunningFisher(weights, fisher_rate)
        self.score = nn.ParameterList(nn.Parameter(torch.zeros_like(p), False) for p in weights)
        self.task_score = nn.ParameterList(nn.Parameter(torch.zeros_like(p), False) for p in weights)
        self.start = nn.ParameterList(nn.Parameter(p.detach().clone(), False) for p in weights)

    def learn(self, task: Task, fit: Fit) -> None:
        fit(self, task.train, phase="train")
        self.end_interval()
        for score, new in zip(self.score, self.task_score, strict=True):
            score.lerp_(new, 0.5 if task.index else 1.0)
            new.zero_()
        self.penalty.replace(self.weights, self.importance(), decay=0.0)

    def train_step(self, batch: Batch, optimizers: torch.optim.Optimizer) -> dict[str, Tensor]:
        if self.step_index % self.interval == 0:
            self.end_interval()
            self.fisher.observe(self.network, batch, self.active)
        return super().train_step(batch, optimizers)

    @torch.no_grad()
    def end_interval(self) -> None:
        """Adds the last interval to the task's score, and begins another; without a step in between it adds 0."""
        kept = zip(self.weights.values(), self.start, self.path, self.fisher, self.task_score, strict=True)
        for weight, start, w, f, score in kept:
            score += (w / (f / 2 * (weight - start).square() + self.damping)).relu()
            start.copy_(weight)
            w.zero_()

    def importance(self) -> dict[str, Tensor]:
        """F + s, each in [0, 1], for every parameter of the network."""
        terms = zip(self.weights, scaled(self.fisher), scaled(self.score), strict=True)
        return {name: f + s for name, f, s in terms}


def scaled(values: Iterable[Tensor]) -> list[Tensor]:
    """Shifted and scaled so that the least of all is 0 and the largest 1; all 0 where none differs.

    >>> [value.tolist() for value in scaled([torch.tensor([1.0, 3.0]), torch.tensor([5.0])])]
    [[0.0, 0.5], [1.0]]
    """
    values = list(values)
    low, high = torch.stack([torch.stack(value.aminmax()) for value in values]).unbind(1)
    low, high = low.min(), high.max()
    return [(value - low) / (high - low).clamp(min=torch.finfo(low.dtype).tiny) for value in values]

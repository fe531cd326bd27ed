"""Riemannian walk (Chaudhry et al., 2018): online EWC and the path integral of SI in one penalty."""

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
    """Objective at task t: cross-entropy + strength sum_j (F_j + s_j) (theta_j - theta*_j)^2. theta* are the weights at
    the end of task t-1. F and s are each scaled to [0, 1] over all weights, so that both have an effect.

    While a task is learned, every `interval` mini-batches:

    - s' grows by [w_j / (F_j D_j^2 / 2 + damping)]+ for the last interval: how much the weight lowered the loss (w of
      `SI`), divided by how far its change D_j moved the predictions (a KL divergence). F is the F of that interval.
    - F <- fisher_rate F_b + (1 - fisher_rate) F, a moving average that continues over tasks ("EWC++"). F_b is the
      empirical Fisher information, with the true labels, a mean over the images of the mini-batch.

    At the end of the task s becomes the mean of s and s' (after the first task: s'), and s' becomes 0.

    The paper also keeps a few images per class ("RWalk-S"). This is RWalk without them.

    Args:
        strength: lambda; a higher value forgets less and learns less.
        damping: epsilon; with a higher value the distance counts less, and s' is nearer to w.
        fisher_rate: alpha, share of the newest mini-batch in F.
        interval: delta t, in mini-batches; a higher value is faster and less exact.
    """

    needs_borders: ClassVar[bool] = True  # the end of a task ends the average of its scores with older ones

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
        """Adds the score of the last interval to s' and starts a new interval. Without a step in between it adds 0."""
        kept = zip(self.weights.values(), self.start, self.path, self.fisher, self.task_score, strict=True)
        for weight, start, w, f, score in kept:
            score += (w / (f / 2 * (weight - start).square() + self.damping)).relu()
            start.copy_(weight)
            w.zero_()

    def importance(self) -> dict[str, Tensor]:
        """F + s, each in [0, 1], for every parameter, by name."""
        terms = zip(self.weights, scaled(self.fisher), scaled(self.score), strict=True)
        return {name: f + s for name, f, s in terms}


def scaled(values: Iterable[Tensor]) -> list[Tensor]:
    """The values, shifted and scaled so that the smallest number of all tensors is 0 and the largest is 1. If all
    numbers are equal, they become 0.

    >>> [value.tolist() for value in scaled([torch.tensor([1.0, 3.0]), torch.tensor([5.0])])]
    [[0.0, 0.5], [1.0]]
    """
    values = list(values)
    low, high = torch.stack([torch.stack(value.aminmax()) for value in values]).unbind(1)
    low, high = low.min(), high.max()
    return [(value - low) / (high - low).clamp(min=torch.finfo(low.dtype).tiny) for value in values]

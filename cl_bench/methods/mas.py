"""Memory aware synapses (Aljundi et al., 2018)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from cl_bench.config import NonNegative
from cl_bench.data.batches import Batch, Data
from cl_bench.data.problem import Problem, Task
from cl_bench.methods.base import Classifier, Fit
from cl_bench.methods.parts.importance import sum_of_powers
from cl_bench.methods.parts.quadratic import QuadraticPenalty
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer


class MAS(Classifier):
    """Objective at task t: cross-entropy + strength sum_j Omega_j (theta_j - theta*_j)^2. theta* are the weights at the
    end of task t-1.

    At the end of each task Omega grows by 1/N sum_n |d ||f(x_n)||^2 / d theta_j| over its N images (section 4.1): how
    much a change of the weight would change the logits. This needs no labels. f(x) are the logits of the outputs that
    take part in training. The absolute value is taken for each image. For the sum over a mini-batch it would be
    smaller, because gradients of different signs cancel.

    Args:
        strength: lambda; a higher value forgets less and learns less.
    """

    family = "regularization"
    grows = True

    def __init__(
        self, problem: Problem, network: Network, optimizer: Optimizer, *, strength: NonNegative = 1.0
    ) -> None:
        super().__init__(problem, network, optimizer)
        self.strength = strength
        self.penalty = QuadraticPenalty(self.weights)

    def learn(self, task: Task, fit: Fit) -> None:
        super().learn(task, fit)
        self.penalty.replace(self.weights, self.importance(task.train))

    def loss(self, batch: Batch) -> Tensor:
        loss = super().loss(batch)
        if self.index > 0:
            loss = loss + self.strength * self.penalty(self.weights)
        return loss

    def importance(self, data: Data) -> dict[str, Tensor]:
        """The increase of Omega when a task ends, for every parameter, by name."""
        total = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        for batch in data.batches(512):
            x, norms = batch.x, partial(self.norms, y=batch.y)
            for name, value in sum_of_powers(self.network, x, norms, power=1).items():
                total[name] += value
        return {name: value / len(data) for name, value in total.items()}

    def norms(self, logits: Tensor, y: Tensor) -> list[Tensor]:
        """||f(x)||^2 of each image (B,), over the outputs that take part in training for its label."""
        takes_part = self.active(logits, y) == logits  # masked outputs have the lowest number instead
        return [(logits * takes_part).square().sum(1)]

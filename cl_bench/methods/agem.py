"""Averaged gradient episodic memory (Chaudhry et al., 2019): no step raises the mean loss on old tasks."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from cl_bench.config import Positive
from cl_bench.data.batches import Batch
from cl_bench.data.problem import Problem, Task
from cl_bench.methods.base import Classifier, Fit
from cl_bench.methods.gem import follow, gradient
from cl_bench.methods.parts.memory import Budget, Memory, Reservoir
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer


class AGEM(Classifier):
    """Objective at each step: the cross-entropy on the mini-batch, with gradient g. If <g, r> < 0, g is replaced by g -
    (<g, r> / <r, r>) r: the nearest vector that does not raise the loss on memory (equation 11).

    r is the gradient of the mean loss on images drawn from the memories of all old tasks, new ones at every step. The
    memory of a task is drawn when the task ends. In a stream the memory is a reservoir of all images so far, so r
    represents all of them. The guarantee holds for plain SGD. Momentum and Adam make other steps.

    Args:
        memory: images kept; in total, the same number of each class. In a stream every image has the same probability,
            and the size is a total.
        n_replay: images from memory in each step.
    """

    family = "optimization"
    grows = True
    needs_borders: ClassVar[bool] = False

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        memory: Budget,
        *,
        n_replay: Positive = 256,
    ) -> None:
        super().__init__(problem, network, optimizer)
        self.memory = Reservoir(memory.places(problem), problem) if problem.online else Memory(memory, problem)
        self.n_replay = n_replay

    def learn(self, task: Task, fit: Fit) -> None:
        super().learn(task, fit)
        self.memory.after_task(task.train)

    def train_step(self, batch: Batch, optimizers: torch.optim.Optimizer) -> dict[str, Tensor]:
        parameters = list(self.network.parameters())
        loss = self.loss(batch)
        g = gradient(loss, parameters)
        if len(self.memory):
            r = gradient(self.loss(self.memory.sample(self.n_replay)), parameters)
            g = project(g, r)
        follow(g, parameters)
        optimizers.step()
        self.memory.after_step(batch)
        return {"loss": loss.detach()}


def project(g: Tensor, r: Tensor) -> Tensor:
    """The vector u nearest to g with <u, r> >= 0 (equation 11); all of shape (P,).

    >>> project(torch.tensor([1.0, -1.0]), torch.tensor([0.0, 2.0])).tolist()
    [1.0, 0.0]
    """
    overlap = torch.dot(g, r).clamp(max=0)  # 0 without a conflict; a branch would have to wait for the GPU
    return torch.addcmul(g, r, overlap / torch.dot(r, r).clamp(min=torch.finfo(r.dtype).tiny), value=-1)

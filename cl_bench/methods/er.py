"""Experience replay: images from a memory in every mini-batch (Chaudhry et al., 2019; Riemer et al., 2019)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from cl_bench.config import InputError, Positive
from cl_bench.data.batches import Batch
from cl_bench.data.problem import Problem, Task
from cl_bench.methods.base import Classifier, Fit
from cl_bench.methods.parts.memory import Budget, Memory, Reservoir
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer


class ER(Classifier):
    """Objective at each step: the mean cross-entropy on the mini-batch and images from memory together.

    Args:
        memory: images kept.
        selection: which images. `reservoir`: a random sample of all training images so far, including the current task,
            updated after each step and counted in total. `random`: drawn from a task when it ends; if counted in total,
            the same number of each class.
        n_replay: images from memory in each step; None: as many as the mini-batch has.
        weighting: `joint`, one mean over all images; `by_task`, (1/t) CE of the mini-batch + (1 - 1/t) CE of memory at
            task t, counted from 1 (van de Ven and Tolias, 2019), for a memory of only old tasks.
    """

    family = "rehearsal"
    grows = True
    needs_borders: ClassVar[bool] = False

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        memory: Budget,
        *,
        selection: Literal["reservoir", "random"] = "reservoir",
        n_replay: Positive | None = None,
        weighting: Literal["joint", "by_task"] = "joint",
    ) -> None:
        super().__init__(problem, network, optimizer)
        if weighting == "by_task" and selection == "reservoir":
            raise InputError(
                "method.weighting=by_task: needs a memory of only old tasks, and "
                "method.selection=reservoir also keeps the "
                "current task; set method.selection=random"
            )
        if problem.online and selection == "random":
            raise InputError(
                "method.selection=random: draws from a task when it ends, and with scenario.passes=online the end is "
                "not known; set method.selection=reservoir"
            )
        if memory.per != "total" and selection == "reservoir":
            raise InputError(
                f"memory.per={memory.per}: method.selection=reservoir has one total size; set "
                "method.selection=random or memory.per=total"
            )
        self.memory = (
            Reservoir(memory.places(problem), problem) if selection == "reservoir" else Memory(memory, problem)
        )
        self.n_replay, self.weighting = n_replay, weighting

    def learn(self, task: Task, fit: Fit) -> None:
        super().learn(task, fit)
        self.memory.after_task(task.train)

    def train_step(self, batch: Batch, optimizers: Any) -> dict[str, Tensor]:
        logs = super().train_step(batch, optimizers)
        self.memory.after_step(batch)
        return logs

    def loss(self, batch: Batch) -> Tensor:
        n = len(batch.y)
        if not len(self.memory):
            return super().loss(batch)
        old = self.memory.sample(self.n_replay or n)
        y = torch.cat([batch.y, old.y])
        losses = self.cross_entropy(self.active(self(torch.cat([batch.x, old.x])), y), y, reduction="none")
        if self.weighting == "joint":
            return losses.mean()
        r = 1 / (self.index + 1)
        return r * losses[:n].mean() + (1 - r) * losses[n:].mean()

"""Cumulative training: every image so far is kept and trained on again; the upper bound after each task."""

from __future__ import annotations

from typing import ClassVar

from cl_bench.data.problem import Problem, Task
from cl_bench.methods.base import Classifier, Fit
from cl_bench.methods.parts.memory import Memory
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer


class Cumulative(Classifier):
    """Objective at task t: the cross-entropy on the union of tasks 1 to t, from the weights at the end of task t-1.

    With epochs the cost grows with the square of the number of tasks. With iterations each task costs the same.
    """

    family = "reference"
    grows = True
    refused: ClassVar[dict[str, str]] = {
        "trainer.patience": "learns all tasks so far, and validation images are only of the current task",
    }

    def __init__(self, problem: Problem, network: Network, optimizer: Optimizer) -> None:
        super().__init__(problem, network, optimizer)
        self.memory = Memory(problem=problem)

    def learn(self, task: Task, fit: Fit) -> None:
        fit(self, self.memory.add(task.train), phase="train")

"""Separate training: every task is learned by its own network, without the other tasks."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from cl_bench.data.problem import Problem, Task
from cl_bench.methods.base import Classifier, Fit
from cl_bench.networks.base import Network, reset_parameters
from cl_bench.networks.growing import Growing
from cl_bench.networks.optimizers import Optimizer


class Separate(Growing, Classifier):
    """Objective at task t: the cross-entropy on task t, from new random weights.

    If the task is given, the network of each task answers, and nothing is forgotten. Otherwise it is not known which
    network must answer: only the newest network is kept and answers, and only the diagonal of the accuracy matrix is
    meaningful.
    """

    family = "reference"
    refused: ClassVar[dict[str, str]] = {
        "trainer.freeze_batch_norm": "starts with new weights in every task",
    }
    unread: ClassVar[dict[str, dict[str, Any]]] = {"optimizer.keep_state": {}}

    def __init__(self, problem: Problem, network: Network, optimizer: Optimizer) -> None:
        super().__init__(problem, network, optimizer)
        self.optimizer_state = None  # its state would belong to the weights of another task
        self.past = nn.ModuleList()

    def learn(self, task: Task, fit: Fit) -> None:
        if task.index > 0:
            if self.problem.kind == "task":
                self.past.append(copy.deepcopy(self.network))  # not frozen: its weights count as parameters
            reset_parameters(self.network)
        super().learn(task, fit)

    def forward(self, x: Tensor, index: int | None = None) -> Tensor:
        own = self.network if index is None or index >= len(self.past) else self.past[index]
        return own(x)

    @property
    def answer_bytes(self) -> int:
        return (1 + len(self.past)) * super().answer_bytes

    def new_part(self, name: str, index: int, state: Mapping[str, Tensor]) -> nn.Module:
        return copy.deepcopy(self.network)

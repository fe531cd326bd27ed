"""Joint training: one training on all tasks at once after the last task has come; the upper bound."""

from __future__ import annotations

from typing import Any, ClassVar

from cl_bench.data.problem import Task
from cl_bench.methods.base import Fit
from cl_bench.methods.cumulative import Cumulative


class Joint(Cumulative):
    """Objective: the cross-entropy on the union of all tasks, from random weights, with the steps of all tasks
    together.

    Only the last row of the accuracy matrix exists, so forgetting and transfer are not defined.
    """

    refused: ClassVar[dict[str, str]] = {
        "trainer.patience": "learns all tasks at once, and validation images are only of one task",
        "trainer.freeze_batch_norm": "learns all tasks at once",
    }

    unread: ClassVar[dict[str, dict[str, Any]]] = {"optimizer.keep_state": {}}

    @property
    def measurable(self) -> bool:
        return self.index == self.problem.n_tasks - 1

    def learn(self, task: Task, fit: Fit) -> None:
        data = self.memory.add(task.train)
        if self.measurable:
            fit(self, data, phase="train", times=self.problem.n_tasks)

"""The course of a training phase: its step sizes, and the decisions at the end of each pass over its images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch

from cl_bench.config import InputError
from cl_bench.methods.base import Learner
from cl_bench.networks.schedules import Schedule

Measure = Callable[[Learner], float | None]


class Course:
    """Sets the step sizes of a phase, and stops the phase when it does not improve any more.

    Args:
        module: the module that trains.
        steps: of the whole phase.
        per_pass: steps of one pass over the data, after which the module is measured.
        schedule: of the step sizes; None: those of the optimizers.
        patience: measurements without improvement before the phase ends; None: it does not end early. `best` is the
            whole state of the module at the best measurement (of equal ones, at the first).
        measure: the accuracy of the module on the task's validation images.
    """

    def __init__(
        self,
        module: Learner,
        steps: int,
        per_pass: int,
        schedule: Schedule | None,
        patience: int | None,
        measure: Measure,
    ) -> None:
        self.module, self.steps, self.per_pass = module, steps, per_pass
        self.schedule, self.patience, self.measure = schedule, patience, measure
        self.accuracies: list[float] = []  # after each pass
        self.losses: list[float] = []  # the mean of each pass
        self.total = torch.zeros((), dtype=torch.float64)  # of the losses in this pass
        self.best: dict[str, Any] | None = None
        self._by = schedule.goes_by if schedule else None
        self._reduced = 1.0
        self._optimizers: Sequence[torch.optim.Optimizer] = ()

    def begin(self, optimizers: Sequence[torch.optim.Optimizer], done: int) -> None:
        """The phase begins, or continues after this number of steps."""
        self._optimizers = optimizers
        for optimizer in optimizers if self.schedule else ():
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])
        self._reduce()
        self._set_rates(done)

    def after_step(self, done: int) -> bool:
        """Must be called after each step. Returns whether the phase ends with it."""
        if self._by == "train_loss":
            self._add_losses(done - 1)
        if done % self.per_pass == 0 or done == self.steps:
            self._after_pass(done)
        self._set_rates(done)
        return self.stopped

    @property
    def stopped(self) -> bool:
        """Whether there were `patience` measurements since the best one."""
        if self.patience is None or not self.accuracies:
            return False
        return len(self.accuracies) - 1 - self.accuracies.index(max(self.accuracies)) >= self.patience

    def state(self) -> dict[str, Any]:
        """Its state, for a phase that continues after a kill."""
        return {"accuracies": self.accuracies, "losses": self.losses, "total": self.total, "best": self.best}

    def restore(self, state: dict[str, Any]) -> None:
        self.accuracies, self.losses = list(state["accuracies"]), list(state["losses"])
        self.total, self.best = state["total"], state["best"]

    def _after_pass(self, done: int) -> None:
        if self.patience is not None or self._by == "val_accuracy":
            accuracy = self.measure(self.module)
            if accuracy is None:
                raise InputError("scheduler: needs validation images of each task, and this task has none")
            if self.patience is not None and accuracy > max(self.accuracies, default=-1.0):
                self.best = copy.deepcopy(self.module.state_dict())
            self.accuracies.append(accuracy)
        if self._by == "train_loss":
            self.losses.append(float(self.total) / ((done - 1) % self.per_pass + 1))
            self.total = torch.zeros_like(self.total)
        self._reduce()

    def _add_losses(self, step: int) -> None:
        found = [value for at, name, value in reversed(self.module.logs) if at == step and name == "loss"]
        if not found:
            raise InputError(
                f"scheduler.monitor=train_loss: {type(self.module).__name__} does not log 'loss'; set val_accuracy"
            )
        self.total = self.total.to(found[0].device) + found[0].double()

    def _reduce(self) -> None:
        if self.schedule and self._by:
            self._reduced = self.schedule.after(self.accuracies if self._by == "val_accuracy" else self.losses)

    def _set_rates(self, done: int) -> None:
        if self.schedule is None or done >= self.steps:
            return
        factor = self.schedule.at(done, self.steps) * self._reduced
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor

"""Elastic weight consolidation (Kirkpatrick et al., 2017; Schwarz et al., 2018; Huszár, 2018)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from cl_bench.config import InputError, NonNegative, Positive, Share
from cl_bench.data.batches import Batch, Data
from cl_bench.data.problem import Problem, Task
from cl_bench.methods.base import Classifier, Fit
from cl_bench.methods.parts.countdown import anchored, countdown
from cl_bench.methods.parts.importance import RunningFisher, fisher
from cl_bench.methods.parts.quadratic import QuadraticPenalty
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer


class EWC(Classifier):
    """Objective at task t: cross-entropy + (strength / 2) sum_{k<t} sum_j F_kj (theta_j - theta*_kj)^2 (Kirkpatrick et
    al., 2017, equation 3).

    theta*_k, the anchor of task k, are the weights at its end. F_k is the diagonal of the Fisher information there, a
    mean over the images of task k. The sum over k is kept as one quadratic function with the same gradient, so memory
    and time do not grow with the number of tasks.

    In a stream the end of a task is not known. There F is a moving average over mini-batches ("EWC++", Chaudhry et al.,
    2018). Every `consolidate_every` mini-batches the current weights become the only anchor, with this F.

    Args:
        strength: lambda; a higher value forgets less and learns less.
        online: True: one anchor, the latest weights, with F = decay F + F_k (Schwarz et al., 2018). False: one anchor
            per task.
        decay: gamma, share of the old F that is kept at each task; None: F is the mean of all F_k, as in the code of
            Serrà et al. (2018), so the penalty does not grow with the number of tasks.
        consolidate_every: mini-batches between two anchors (needs `online`); None: an anchor when a task ends. With a
            number, `decay`, `fisher_labels` and `fisher_samples` have no effect.
        fisher_rate: alpha, share of the newest mini-batch in the moving average.
        fisher_labels: `exact`: all labels, weighted by their predicted probability; `sampled`: one label, drawn from
            the prediction; `empirical`: the true label, which is not the Fisher information but is often used for it.
        fisher_samples: images of a task used for F; None: all.

    Raises InputError for one anchor per task in a stream, and for `consolidate_every` without `online`.
    """

    family = "regularization"
    grows = True
    needs_borders: ClassVar[bool] = False
    unread: ClassVar[dict[str, dict[str, Any]]] = {
        "decay": {"online": False, "consolidate_every": ...},
        "fisher_rate": {"consolidate_every": None},
        "fisher_labels": {"consolidate_every": ...},
        "fisher_samples": {"consolidate_every": ...},
    }

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        *,
        strength: NonNegative = 1000.0,
        online: bool = False,
        decay: Share | None = 1.0,
        consolidate_every: Positive | None = None,
        fisher_rate: Share = 0.9,
        fisher_labels: Literal["exact", "sampled", "empirical"] = "exact",
        fisher_samples: Positive | None = None,
    ) -> None:
        super().__init__(problem, network, optimizer)
        if problem.online and not online:
            raise InputError(
                "method.online=false: has an anchor for each task, and with scenario.passes=online the end "
                "is not known; set method.online=true"
            )
        if consolidate_every and not online:
            raise InputError(f"method.consolidate_every={consolidate_every}: needs online EWC; set method.online=true")
        self.strength, self.online, self.decay = strength, online, decay
        self.fisher_labels: Literal["exact", "sampled", "empirical"] = fisher_labels
        self.fisher_samples = fisher_samples
        self.penalty = QuadraticPenalty(self.weights)
        self.countdown = countdown(consolidate_every, problem)
        self.running = RunningFisher(self.weights.values(), fisher_rate) if self.countdown else None

    def learn(self, task: Task, fit: Fit) -> None:
        super().learn(task, fit)
        if self.countdown:
            return
        found = self.fisher(task.train)
        if not self.online:
            self.penalty.add(self.weights, found)
        elif self.decay is None:
            n = task.index + 1
            mean = {name: value / n for name, value in found.items()}
            self.penalty.replace(self.weights, mean, decay=task.index / n)
        else:
            self.penalty.replace(self.weights, found, decay=self.decay)

    def train_step(self, batch: Batch, optimizers: torch.optim.Optimizer, **given: Any) -> dict[str, Tensor]:
        logs = super().train_step(batch, optimizers, **given)
        if self.countdown and self.running is not None and not batch.updates_left:
            self.running.observe(self.network, batch, self.active)
            if self.countdown.ends(batch):
                self.penalty.replace(self.weights, dict(zip(self.weights, self.running, strict=True)), decay=0.0)
        return logs

    def loss(self, batch: Batch) -> Tensor:
        loss = super().loss(batch)
        if anchored(self.countdown, self.index):
            loss = loss + self.strength / 2 * self.penalty(self.weights)
        return loss

    def fisher(self, data: Data) -> dict[str, Tensor]:
        """The diagonal Fisher information of every parameter, by name, over the outputs that take part in training."""
        if self.fisher_samples and self.fisher_samples < len(data):
            data = data[torch.randperm(len(data))[: self.fisher_samples].to(data.labels.device)]
        batches = ((batch.x, batch.y) for batch in data.batches(512))
        return fisher(self.network, batches, self.active, labels=self.fisher_labels)

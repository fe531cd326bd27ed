"""iCaRL (Rebuffi et al., 2017): exemplars chosen to keep the class means, and the nearest mean as classifier."""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_bench.config import InputError, Rate
from cl_bench.data.batches import Batch
from cl_bench.data.problem import Kind, Problem, Task
from cl_bench.methods.base import Fit, frozen
from cl_bench.methods.parts.exemplars import Exemplary
from cl_bench.methods.parts.memory import Budget
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer


class Previous(NamedTuple):
    """The frozen network of the last task, and the outputs of only older tasks, bool (n_outputs,). A class that comes
    back is learned by its labels.
    """

    network: nn.Module
    older: Tensor


class ICaRL(Exemplary):
    """Objective at task t, on its images and all exemplars: a binary cross-entropy for each output, summed. The target
    of the outputs of task t is the label. The target of older outputs is sigmoid(f(x)) of the network at the end of
    task t-1 (algorithm 3).

    When a task ends, each of its classes gets exemplars by herding: one after another, the image that brings the mean
    of the chosen images nearest to the mean of the class (algorithm 4). Older classes keep their first exemplars
    (algorithm 5). An image belongs to the class whose exemplars have the nearest mean under the current network
    (algorithm 1). Features and means have length 1.

    Outputs that no task has used take part, with target 0, only under the training mask `all`. Raises InputError for
    `current`: the outputs of older classes always take part.

    Args:
        memory: exemplars kept; in total, divided equally among the classes so far, as in the paper; per task, among its
            classes.
        temperature: T of the old outputs, sigmoid(f(x) / T); 1 in the paper, and a higher value makes them less certain
            (2 in van de Ven et al., 2022).
        answer: `mean` is the nearest mean; `network`: the outputs of the network predict, the paper's "hybrid 1".
    """

    family = "rehearsal"
    grows = True
    kinds: ClassVar[tuple[Kind, ...]] = ("class", "task")
    answers_by = ("network.", "means")
    means: Tensor
    refused: ClassVar[dict[str, str]] = {
        "label_smoothing": "has a binary cross-entropy for each output",
    }

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        memory: Budget,
        *,
        temperature: Rate = 1.0,
        answer: Literal["mean", "network"] = "mean",
    ) -> None:
        super().__init__(problem, network, optimizer, memory)
        if problem.kind == "class" and problem.train_mask == "current":
            raise InputError("scenario.train_mask=current: icarl trains the outputs of older classes too; choose seen")
        self.temperature = temperature
        self.answer: Literal["mean", "network"] = answer
        self.learning = False  # True while a task is learned: its classes have no means yet
        if answer == "mean":
            self.register_buffer("means", torch.zeros(problem.n_outputs, network.head.in_features))

    def learn(self, task: Task, fit: Fit) -> None:
        previous = None
        if task.index:
            older = self.problem.mask("seen", after=task.index - 1)[0] & ~self.problem.mask("current", task.index)[0]
            previous = Previous(frozen(self.network), older.to(self.device))
        rule = "all" if self.problem.rules["train"] == "all" else "seen"
        taking_part = self.problem.mask(rule, after=task.index)[0].to(self.device)
        self.learning = True
        step = partial(self.train_step, taking_part=taking_part, previous=previous)
        fit(self, self.with_exemplars(task.train), phase="train", step=step)
        self.learning = False
        self.keep_exemplars(task.train)
        if self.answer == "mean":
            self.means = self.class_means(self.memory.data)

    def loss(self, batch: Batch, *, taking_part: Tensor, previous: Previous | None) -> Tensor:
        """The objective. taking_part: the outputs in the sum, bool (n_outputs,)."""
        logits = self.network(batch.x).float()
        self.answered(logits, batch.y)
        target = F.one_hot(batch.y, self.problem.n_outputs).to(logits)
        if previous:
            with torch.no_grad():
                answer = (previous.network(batch.x).float() / self.temperature).sigmoid()
                target = torch.where(previous.older, answer, target)
        losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return (losses * taking_part).sum(1).mean()

    def forward(self, x: Tensor, index: int | None = None) -> Tensor:
        """The cosine between the features of each image and the mean of each class, (B, n_outputs).

        While a task is learned, these are the logits, because its classes have no means yet.
        """
        if self.answer == "network" or self.learning or self.index < 0:
            return super().forward(x)
        return self.features(x) @ self.means.T

    @property
    def answer_bytes(self) -> int:
        """The network, and the class means if they predict."""
        return super().answer_bytes + (self.means.nbytes if self.answer == "mean" else 0)

"""iCaRL (Rebuffi et al., 2017): exemplars chosen to keep the class means, and the nearest mean as classifier."""

from __future__ import annotations

from functools import partial
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_bench.config import InputError, Rate
from cl_bench.data.batches import Batch, Data
from cl_bench.data.problem import Kind, Problem, Task
from cl_bench.methods.base import Classifier, Fit, frozen
from cl_bench.methods.parts.importance import eval_mode
from cl_bench.methods.parts.memory import Budget, Memory
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer


class Previous(NamedTuple):
    """The network that the last task left, frozen, and the outputs by which it answers, bool (n_outputs,)."""

    network: nn.Module
    answered: Tensor


class ICaRL(Classifier):
    """Objective at task t, on its images and all exemplars: for each output a binary cross-entropy, summed. The target
    is the label for the outputs of task t, and for older ones what the network of task t-1 says, sigmoid(f(x))
    (algorithm 3).

    When a task ends, each of its classes is given exemplars by herding: one after another, the image that brings the
    mean of the chosen nearest to the mean of the class (algorithm 4). Older classes keep the first of theirs
    (algorithm 5). An image belongs to the class whose exemplars have the nearest mean, by the current network
    (algorithm 1). Features and means have length 1.

    Outputs that no task has used take part, with target 0, under the training mask `all` only.

    Args:
        memory: exemplars kept; in total, shared equally by the classes so far (the paper's way); per task, by its
            classes.
        temperature: T of the old answers, sigmoid(f(x) / T); 1 is the paper's, higher makes them less sure (2 in van de
            Ven et al., 2022).
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("class", "task")
    means: Tensor

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        memory: Budget,
        *,
        temperature: Rate = 1.0,
    ) -> None:
        super().__init__(problem, network, optimizer)
        self.memory = Memory(memory, problem)
        most = max(map(len, problem.outputs))
        if memory.per == "task" and memory.count(problem) < most:
            raise InputError(f"{memory}: less than one for each of {most} classes of a task, and iCaRL answers by them")
        self.temperature, self.n_exemplars = temperature, memory.count(problem)
        self.learning = False  # a task, whose classes have no means yet
        self.register_buffer("means", torch.zeros(problem.n_outputs, network.head.in_features))

    def learn(self, task: Task, fit: Fit) -> None:
        previous, data = None, task.train
        if task.index:
            answered = self.problem.mask("seen", after=task.index - 1)[0].to(self.device)
            previous, data = Previous(frozen(self.network), answered), data + self.memory.data
        rule = "all" if self.problem.rules["train"] == "all" else "seen"
        taking_part = self.problem.mask(rule, after=task.index)[0].to(self.device)
        self.learning = True
        fit(self, data, phase="train", step=partial(self.train_step, taking_part=taking_part, previous=previous))
        self.learning = False
        self.memory.add(self.exemplars(task.train))
        self.means = self.class_means(self.memory.data)

    def loss(self, batch: Batch, *, taking_part: Tensor, previous: Previous | None) -> Tensor:
        """The objective. taking_part: the outputs in the sum, bool (n_outputs,)."""
        logits = self.network(batch.x).float()
        target = F.one_hot(batch.y, self.problem.n_outputs).to(logits)
        if previous:
            with torch.no_grad():
                answer = (previous.network(batch.x).float() / self.temperature).sigmoid()
                target = torch.where(previous.answered, answer, target)
        losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return (losses * taking_part).sum(1).mean()

    def forward(self, x: Tensor, index: int | None = None) -> Tensor:
        """How near an image is to the mean of each class: their cosine (B, n_outputs), for both have length 1.

        Logits while a task is learned: its classes have no mean yet.
        """
        if self.learning or not len(self.memory):
            return super().forward(x)
        return self.features(x) @ self.means.T

    @property
    def answer_bytes(self) -> int:
        """The network, and the means of the classes."""
        return super().answer_bytes + self.means.nbytes

    def features(self, x: Tensor) -> Tensor:
        """Unit vectors (B, width) for images in [0, 1]."""
        return F.normalize(self.network.features(x))

    @torch.no_grad()
    def features_of(self, data: Data) -> Tensor:
        """Unit vectors (N, width) for all the images, by the network in evaluation mode."""
        with eval_mode(self.network):
            return torch.cat([self.features(batch.x) for batch in data.batches()])

    def exemplars(self, data: Data) -> Data:
        """Of each class the images that its share of the budget allows, the most telling first."""
        sharing = {
            "class": 1,
            "task": len(self.problem.outputs[self.index]),
            "total": len(self.problem.seen(self.index)),
        }
        share = self.n_exemplars // sharing[self.memory.per]
        chosen = []
        for label in data.labels.unique():
            rows = (data.labels == label).nonzero().squeeze(1)
            chosen.append(rows[herd(self.features_of(data[rows]), share)])
        return data[torch.cat(chosen)]

    def class_means(self, exemplars: Data) -> Tensor:
        """Unit vectors (n_outputs, width) along the mean of each class's exemplars; 0 for classes without any."""
        member = F.one_hot(exemplars.labels, self.problem.n_outputs).float()
        return F.normalize(member.T @ self.features_of(exemplars))


def herd(features: Tensor, n: int) -> Tensor:
    """The rows of n of the features (N, width), or all N, in the order in which herding takes them; int64.

    Row number k minimises |mean - (f_k + sum of those taken) / k|, where both averages are scaled to length 1, as the
    paper does with whatever it computes from features: the row whose sum with those taken points along the mean most.

    >>> herd(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]), n=2).tolist()
    [1, 2]
    """
    target, squares = F.normalize(features.mean(0), dim=0), features.square().sum(1)
    along, taken, rows = features @ target, torch.zeros_like(target), []
    gone = torch.zeros_like(along)  # -inf where a row is taken: once is enough
    for _ in range(min(n, len(features))):
        lengths = (squares + 2 * (features @ taken) + taken.square().sum()).clamp(min=0).sqrt()
        cosines = (along + taken @ target) / lengths.clamp(min=torch.finfo(lengths.dtype).tiny)
        row = (cosines + gone).argmax(0, keepdim=True)
        rows.append(row)
        gone[row] = -torch.inf
        taken = taken + features[row[0]]
    return torch.cat(rows)

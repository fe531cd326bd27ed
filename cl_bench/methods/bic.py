"""Bias correction (Wu et al., 2019): two numbers per task correct the logits, fitted on images that are set aside."""

from __future__ import annotations

from typing import Annotated, Any, cast

import torch
import torch.nn.functional as F
from annotated_types import Gt, Lt
from torch import Tensor, nn

from cl_bench.config import InputError, NonNegative, Rate
from cl_bench.data.batches import Data
from cl_bench.data.problem import Kind, Problem, Task, masked
from cl_bench.methods.base import Fit
from cl_bench.methods.parts.distillation import DistilledRehearsal
from cl_bench.methods.parts.importance import eval_mode
from cl_bench.methods.parts.memory import Budget, rank
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer

HeldOut = Annotated[float, Gt(0), Lt(1)]


class CorrectedHead(nn.Linear):
    """a_t z_c + b_t for each output c of task t, with its logit z (equation 4). With a = 1, b = 0 it is a linear head.

    Args:
        width: number of features.
        task_of_output: int64 (n_outputs,).

    a, b: the pair of each task, (n_tasks,).
    """

    a: Tensor
    b: Tensor
    task_of_output: Tensor

    def __init__(self, width: int, task_of_output: Tensor) -> None:
        super().__init__(width, len(task_of_output))
        n_tasks = 1 + int(task_of_output.max())
        self.register_buffer("a", torch.ones(n_tasks))
        self.register_buffer("b", torch.zeros(n_tasks))
        self.register_buffer("task_of_output", task_of_output, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * self.a[self.task_of_output] + self.b[self.task_of_output]


class BiC(DistilledRehearsal):
    """From the second task on, each task has two stages. Some exemplars of each old class, and the same number of
    images of each new class, are set aside.

    1. On the other images and exemplars: (1 - r) CE + r KD, where r is the share of old classes (equations 1 to 3); see
       `DistilledRehearsal`.
    2. The network is frozen. Logits of the new classes become a z + b, and logits of old classes do not change. (a, b)
       minimize the cross-entropy over the classes so far on the images set aside (equation 5) + ridge / 2 ((a - 1)^2 +
       b^2). This is a convex problem with two variables.

    After that, the pair of a task is applied to its classes in predictions and in both networks of KD.

    Args:
        memory: exemplars kept, chosen by herding, including those set aside.
        temperature: T of both softmaxes in KD; a higher value makes small probabilities count more.
        held_out: share of the exemplars of each old class that is set aside: at least one, and not all.
        ridge: pulls (a, b) to (1, 0). If a pair classifies all images set aside correctly, no finite pair is the best
            without it; in the paper early stopping keeps the pair finite. A higher value corrects less.
    """

    family = "rehearsal"
    each = 2  # one is set aside, and one is for training
    grows = True
    kinds: tuple[Kind, ...] = ("class",)

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        memory: Budget,
        *,
        temperature: Rate,
        held_out: HeldOut,
        ridge: NonNegative,
    ) -> None:
        head = CorrectedHead(network.head.in_features, problem.task_of_output)
        super().__init__(problem, network.with_head(head), optimizer, memory, temperature=temperature)
        self.held_out, self.ridge = held_out, ridge

    @property
    def head(self) -> CorrectedHead:
        """The head of the network. As an attribute it would be in the state twice."""
        return cast(CorrectedHead, self.network.head)

    def learn(self, task: Task, fit: Fit) -> dict[str, Any]:
        brings_classes = bool((self.head.task_of_output == task.index).any())
        if task.index and brings_classes:
            apart, others = self.set_apart(task.train)
            self.rehearse(others, fit)
            self.correct(apart)
        else:  # nothing to correct
            self.rehearse(self.with_exemplars(task.train), fit)
        self.keep_exemplars(task.train)
        if not brings_classes:
            return {}
        return {"a": self.head.a[task.index].item(), "b": self.head.b[task.index].item()}

    def set_apart(self, new: Data) -> tuple[Data, Data]:
        """Splits images and exemplars into those set aside, the same number of each class, and all others.

        Raises InputError if a class would have no others.
        """
        fewest = int(self.memory.labels.unique(return_counts=True)[1].min())
        share = max(1, min(round(self.held_out * fewest), fewest - 1))  # one is left for training
        data = self.with_exemplars(new)
        labels, counts = data.labels.unique(return_counts=True)
        if counts.min() <= share:
            rare = self.problem.class_names[labels[counts.argmin()]]
            images = f"{share} image{'s' * (share > 1)}"
            raise InputError(
                f"method.held_out={self.held_out}: sets aside {images} of class '{rare}', which has no others; choose "
                "less, or give this class more images"
            )
        data = data[torch.randperm(len(data)).to(data.labels.device)]
        apart = rank(data.labels) < share
        return data[apart.nonzero().squeeze(1)], data[(~apart).nonzero().squeeze(1)]

    def correct(self, data: Data) -> None:
        """Fits (a, b) of the current task on the images set aside."""
        with torch.no_grad(), eval_mode(self.network):
            logits = torch.cat([self.network(batch.x).float() for batch in data.batches()])
        seen = self.problem.mask("seen", after=self.index)[0].to(self.device)
        pair = fitted(masked(logits, seen), data.labels, self.head.task_of_output == self.index, self.ridge)
        self.head.a[self.index], self.head.b[self.index] = pair


def fitted(logits: Tensor, y: Tensor, new: Tensor, ridge: float) -> Tensor:
    """The (a, b) that minimize CE + ridge / 2 ((a - 1)^2 + b^2), float64 (2,). CE is the mean cross-entropy with the
    logits a z + b for new outputs and z for the others (equation 5).

    Args:
        logits: z, (N, n_outputs), with the lowest finite number for outputs that do not take part.
        y: labels, (N,).
        new: the new outputs, bool (n_outputs,).
        ridge: at least 0.

    >>> logits, y = torch.tensor([[1.0, 2.0], [1.0, 3.0], [1.0, 2.0]]), torch.tensor([0, 1, 0])
    >>> [round(x, 3) for x in fitted(logits, y, torch.tensor([False, True]), ridge=0.1).tolist()]
    [0.693, -0.922]
    """
    logits = logits.double()
    identity = torch.tensor([1.0, 0.0], dtype=torch.float64, device=logits.device)
    pair = identity.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([pair], max_iter=100, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        corrected = torch.where(new, logits * pair[0] + pair[1], logits)
        loss = F.cross_entropy(corrected, y) + ridge / 2 * (pair - identity).square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return pair.detach()

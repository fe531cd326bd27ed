"""Rehearsal with distillation from the old network, which WA, BiC and SS-IL share."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_bench.config import Rate
from cl_bench.data.batches import Batch, Data
from cl_bench.data.problem import Problem, masked
from cl_bench.methods.base import Fit, frozen
from cl_bench.methods.parts.exemplars import Exemplary
from cl_bench.methods.parts.memory import Budget
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer


class Teacher(NamedTuple):
    """The network at the end of the last task, frozen, and the outputs of its heads, bool (heads, n_outputs)."""

    network: Network
    heads: Tensor


class DistilledRehearsal(Exemplary):
    """Objective at task t, on its images and all exemplars: (1 - r) CE + r KD (Wu et al., 2019, equations 1 to 3), with
    r = n_old / (n_old + n_new), the share of old classes among all classes so far. KD compares the current network with
    the network at the end of the last task, over all classes of earlier tasks.

    Args:
        memory: exemplars kept, chosen by herding.
        temperature: T of both softmaxes in KD; a higher value makes small probabilities count more.
    """

    def __init__(
        self, problem: Problem, network: Network, optimizer: Optimizer, memory: Budget, *, temperature: Rate
    ) -> None:
        super().__init__(problem, network, optimizer, memory)
        self.temperature = temperature

    def rehearse(self, data: Data, fit: Fit) -> None:
        """Trains on the data, with KD from the network as it is now."""
        teacher = None
        if self.index:
            old = self.problem.mask("seen", after=self.index - 1)[:1]
            teacher = Teacher(frozen(self.network), old.to(self.device))
        fit(self, data, phase="train", step=partial(self.train_step, teacher=teacher))

    def loss(self, batch: Batch, teacher: Teacher | None = None) -> Tensor:
        logits = self(batch.x).float()
        new = self.cross_entropy(self.active(logits, batch.y), batch.y)
        if teacher is None:
            return new
        with torch.no_grad():
            target = teacher.network(batch.x).float()
        r = 1 - len(self.problem.outputs[self.index]) / len(self.problem.seen(self.index))
        return (1 - r) * new + r * distillation(logits, target, teacher.heads, self.temperature)


def distillation(logits: Tensor, target: Tensor, heads: Tensor, temperature: float) -> Tensor:
    """The mean over images and heads of KD = - sum_c q(c|x) log p(c|x) (Hinton et al., 2015). For the outputs c of a
    head, q = softmax(target / temperature) and p = softmax(logits / temperature).

    Args:
        logits, target: of the current network and of the teacher, (B, n_outputs).
        heads: the outputs of each head, bool (heads, n_outputs).

    >>> logits, heads = torch.tensor([[2.0, 0.0, 5.0]]), torch.tensor([[True, True, False]])
    >>> round(distillation(logits, torch.zeros(1, 3), heads, temperature=2.0).item(), 4)
    0.8133
    """
    p = masked(logits.unsqueeze(1) / temperature, heads)
    q = masked(target.unsqueeze(1) / temperature, heads).softmax(2)
    return F.cross_entropy(p.flatten(0, 1), q.flatten(0, 1))

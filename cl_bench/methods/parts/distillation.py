"""Rehearsal held to the old network: what methods share that correct a bias towards new classes."""

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
    """The network that the last task left, frozen, and its heads, bool (heads, n_outputs)."""

    network: Network
    heads: Tensor


class DistilledRehearsal(Exemplary):
    """Objective at task t, on its images and all exemplars: (1 - r) CE + r KD, with r = n_old / (n_old + n_new), the
    share of classes so far that are not of this task. KD compares the old network and the new one over all classes that
    came before.

    Args:
        temperature: T of both softmaxes in KD; higher makes small probabilities count more.
    """

    def __init__(
        self, problem: Problem, network: Network, optimizer: Optimizer, memory: Budget, *, temperature: Rate
    ) -> None:
        super().__init__(problem, network, optimizer, memory)
        self.temperature = temperature

    def rehearse(self, data: Data, fit: Fit) -> None:
        """Trains on the data, held to the network as it is now."""
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
    """KD = - sum_c q(c|x) log p(c|x), its mean over images and heads, with q the softmax of target / temperature over
    the outputs of a head and p that of logits / temperature.

    Args:
        logits, target: of the learner and of its teacher, (B, n_outputs).
        heads: the outputs of each head, bool (heads, n_outputs).

    >>> two, one = torch.tensor([[2.0, 0.0, 5.0]]), torch.tensor([[True, True, False]])
    >>> round(distillation(two, torch.zeros(1, 3), one, temperature=2.0).item(), 4)
    0.8133
    """
    p = masked(logits.unsqueeze(1) / temperature, heads)
    q = masked(target.unsqueeze(1) / temperature, heads).softmax(2)
    return F.cross_entropy(p.flatten(0, 1), q.flatten(0, 1))

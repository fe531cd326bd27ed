"""Weight aligning (Zhao et al., 2020): new class vectors get the mean length of old vectors when a task ends."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cl_bench.config import Rate
from cl_bench.data.batches import Batch
from cl_bench.data.problem import Kind, Problem, Task
from cl_bench.methods.base import Fit
from cl_bench.methods.parts.distillation import DistilledRehearsal
from cl_bench.methods.parts.memory import Budget
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer


class WA(DistilledRehearsal):
    """Objective at task t, on its images and all exemplars: (1 - r) CE + r KD, where r is the share of old classes
    (equation 3); see `DistilledRehearsal`.

    With few old images and many new images, new classes get longer vectors in the head, and so higher logits. When a
    task ends, the vectors are aligned (equations 8 and 9): w_new <- w_new mean|w_old| / mean|w_new|. The order of
    logits within old classes and within new classes stays the same, because the head has no biases.

    Args:
        memory: exemplars kept, chosen by herding.
        temperature: T of both softmaxes in KD; a higher value makes small probabilities count more.
        clip: True sets negative weights of the head to 0 after each step, so that a longer vector means a higher logit
            if features are not negative.
    """

    family = "rehearsal"
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
        clip: bool,
    ) -> None:
        head = nn.Linear(network.head.in_features, problem.n_outputs, bias=False)
        super().__init__(problem, network.with_head(head), optimizer, memory, temperature=temperature)
        self.clip = clip

    def learn(self, task: Task, fit: Fit) -> dict[str, Any]:
        self.rehearse(self.with_exemplars(task.train), fit)
        ratio = 1.0
        old, new = ((self.task_of_output < task.index).nonzero(), (self.task_of_output == task.index).nonzero())
        if len(old) and len(new):  # a task may have only old classes
            ratio = align(self.network.head.weight, old.squeeze(1), new.squeeze(1))
        self.keep_exemplars(task.train)
        return {"norm_ratio": ratio}

    def train_step(self, batch: Batch, optimizers: torch.optim.Optimizer, **given: Any) -> dict[str, Tensor]:
        logs = super().train_step(batch, optimizers, **given)
        if self.clip:
            self.network.head.weight.detach().clamp_(min=0)
        return logs


@torch.no_grad()
def align(weight: Tensor, old: Tensor, new: Tensor) -> float:
    """Gives the new class vectors the mean length of the old ones (equations 8 and 9). Returns the factor.

    Args:
        weight: a vector for each class, (n_outputs, width); changed in place.
        old, new: rows of it, int64.

    >>> weight = torch.tensor([[3.0, 4.0], [0.0, 10.0]])
    >>> align(weight, torch.tensor([0]), torch.tensor([1])), weight.tolist()
    (0.5, [[3.0, 4.0], [0.0, 5.0]])
    """
    lengths = weight.norm(dim=1)
    mean_old, mean_new = lengths[old].mean(), lengths[new].mean()
    ratio = float(mean_old / mean_new) if mean_new else 1.0  # vectors of length 0 do not change
    weight[new] *= ratio
    return ratio

"""Learning without forgetting (Li and Hoiem, 2016)."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_bench.config import NonNegative, Rate
from cl_bench.data.batches import Batch
from cl_bench.data.problem import Problem, Task, masked
from cl_bench.methods.base import Classifier, Fit, frozen
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer


class Teacher(NamedTuple):
    """The network at the end of the last task, frozen.

    heads: the outputs of each old head, bool (heads, n_outputs). compared: the outputs in the softmax of the current
    network when it is compared with each head, of the same shape.
    """

    network: Network
    heads: Tensor
    compared: Tensor


class LwF(Classifier):
    """Objective at task t: cross-entropy + strength sum_k KD(q_k, p_k) over old heads k, on only the images of task t.

    KD = - mean_x sum_c q_k(c|x) log p_k(c|x) (equation 2). q_k is softmax(z_k / temperature) of the network at the end
    of task t-1, and p_k is that of the current network, for the logits z_k of head k. In task-incremental learning each
    old task has a head. In class-incremental learning there is one head, of all classes of earlier tasks, and in
    domain-incremental learning one head of all outputs. The paper first trains the new head alone. Here this warm-up is
    left out: the paper found that it is not crucial.

    Args:
        strength: lambda_o; a higher value forgets less and learns less.
        temperature: T; a higher value makes small probabilities count more.
        weighting: `sum`: as above; `share`: CE / t + strength (1 - 1/t) mean_k KD (van de Ven and Tolias, 2019).
        new_outputs: the new classes in KD, only in class-incremental learning. `free`: p_k has only old classes;
            `zero`: p_k has old and new classes, and q_k is 0 for new classes (van de Ven and Tolias, 2019). If all
            outputs are trained (`scenario.train_mask=all`), KD has all outputs, and this key has no effect.
        over_classes: `sum` over c: as above; `mean` divides KD by the number of outputs in p_k, as in the code of van
            de Ven and Tolias until May 2019.
    """

    family = "distillation"
    grows = True
    unread: ClassVar[dict[str, dict[str, Any]]] = {
        "new_outputs": {"scenario.kind": ("task", "domain"), "scenario.train_mask": "all"},
    }

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        *,
        strength: NonNegative = 1.0,
        temperature: Rate = 2.0,
        weighting: Literal["sum", "share"] = "sum",
        new_outputs: Literal["free", "zero"] = "free",
        over_classes: Literal["sum", "mean"] = "sum",
    ) -> None:
        super().__init__(problem, network, optimizer)
        self.strength, self.temperature = strength, temperature
        self.weighting: Literal["sum", "share"] = weighting
        self.new_outputs: Literal["free", "zero"] = new_outputs
        self.over_classes: Literal["sum", "mean"] = over_classes

    def learn(self, task: Task, fit: Fit) -> None:
        teacher = self.teacher() if task.index else None
        fit(self, task.train, phase="train", step=partial(self.train_step, teacher=teacher))

    def loss(self, batch: Batch, teacher: Teacher | None = None) -> Tensor:
        logits = self(batch.x)
        new = self.cross_entropy(self.active(logits, batch.y), batch.y)
        if teacher is None:
            return new
        old = self.strength * self.distillation(logits, teacher, batch.x)
        if self.weighting == "share":
            r = 1 / (self.index + 1)
            return r * new + (1 - r) * old
        return new + len(teacher.heads) * old

    def distillation(self, logits: Tensor, teacher: Teacher, x: Tensor) -> Tensor:
        """The mean of KD over images x (B, C, H, W) and old heads. logits: of the current network, (B, n_outputs)."""
        with torch.no_grad():
            target = teacher.network(x)
        p = masked(logits.unsqueeze(1) / self.temperature, teacher.compared)
        q = masked(target.unsqueeze(1) / self.temperature, teacher.heads).softmax(2)
        if self.over_classes == "mean":
            q = q / teacher.compared.sum(1, keepdim=True)
        return F.cross_entropy(p.flatten(0, 1), q.flatten(0, 1))

    def teacher(self) -> Teacher:
        """A frozen copy of the network when a task begins, with its heads."""
        rules = self.problem.rules
        rule = "all" if rules["train"] == "all" else rules["evaluation"]
        then, now = (
            self.problem.mask(rule, after)[: self.index].unique(dim=0) for after in (self.index - 1, self.index)
        )
        compared = now if self.new_outputs == "zero" else then
        return Teacher(frozen(self.network), then.to(self.device), compared.to(self.device))

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
    """A network that learns no more.

    heads: the outputs of each of its old heads, bool (heads, n_outputs). compared: those over which the learner's
    softmax runs when it is held to a head, the same shape.
    """

    network: Network
    heads: Tensor
    compared: Tensor


class LwF(Classifier):
    """Objective at task t: cross-entropy + strength sum_k KD(q_k, p_k) over old heads k, on the images of task t alone.

    KD = - mean_x sum_c q_k(c|x) log p_k(c|x) (equation 2), with q_k = softmax(z_k / temperature) of the network that
    task t-1 left, p_k the same of the network as it is. Old heads: one per old task in task-incremental learning;
    otherwise a single one, of the classes seen before, or of all outputs where tasks share them. The new head isn't
    trained alone first, a warm-up that the paper found not to be crucial.

    Args:
        strength: lambda_o; higher forgets less and learns less.
        temperature: T; higher makes small probabilities count more.
        weighting: `sum` is the above; `share` weighs by tasks, CE / t + strength (1 - 1/t) mean_k KD (van de Ven and
            Tolias, 2019).
        new_outputs: in class-incremental learning the new classes are `free`, p_k has the old ones only, or `zero`: p_k
            has both, and q_k gives the new ones 0 (van de Ven and Tolias). Where training has no mask
            (`scenario.train_mask=all`) teacher and learner are compared over all outputs, and this key says nothing.
        over_classes: the `sum` of KD over c is the above; their `mean` divides it by the number of outputs compared, as
            the code behind the table of van de Ven and Tolias did until May 2019.
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
        """The mean of KD over the old heads."""
        with torch.no_grad():
            target = teacher.network(x)
        p = masked(logits.unsqueeze(1) / self.temperature, teacher.compared)
        q = masked(target.unsqueeze(1) / self.temperature, teacher.heads).softmax(2)
        if self.over_classes == "mean":
            q = q / teacher.compared.sum(1, keepdim=True)
        return F.cross_entropy(p.flatten(0, 1), q.flatten(0, 1))

    def teacher(self) -> Teacher:
        """A frozen copy of the network as it is when a task begins."""
        rules = self.problem.rules
        rule = "all" if rules["train"] == "all" else rules["evaluation"]
        then, now = (
            self.problem.mask(rule, after)[: self.index].unique(dim=0) for after in (self.index - 1, self.index)
        )
        compared = now if self.new_outputs == "zero" else then
        return Teacher(frozen(self.network), then.to(self.device), compared.to(self.device))

"""Separated softmax for incremental learning (Ahn et al., 2021): old and new classes never compete in training."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from cl_bench.config import Positive, Rate
from cl_bench.data.batches import Batch
from cl_bench.data.problem import Kind, Problem, Task, masked
from cl_bench.methods.base import Classifier, Fit, frozen
from cl_bench.methods.parts.distillation import Teacher, distillation
from cl_bench.methods.parts.memory import Budget, Memory
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer


class SSIL(Classifier):
    """Objective at each step, on the mini-batch and on exemplars drawn from memory, B images together:

    1/B sum_n CE_n + T^2 sum_k KD_k (equation 6)

    The softmax of CE has the new classes for a new image, and the old classes for an exemplar (equation 4). So a new
    image does not lower old logits, which causes the bias. KD_k, over only the classes of old task k, keeps the outputs
    for all images near those of the network at the end of the last task (equation 5). It is a cross-entropy, whose
    gradient equals that of the paper's divergence.

    Args:
        memory: exemplars kept, drawn at random when a task ends.
        temperature: T of both softmaxes in KD; a higher value makes small probabilities count more.
        n_replay: exemplars in each step; more give old tasks more weight.
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
        n_replay: Positive,
    ) -> None:
        super().__init__(problem, network, optimizer)
        self.memory = Memory(memory, problem)
        self.temperature, self.n_replay = temperature, n_replay

    def learn(self, task: Task, fit: Fit) -> None:
        teacher = None
        if task.index:
            heads = self.problem.mask("own", after=task.index)[: task.index]
            teacher = Teacher(frozen(self.network), heads.to(self.device))
        fit(self, task.train, phase="train", step=partial(self.train_step, teacher=teacher))
        self.memory.after_task(task.train)

    def loss(self, batch: Batch, teacher: Teacher | None = None) -> Tensor:
        if teacher is None:
            return super().loss(batch)
        exemplars = self.memory.sample(self.n_replay)
        x, y = torch.cat([batch.x, exemplars.x]), torch.cat([batch.y, exemplars.y])
        logits = self(x).float()
        with torch.no_grad():
            target = teacher.network(x).float()
        kd = distillation(logits, target, teacher.heads, self.temperature)
        return self.separated(logits, y) + self.temperature**2 * len(teacher.heads) * kd

    def separated(self, logits: Tensor, y: Tensor) -> Tensor:
        """The mean of CE, over old outputs for old labels and over new outputs for new labels (equation 4)."""
        old = self.task_of_output < self.index
        return self.cross_entropy(masked(self.active(logits, y), old == old[y].unsqueeze(1)), y)

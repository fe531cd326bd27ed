"""Experience replay with an asymmetric cross-entropy (Caccia et al., 2022): new classes do not lower old logits."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from cl_bench.config import Positive
from cl_bench.data.batches import Batch
from cl_bench.data.problem import Problem, masked
from cl_bench.methods.base import Classifier
from cl_bench.methods.parts.memory import Budget, Reservoir
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer


class ERACE(Classifier):
    """Objective at each step: CE(x, y; classes of the mini-batch) + CE(x', y'; classes so far), a mean each.

    x are the images of the mini-batch. Their softmax has only the classes in the mini-batch, so they do not lower the
    logits of other classes, old or future. x' are drawn from a reservoir over all images so far. Their softmax has all
    classes so far, so the network learns to distinguish old and new classes. If x has only one class, its term has no
    gradient, and its images are learned when they are replayed. x and x' go through the network separately, because
    batch normalization over both together would undo the advantage.

    Args:
        memory: images kept, counted in total.
        n_replay: images from memory in each step; None: as many as the mini-batch has.
    """

    family = "rehearsal"
    grows = True
    needs_borders: ClassVar[bool] = False

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        memory: Budget,
        *,
        n_replay: Positive | None = None,
    ) -> None:
        super().__init__(problem, network, optimizer)
        self.memory = Reservoir(memory.places(problem), problem)
        self.n_replay = n_replay

    def train_step(self, batch: Batch, optimizers: Any) -> dict[str, Tensor]:
        logs = super().train_step(batch, optimizers)
        self.memory.after_step(batch)
        return logs

    def loss(self, batch: Batch) -> Tensor:
        loss = self.incoming_loss(self(batch.x), batch.y)
        if len(self.memory):
            loss = loss + super().loss(self.memory.sample(self.n_replay or len(batch.y)))
        return loss

    def incoming_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """The mean cross-entropy of a mini-batch, over only the classes in it. logits: (B, n_outputs). y: (B,)."""
        present = torch.zeros_like(logits[0], dtype=torch.bool).index_fill_(0, y, True)
        return self.cross_entropy(masked(self.active(logits, y), present), y)

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
    """Objective at each step: CE(x, y; classes of the mini-batch) + CE(x', y'; classes seen so far), two means.

    x are the images of the mini-batch: in their softmax only the classes compete that are in the mini-batch. So they
    push no other logit down, neither of an old class nor of one to come. x' are drawn from a reservoir over all images
    that came: here all classes compete, and are told apart. A mini-batch of one class teaches nothing until it is
    replayed. Both go through the network by themselves, as batch normalization of the two together would undo the gain.

    Args:
        memory: images kept, counted in total.
        n_replay: images of memory in each step; None: as many as the mini-batch has.
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
        """The mean cross-entropy of a mini-batch, over the classes in it alone."""
        present = torch.zeros_like(logits[0], dtype=torch.bool).index_fill_(0, y, True)
        return self.cross_entropy(masked(self.active(logits, y), present), y)

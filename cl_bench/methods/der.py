"""Dark experience replay (Buzzega et al., 2020): the logits of replayed images stay near their stored logits."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_bench.config import NonNegative, Positive
from cl_bench.data.batches import Batch
from cl_bench.data.problem import Problem, TrainMask
from cl_bench.methods.base import Classifier
from cl_bench.methods.parts.memory import Budget, Reservoir
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer


class DER(Classifier):
    """Objective at each step: CE(x, y) + alpha MSE(f(x'), z') + beta CE(f(x''), y'') (equations 5 and 6).

    x', x'' are two independent draws from a reservoir over all training images, including the current task. z' are the
    logits f(x') over all outputs in the step in which x' came, before its update. MSE is a mean over images and
    outputs. beta = 0 is DER, beta > 0 is DER++.

    The paper trains all outputs from the start. Logits of future classes are stored and replayed too. If the
    cross-entropy does not train them, they stay random, and so do the stored values.

    Args:
        memory: images kept, with their logits, counted in total.
        alpha: a higher value keeps the logits nearer to the stored logits.
        beta: a higher value learns more from old labels.
        n_replay: images in each draw; None: as many as the mini-batch has.
    """

    family = "rehearsal"
    train_mask: ClassVar[TrainMask] = "all"
    needs_borders: ClassVar[bool] = False

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        memory: Budget,
        *,
        alpha: NonNegative = 0.2,
        beta: NonNegative = 0.0,
        n_replay: Positive | None = None,
    ) -> None:
        super().__init__(problem, network, optimizer)
        self.memory = Reservoir(memory.places(problem, problem.n_outputs), problem, n_logits=problem.n_outputs)
        self.alpha, self.beta, self.n_replay = alpha, beta, n_replay

    def train_step(self, batch: Batch, optimizers: torch.optim.Optimizer) -> dict[str, Tensor]:
        logits = self(batch.x)
        loss = self.cross_entropy(self.active(logits, batch.y), batch.y)
        if len(self.memory):
            loss = loss + self.replay_loss(self.n_replay or len(batch.y))
        optimizers.zero_grad()
        loss.backward()
        optimizers.step()
        self.memory.after_step(batch, logits)
        return {"loss": loss.detach()}

    def replay_loss(self, n: int) -> Tensor:
        """alpha MSE + beta CE, each on n images from memory."""
        old, logits = self.memory.sample_with_logits(n)
        loss = self.alpha * F.mse_loss(self(old.x).float(), logits)
        if self.beta:
            old = self.memory.sample(n)
            loss = loss + self.beta * self.cross_entropy(self.active(self(old.x), old.y), old.y)
        return loss

"""Synaptic intelligence, or path integral (Zenke et al., 2017)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from cl_bench.config import NonNegative, Positive, Rate
from cl_bench.data.batches import Batch
from cl_bench.data.problem import Problem, Task
from cl_bench.methods.base import Classifier, Fit
from cl_bench.methods.parts.countdown import anchored, countdown
from cl_bench.methods.parts.quadratic import QuadraticPenalty
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer


class SI(Classifier):
    """Objective at task t: cross-entropy + strength sum_j Omega_j (theta_j - theta*_j)^2 (equation 4). theta*, the
    anchor, are the weights at the end of task t-1.

    While a task is learned, w_j = - sum g_j dtheta_j measures how much each weight has lowered the loss (equation 3). g
    is the gradient of only the cross-entropy, and dtheta is the whole change of the weight, including the effect of the
    penalty. At the end of the task Omega_j grows by [w_j / (D_j^2 + damping)]+ with D_j = theta_j - theta*_j (equation
    5). A weight that raised the loss adds nothing. Then theta* = theta and w = 0.

    In a stream the end of a task is not known. There this is done every `consolidate_every` mini-batches.

    Args:
        strength: c; a higher value forgets less and learns less.
        damping: xi; with a higher value weights that moved little count less.
        consolidate_every: mini-batches after which Omega grows, theta* = theta and w = 0; None: when a task ends.
    """

    family = "regularization"
    grows = True
    needs_borders: ClassVar[bool] = False

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        *,
        strength: NonNegative = 1.0,
        damping: Rate = 1e-3,
        consolidate_every: Positive | None = None,
    ) -> None:
        super().__init__(problem, network, optimizer)
        self.strength, self.damping = strength, damping
        self.penalty = QuadraticPenalty(self.weights)
        self.path = nn.ParameterList(nn.Parameter(torch.zeros_like(p), False) for p in self.weights.values())
        self.countdown = countdown(consolidate_every, problem)

    def learn(self, task: Task, fit: Fit) -> None:
        super().learn(task, fit)
        if not self.countdown:
            self.consolidate()

    def consolidate(self) -> None:
        """Adds the importance of the path so far to Omega, makes the weights the anchor, and starts a new path."""
        self.penalty.replace(self.weights, self.importance())
        for w in self.path:
            w.zero_()

    def train_step(self, batch: Batch, optimizers: torch.optim.Optimizer) -> dict[str, Tensor]:
        weights = list(self.weights.values())
        before = [weight.detach().clone() for weight in weights]
        loss = self.loss(batch)
        gradient = torch.autograd.grad(loss, weights, materialize_grads=True)  # without the penalty, for equation 3
        total = gradient
        if anchored(self.countdown, self.index):
            total = self.penalty.added_to(gradient, self.weights, self.strength)
        for weight, g in zip(weights, total, strict=True):
            weight.grad = g
        optimizers.step()
        with torch.no_grad():
            moved = torch._foreach_sub(weights, before)  # pyright: ignore
            torch._foreach_addcmul_(list(self.path), gradient, moved, value=-1)  # pyright: ignore
        if self.countdown and self.countdown.ends(batch):
            self.consolidate()
        return {"loss": loss.detach()}  # without the penalty: its value would cost time, and nothing else needs it

    @torch.no_grad()
    def importance(self) -> dict[str, Tensor]:
        """The increase of Omega (equation 5), for every parameter, by name."""
        moved = torch._foreach_sub(list(self.weights.values()), list(self.penalty.anchor))  # pyright: ignore
        return {
            name: (w / (d.square() + self.damping)).relu()
            for name, w, d in zip(self.weights, self.path, moved, strict=True)
        }

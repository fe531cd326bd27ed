"""Shrink and perturb: weights move a little towards 0 and get noise, so that a network stays able to learn."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from cl_bench.config import NonNegative
from cl_bench.data.batches import Batch
from cl_bench.data.problem import Problem
from cl_bench.methods.base import Classifier
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer


class ShrinkPerturb(Classifier):
    """Objective: cross-entropy + shrink / 2 sum_j theta_j^2; after each step theta_j <- theta_j + sigma N(0, 1).

    This applies to every weight and bias (Ash and Adams, 2020; at each step as in Dohare et al., 2024). The gradient of
    the second term is what torch calls weight decay. It does nothing to avoid forgetting.

    Args:
        shrink: L2 factor; a higher value keeps weights smaller. With noise 0 this is only L2 regularization.
        noise: sigma; a higher value reactivates dead units sooner, and disturbs more of what is learned.
    """

    family = "optimization"
    needs_borders: ClassVar[bool] = False

    def __init__(
        self, problem: Problem, network: Network, optimizer: Optimizer, *, shrink: NonNegative, noise: NonNegative
    ) -> None:
        super().__init__(problem, network, optimizer)
        self.shrink, self.noise = shrink, noise

    def train_step(self, batch: Batch, optimizers: torch.optim.Optimizer) -> dict[str, Tensor]:
        loss = self.loss(batch)
        optimizers.zero_grad()
        loss.backward()
        learned = [p for p in self.weights.values() if p.grad is not None]
        with torch.no_grad():
            if self.shrink:
                torch._foreach_add_([p.grad for p in learned], learned, alpha=self.shrink)  # pyright: ignore
            optimizers.step()
            if self.noise:
                torch._foreach_add_(learned, [torch.randn_like(p) for p in learned], alpha=self.noise)  # pyright: ignore
        return {"loss": loss.detach()}

"""Look-ahead MAML: replay whose gradient is computed after inner steps on the incoming images (Gupta et al., 2020)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from cl_bench.config import NonNegative, Positive, Rate
from cl_bench.data.batches import Batch
from cl_bench.data.problem import Problem
from cl_bench.methods.base import Classifier
from cl_bench.methods.parts.memory import Budget, Reservoir
from cl_bench.methods.parts.one_by_one import check_alone, gradient, images_of
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import SGD, Optimizer, clipped


class LaMAML(Classifier):
    """Objective at each step: the loss l on the mini-batch and on images from memory together, at the weights after
    inner steps on one image, two images, ... of the mini-batch (Gupta et al., 2020, algorithm 1).

    Each mini-batch of B images is used `glances` times, each time in a new order. Each weight has a rate alpha, and
    r = relu(alpha).

    1. theta_0 = theta, theta_i = theta_(i-1) - r g_i, where g_i is the gradient of the loss of image i at theta_(i-1).
    2. l = 1/B sum_i L(theta_i), where L is the mean cross-entropy of the mini-batch and of images from memory.
    3. To first order, as in the released code for MNIST: d l / d theta = 1/B sum_i h_i, where h_i is the gradient of L
       at theta_i, and d l / d alpha = -1[alpha > 0] 1/B sum_i h_i sum_(j<=i) g_j. Norms above `clip` are scaled down.
    4. alpha <- alpha - rate_lr d l / d alpha. Then theta <- theta - relu(alpha) d l / d theta.

    After the first use the images may enter the memory, a reservoir.

    Args:
        optimizer: of the weights, for `sync` and `c_maml`.
        memory: images kept, counted in total.
        variant: `la_maml`: as above; `sync`: `optimizer` makes the step of the weights, and only inner steps use the
            rates; `c_maml`: as `sync`, and the rates do not change.
        inner_lr: alpha at the beginning; a higher value makes larger inner steps.
        rate_lr: eta, step size of the rates; 0: they do not change.
        n_replay: images from memory at each use; None: as many as the mini-batch has.
        glances: uses of each mini-batch, with a step each; more uses learn more from it and take longer.
        clip: largest norm of the gradient of all weights together, and of all rates together.

    Raises InputError for a network with batch normalization, which needs several images at once.
    """

    family = "optimization"
    needs_borders: ClassVar[bool] = False
    refused: ClassVar[dict[str, str]] = {
        "trainer.gradient_clip": "clips by method.clip",
    }
    unread: ClassVar[dict[str, dict[str, Any]]] = {
        "rate_lr": {"variant": "c_maml"},
        "optimizer": {"variant": "la_maml"},
    }

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        memory: Budget,
        *,
        variant: Literal["la_maml", "sync", "c_maml"],
        inner_lr: NonNegative,
        rate_lr: NonNegative,
        n_replay: Positive | None,
        glances: Positive,
        clip: Rate,
    ) -> None:
        super().__init__(problem, network, optimizer)
        check_alone(network, "la_maml")
        self.memory = Reservoir(memory.places(problem), problem)
        self.rates = nn.ParameterList(
            nn.Parameter(torch.full_like(weight, inner_lr), False) for weight in self.weights.values()
        )
        self.variant, self.rate_lr, self.n_replay, self.glances, self.clip = variant, rate_lr, n_replay, glances, clip

    def train_step(self, batch: Batch, optimizers: torch.optim.Optimizer) -> dict[str, Tensor]:
        with torch.no_grad():
            loss = self.loss(batch)  # before the images are learned
        ahead = [self.glance(batch, optimizers, first=not index) for index in range(self.glances)]
        return {"loss": loss, "loss_ahead": torch.stack(ahead).mean()}

    def glance(self, batch: Batch, optimizer: torch.optim.Optimizer, first: bool) -> Tensor:
        """A step of the rates and then of the weights; returns l. first: whether this is the first use of the batch."""
        loss, for_weights, for_rates = self.look_ahead(batch)
        if first:
            self.memory.after_step(batch)
        if self.variant != "c_maml":
            torch._foreach_add_(list(self.rates), clipped(for_rates, self.clip), alpha=-self.rate_lr)  # pyright: ignore
        step = clipped(for_weights, self.clip)
        if self.variant == "la_maml":
            step = [part * rate.relu() for part, rate in zip(step, self.rates, strict=True)]
        for weight, part in zip(self.weights.values(), step, strict=True):
            weight.grad = part
        optimizer.step()
        return loss

    def look_ahead(self, batch: Batch) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """l, and its gradients by the weights and by the rates, a tensor each. The weights do not change."""
        weights, steps = list(self.weights.values()), [rate.relu() for rate in self.rates]
        n, before = len(batch.y), [weight.detach().clone() for weight in weights]
        everything = joined(self.memory.sample(self.n_replay or n), batch) if len(self.memory) else batch
        way, for_weights, for_rates = ([torch.zeros_like(weight) for weight in weights] for _ in range(3))
        images, losses = list(images_of(batch)), []
        for i in torch.randperm(n).tolist():
            g = gradient(self.loss(images[i]), weights)
            with torch.no_grad():
                torch._foreach_addcmul_(weights, steps, g, value=-1)  # pyright: ignore
            loss = self.loss(everything)
            h = gradient(loss, weights)
            torch._foreach_add_(way, g)  # pyright: ignore
            torch._foreach_add_(for_weights, h, alpha=1 / n)  # pyright: ignore
            torch._foreach_addcmul_(for_rates, way, h, value=-1 / n)  # pyright: ignore
            losses.append(loss.detach())
        with torch.no_grad():
            torch._foreach_copy_(weights, before)  # pyright: ignore
        for_rates = [part * (rate > 0) for part, rate in zip(for_rates, self.rates, strict=True)]
        return torch.stack(losses).mean(), for_weights, for_rates

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.variant != "la_maml":
            return super().configure_optimizers()
        return SGD(lr=1.0)(self.network.parameters())  # the gradient is already multiplied by the rates


def joined(old: Batch, new: Batch) -> Batch:
    """Both mini-batches as one."""
    return Batch(torch.cat([old.x, new.x]), torch.cat([old.y, new.y]), torch.cat([old.task_ids, new.task_ids]))

"""An auxiliary-classifier GAN (Odena et al., 2017) with a Wasserstein critic: a memory that knows classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_bench.config import NonNegative, Positive
from cl_bench.data.batches import Batch
from cl_bench.data.problem import masked
from cl_bench.methods.base import Learner, forget
from cl_bench.methods.parts.wgan_gp import drawn, gradient_penalty
from cl_bench.networks.gan import ConditionalGenerator, Discriminator
from cl_bench.networks.optimizers import Adam


class ACGAN(Learner):
    """Discriminator: minimise E D(G(z,y)) - E D(x) + lambda_gp * penalty + CE(C(x), y).
    Generator: minimise -E D(G(z,y)) + lambda_aux CE(C(G(z,y)), y), plus what a continual learner adds.

    D and C are the two heads of one discriminator, which takes a step on every mini-batch; the generator takes one
    after each `n_critic` of them. Fake images are of the classes of the real ones beside them.

    generator: (z, y) -> images in [0, 1]. discriminator: images -> scores (B,), logits (B, n_outputs). optimizer:
    of both. n_critic: discriminator steps per generator step. lambda_gp: weight of the gradient penalty.
    lambda_aux: weight of the class in the generator's loss.
    """

    def __init__(
        self,
        generator: ConditionalGenerator,
        discriminator: Discriminator,
        optimizer: Adam,
        *,
        n_critic: Positive = 5,
        lambda_gp: NonNegative = 10.0,
        lambda_aux: NonNegative = 1.0,
    ) -> None:
        super().__init__()
        self.generator, self.discriminator, self.optimizer = generator, discriminator, optimizer
        self.n_critic, self.lambda_gp, self.lambda_aux = n_critic, lambda_gp, lambda_aux
        self.allowed: Tensor | None = None  # the classes that C chooses among, bool (n_outputs,); None for all
        self.mix: Callable[[Batch], Batch] | None = None  # puts replayed images among the real ones of a mini-batch
        self.penalty: Callable[[int], Tensor] | None = None  # of the batch's size; added to the generator's loss

    def noise(self, n: int) -> Tensor:
        return torch.randn(n, self.generator.z_dim, device=self.device)

    def classes(self, logits: Tensor) -> Tensor:
        """Logits of the classes that have come."""
        return logits if self.allowed is None else masked(logits, self.allowed)

    def step(self, batch: Batch, optimizers: Any) -> dict[str, Tensor]:
        discriminator_optimizer, generator_optimizer = optimizers
        real, y, *_ = batch if self.mix is None else self.mix(batch)
        with torch.no_grad():
            fake = self.generator(self.noise(len(y)), y).to(real.dtype)
        penalty = gradient_penalty(
            lambda x: self.discriminator(x)[0], real, fake, torch.rand(len(y), device=real.device)
        )
        scores, logits = self.discriminator(torch.cat([real, fake]))
        distance = scores[: len(y)].mean() - scores[len(y) :].mean()
        error = F.cross_entropy(self.classes(logits[: len(y)]), y)
        discriminator_optimizer.zero_grad()
        (self.lambda_gp * penalty - distance + error).backward()
        discriminator_optimizer.step()
        logs = {"wasserstein": distance.detach(), "penalty": penalty.detach(), "error": error.detach()}

        if (self.at + 1) % self.n_critic == 0:
            self.discriminator.requires_grad_(False)
            scores, logits = self.discriminator(self.generator(self.noise(len(y)), y))
            loss = self.lambda_aux * F.cross_entropy(self.classes(logits), y) - scores.mean()
            if self.penalty is not None:
                loss = loss + self.penalty(len(y))
            generator_optimizer.zero_grad()
            loss.backward()
            generator_optimizer.step()
            self.discriminator.requires_grad_(True)
            logs["generator"] = loss.detach()
        return logs

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [self.optimizer(self.discriminator.parameters()), self.optimizer(self.generator.parameters())]

    @torch.no_grad()
    def sample(self, y: Tensor) -> Tensor:
        """One image in [0, 1] of each class in y, (N, C, H, W), made in batches with the generator in `eval` mode."""
        training = self.generator.training
        self.generator.eval()
        images = torch.cat([drawn(self.generator, self.noise(len(part)), part) for part in y.split(1000)])
        self.generator.train(training)
        return images

    def reset(self) -> None:
        """Forgets everything: fresh random weights for the generator and the discriminator."""
        forget(self)


def evenly(classes: Tensor, n: int) -> Tensor:
    """n labels, int64 (n,): each class as often as the others, and what is left over of classes drawn at random."""
    # always from the first, a mini-batch smaller than the number of classes would never come to the last
    first = int(torch.randint(len(classes), ())) if n % len(classes) else 0
    return classes[torch.arange(first, first + n, device=classes.device) % len(classes)]

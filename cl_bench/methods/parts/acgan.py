"""An auxiliary-classifier GAN (AC-GAN; Odena et al., 2017) with a Wasserstein critic: a memory with class labels."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_bench.config import NonNegative, Positive
from cl_bench.data.batches import Batch
from cl_bench.data.problem import masked
from cl_bench.methods.parts.importance import eval_mode
from cl_bench.methods.parts.two_players import Losses, TwoPlayers, balanced_labels, drawn
from cl_bench.methods.parts.wgan_gp import gradient_penalty
from cl_bench.networks.gan import ConditionalGenerator, Discriminator
from cl_bench.networks.optimizers import Adam


class ACGAN(TwoPlayers):
    """Discriminator: minimize E D(G(z,y)) - E D(x) + lambda_gp * penalty + CE(C(x), y).
    Generator: minimize -E D(G(z,y)) + lambda_aux CE(C(G(z,y)), y), plus the penalty of a continual learner.

    D and C are the two heads of one discriminator. Fake images have the classes of the real images of the mini-batch.
    The softmax of C has only the `allowed` classes, bool (n_outputs,); None: all.

    Args:
        generator: noise (B, z_dim), classes (B,) -> images in [0, 1].
        discriminator: images -> scores (B,), logits (B, n_outputs).
        optimizer: of both.
        n_critic: discriminator steps per generator step.
        lambda_gp: weight of the gradient penalty.
        lambda_aux: weight of the classification loss for the generator.
    """

    conditional: ClassVar[bool] = True
    generator: ConditionalGenerator
    discriminator: Discriminator

    def __init__(
        self,
        generator: ConditionalGenerator,
        discriminator: Discriminator,
        optimizer: Adam,
        *,
        n_critic: Positive,
        lambda_gp: NonNegative,
        lambda_aux: NonNegative,
    ) -> None:
        super().__init__()
        self.generator, self.discriminator, self.optimizer = generator, discriminator, optimizer
        self.n_critic, self.lambda_gp, self.lambda_aux = n_critic, lambda_gp, lambda_aux

    def discriminator_loss(self, batch: Batch, allowed: Tensor | None = None) -> Losses:
        real, y = batch.x, batch.y
        with torch.no_grad():
            fake = self.generator(self.noise(len(y)), y).to(real.dtype)
        mix = torch.rand(len(y), device=real.device)
        penalty = gradient_penalty(lambda x: self.discriminator(x)[0], real, fake, mix)
        scores, logits = self.discriminator(torch.cat([real, fake]))
        distance = scores[: len(y)].mean() - scores[len(y) :].mean()
        error = class_error(logits[: len(y)], y, allowed)
        logs = {"wasserstein": distance.detach(), "penalty": penalty.detach(), "error": error.detach()}
        return self.lambda_gp * penalty - distance + error, logs

    def generator_loss(self, batch: Batch, allowed: Tensor | None = None) -> Losses:
        scores, logits = self.discriminator(self.generator(self.noise(len(batch.y)), batch.y))
        return self.lambda_aux * class_error(logits, batch.y, allowed) - scores.mean(), {}

    @torch.no_grad()
    def sample(self, y: Tensor) -> Tensor:
        """One image in [0, 1] for each class in y, (N, C, H, W), made in batches with the generator in `eval` mode."""
        with eval_mode(self.generator):
            return torch.cat([drawn(self.generator, self.noise(len(part)), part) for part in y.split(1000)])

    def draw(self, classes: Tensor, n: int) -> tuple[Tensor, Tensor]:
        y = balanced_labels(classes, n)
        return self.sample(y), y


def class_error(logits: Tensor, y: Tensor, allowed: Tensor | None) -> Tensor:
    """The mean cross-entropy of logits (B, n_outputs) over the allowed classes, bool (n_outputs,); None: all."""
    return F.cross_entropy(logits if allowed is None else masked(logits, allowed), y)

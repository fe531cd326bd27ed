"""The GAN of Goodfellow et al. (2014), with the non-saturating loss of the generator."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_bench.data.batches import Batch
from cl_bench.methods.parts.two_players import Losses
from cl_bench.methods.parts.wgan_gp import WGANGP
from cl_bench.networks.optimizers import Adam


class GAN(WGANGP):
    """Discriminator: minimize -E log D(x) - E log(1 - D(G(z))). Generator: minimize -E log D(G(z)), with new noise
    (section 3, algorithm 1).

    The networks are those of `WGANGP`, and the critic's score is the logit of D. Both make a step on every mini-batch.
    """

    def __init__(self, generator: nn.Module, critic: nn.Module, optimizer: Adam) -> None:
        super().__init__(generator, critic, optimizer, n_critic=1, lambda_gp=0.0)

    def discriminator_loss(self, batch: Batch, allowed: Tensor | None = None) -> Losses:
        real = batch.x
        with torch.no_grad():
            fake = self.generator(self.noise(len(real))).to(real.dtype)
        scores = self.discriminator(torch.cat([real, fake]))
        # softplus(-s) = -log sigmoid(s)
        loss = F.softplus(-scores[: len(real)]).mean() + F.softplus(scores[len(real) :]).mean()
        return loss, {"discriminator": loss.detach()}

    def generator_loss(self, batch: Batch, allowed: Tensor | None = None) -> Losses:
        return F.softplus(-self.discriminator(self.generator(self.noise(len(batch.y))))).mean(), {}

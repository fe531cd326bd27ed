"""The GAN of Goodfellow et al. (2014), with the generator's loss that does not saturate."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_bench.data.batches import Batch
from cl_bench.methods.parts.wgan_gp import WGANGP
from cl_bench.networks.optimizers import Adam


class GAN(WGANGP):
    """Discriminator: minimise -E log D(x) - E log(1 - D(G(z))). Generator: minimise -E log D(G(z)).

    The players of `WGANGP` in another game: the critic's score is the logit of D, and both step on every mini-batch.
    """

    def __init__(self, generator: nn.Module, critic: nn.Module, optimizer: Adam) -> None:
        super().__init__(generator, critic, optimizer, n_critic=1, lambda_gp=0.0)

    def step(self, batch: Batch, optimizers: Any) -> dict[str, Tensor]:
        critic_optimizer, generator_optimizer = optimizers
        real = batch.x if self.mix is None else self.mix(batch).x
        fake = self.generator(self.noise(len(real)))
        scores = self.critic(torch.cat([real, fake.detach().to(real.dtype)]))
        # softplus(-s) = -log sigmoid(s)
        critic_loss = F.softplus(-scores[: len(real)]).mean() + F.softplus(scores[len(real) :]).mean()
        critic_optimizer.zero_grad()
        critic_loss.backward()
        critic_optimizer.step()

        self.critic.requires_grad_(False)
        loss = F.softplus(-self.critic(fake)).mean()
        generator_optimizer.zero_grad()
        loss.backward()
        generator_optimizer.step()
        self.critic.requires_grad_(True)
        return {"discriminator": critic_loss.detach(), "generator": loss.detach()}

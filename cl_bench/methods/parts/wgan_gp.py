"""The Wasserstein GAN with gradient penalty (Gulrajani et al., 2017)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cl_bench.config import NonNegative, Positive
from cl_bench.data.batches import Batch
from cl_bench.methods.parts.importance import eval_mode
from cl_bench.methods.parts.two_players import Losses, TwoPlayers, drawn
from cl_bench.networks.optimizers import Adam


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """mean_i (||grad D(x_i)||_2 - 1)^2 at x_i = mix_i real_i + (1 - mix_i) fake_i (equation 3).

    The norm is over all pixels of an image.

    Args:
        critic: images to scores (B,).
        real, fake: images (B, C, H, W).
        mix: uniform in [0, 1], shape (B,).

    >>> images = torch.zeros(2, 1, 1, 4)
    >>> float(gradient_penalty(lambda x: 2 * x.flatten(1).sum(1), images, images, torch.ones(2)))
    9.0
    """
    between = torch.lerp(fake, real, mix.view(-1, 1, 1, 1)).requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    norm = (slope.flatten(1).square().sum(1) + 1e-12).sqrt()
    return (norm - 1).square().mean()


class WGANGP(TwoPlayers):
    """Critic: minimize E D(G(z)) - E D(x) + lambda_gp * penalty. Generator: minimize -E D(G(z)) (algorithm 1).

    Args:
        generator: noise (B, z_dim) -> images in [0, 1].
        critic: images -> scores (B,), without batch normalization.
        optimizer: of both.
        n_critic: critic steps per generator step; more steps give the generator a better gradient and take longer.
        lambda_gp: weight of the penalty.
    """

    def __init__(
        self, generator: nn.Module, critic: nn.Module, optimizer: Adam, *, n_critic: Positive, lambda_gp: NonNegative
    ) -> None:
        super().__init__()
        self.generator, self.discriminator, self.optimizer = generator, critic, optimizer
        self.n_critic, self.lambda_gp = n_critic, lambda_gp

    def discriminator_loss(self, batch: Batch, allowed: Tensor | None = None) -> Losses:
        real = batch.x
        with torch.no_grad():
            fake = self.generator(self.noise(len(real))).to(real.dtype)
        penalty = gradient_penalty(self.discriminator, real, fake, torch.rand(len(real), device=real.device))
        scores = self.discriminator(torch.cat([real, fake]))
        distance = scores[: len(real)].mean() - scores[len(real) :].mean()
        return self.lambda_gp * penalty - distance, {"wasserstein": distance.detach(), "penalty": penalty.detach()}

    def generator_loss(self, batch: Batch, allowed: Tensor | None = None) -> Losses:
        return -self.discriminator(self.generator(self.noise(len(batch.y)))).mean(), {}

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """n images in [0, 1], shape (n, C, H, W), made in batches with the generator in evaluation mode."""
        with eval_mode(self.generator):
            return torch.cat([drawn(self.generator, self.noise(len(part))) for part in torch.arange(n).split(1000)])

    def draw(self, classes: Tensor, n: int) -> tuple[Tensor, None]:
        return self.sample(n), None

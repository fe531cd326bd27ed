"""A Wasserstein GAN with gradient penalty (Gulrajani et al., 2017): the generative memory of replay methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cl_bench.config import NonNegative, Positive
from cl_bench.data.batches import Batch, at_once
from cl_bench.methods.base import Learner, forget
from cl_bench.networks.optimizers import Adam


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """mean_i (||grad D(x_i)||_2 - 1)^2 at x_i = mix_i real_i + (1 - mix_i) fake_i (equation 3).

    The norm runs over all dimensions of an image. real, fake: (B, C, H, W). mix: uniform in [0, 1], shape (B,).
    """
    between = torch.lerp(fake, real, mix.view(-1, 1, 1, 1)).requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    norm = (slope.flatten(1).square().sum(1) + 1e-12).sqrt()
    return (norm - 1).square().mean()


class WGANGP(Learner):
    """Critic: minimise E D(G(z)) - E D(x) + lambda_gp * penalty. Generator: minimise -E D(G(z)).

    The critic takes a step on every mini-batch, the generator one after each `n_critic` of them.

    generator: z -> images in [0, 1]. critic: images -> scores (B,), without batch normalisation. optimizer: of
    both. n_critic: critic steps per generator step; more gives the generator a better slope to follow.
    lambda_gp: weight of the penalty.
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        optimizer: Adam,
        *,
        n_critic: Positive = 5,
        lambda_gp: NonNegative = 10.0,
    ) -> None:
        super().__init__()
        self.generator, self.critic, self.optimizer = generator, critic, optimizer
        self.n_critic, self.lambda_gp = n_critic, lambda_gp
        self.mix: Callable[[Batch], Batch] | None = None  # puts replayed images among the real ones of a mini-batch

    def noise(self, n: int) -> Tensor:
        return torch.randn(n, self.generator.z_dim, device=self.device)  # type: ignore[arg-type]

    def step(self, batch: Batch, optimizers: Any) -> dict[str, Tensor]:
        critic_optimizer, generator_optimizer = optimizers
        real = batch.x if self.mix is None else self.mix(batch).x
        with torch.no_grad():
            fake = self.generator(self.noise(len(real))).to(real.dtype)
        penalty = gradient_penalty(self.critic, real, fake, torch.rand(len(real), device=real.device))
        scores = self.critic(torch.cat([real, fake]))
        distance = scores[: len(real)].mean() - scores[len(real) :].mean()
        critic_optimizer.zero_grad()
        (self.lambda_gp * penalty - distance).backward()
        critic_optimizer.step()
        logs = {"wasserstein": distance.detach(), "penalty": penalty.detach()}

        if (self.at + 1) % self.n_critic == 0:
            self.critic.requires_grad_(False)
            loss = -self.critic(self.generator(self.noise(len(real)))).mean()
            generator_optimizer.zero_grad()
            loss.backward()
            generator_optimizer.step()
            self.critic.requires_grad_(True)
            logs["generator"] = loss.detach()
        return logs

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [self.optimizer(self.critic.parameters()), self.optimizer(self.generator.parameters())]

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """n images in [0, 1], shape (n, C, H, W), made in batches with the generator in evaluation mode."""
        training = self.generator.training
        self.generator.eval()
        images = torch.cat([drawn(self.generator, self.noise(len(part))) for part in torch.arange(n).split(1000)])
        self.generator.train(training)
        return images

    def reset(self) -> None:
        """Forgets everything: fresh random weights for the generator and the critic."""
        forget(self)


def drawn(generator: Callable[..., Tensor], *conditions: Tensor) -> Tensor:
    """One image for each row of the conditions, as many drawn together as memory is sure to hold.

    generator: in evaluation mode, where no image depends on the others.
    """
    if not len(conditions[0]):
        return generator(*conditions)
    size = at_once(generator(*(condition[:1] for condition in conditions)).shape[1:], 1000)
    parts = zip(*(condition.split(size) for condition in conditions), strict=True)
    return torch.cat([generator(*part) for part in parts])

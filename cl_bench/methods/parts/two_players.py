"""The training step that all GANs share: the discriminator and the generator learn in turn."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cl_bench.data.batches import Batch, at_once
from cl_bench.methods.base import Learner
from cl_bench.networks.optimizers import Optimizer

log = logging.getLogger(__name__)

Losses = tuple[Tensor, dict[str, Tensor]]
"""A loss, and detached scalars to log."""


class TwoPlayers(Learner):
    """The discriminator makes a step on every mini-batch, and the generator on every `n_critic`-th one.

    generator: noise, and classes if it is conditional, -> images in [0, 1]. optimizer: of both. conditional: whether
    images of given classes can be drawn.
    """

    generator: Any
    discriminator: nn.Module
    optimizer: Optimizer
    n_critic: int
    conditional: ClassVar[bool] = False

    def discriminator_loss(self, batch: Batch, **given: Any) -> Losses:
        """The loss of the discriminator. given: more arguments of the phase, the same for both losses."""
        raise NotImplementedError(f"{type(self).__name__} must say what its discriminator minimizes")

    def generator_loss(self, batch: Batch, **given: Any) -> Losses:
        """The loss of the generator, for a discriminator that does not change; arguments as above."""
        raise NotImplementedError(f"{type(self).__name__} must say what its generator minimizes")

    def draw(self, classes: Tensor, n: int) -> tuple[Tensor, Tensor | None]:
        """n images in [0, 1] and the classes given to the generator, in equal numbers; None if not conditional."""
        raise NotImplementedError(f"{type(self).__name__} must say how it draws")

    def train_step(
        self,
        batch: Batch,
        optimizers: Any,
        mix: Callable[[Batch], Batch] | None = None,
        penalty: Callable[[int], Tensor] | None = None,
        **given: Any,
    ) -> dict[str, Tensor]:
        """A step of the discriminator, and one of the generator if it is its turn.

        Args:
            mix: replaces some real images of the mini-batch by replayed ones.
            penalty: number of images -> a term that is added to the generator's loss.
            given: passed to both losses.
        """
        if not self.step_index and self.n_steps < self.n_critic:
            log.warning(
                "n_critic=%d: the generator learns nothing in a training of %d "
                "mini-batches; train longer, or decrease it",
                self.n_critic,
                self.n_steps,
            )
        discriminator_optimizer, generator_optimizer = optimizers
        batch = batch if mix is None else mix(batch)
        loss, logs = self.discriminator_loss(batch, **given)
        discriminator_optimizer.zero_grad()
        loss.backward()
        discriminator_optimizer.step()
        if self.generator_turn:
            self.discriminator.requires_grad_(False)
            loss, more = self.generator_loss(batch, **given)
            if penalty is not None:
                loss = loss + penalty(len(batch.y))
            generator_optimizer.zero_grad()
            loss.backward()
            generator_optimizer.step()
            self.discriminator.requires_grad_(True)
            logs |= {"generator": loss.detach(), **more}
        return logs

    @property
    def generator_turn(self) -> bool:
        """Whether the generator makes a step on this mini-batch."""
        return (self.step_index + 1) % self.n_critic == 0

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [self.optimizer(self.discriminator.parameters()), self.optimizer(self.generator.parameters())]

    def noise(self, n: int) -> Tensor:
        """Standard normal, (n, z_dim)."""
        return torch.randn(n, self.generator.z_dim, device=self.device)


def drawn(generator: Callable[..., Tensor], *conditions: Tensor) -> Tensor:
    """One image for each row of the conditions, drawn in parts that fit into memory.

    generator: in evaluation mode, so that no image depends on the others.
    """
    if not len(conditions[0]):
        return generator(*conditions)
    size = at_once(generator(*(condition[:1] for condition in conditions)).shape[1:], 1000)
    parts = zip(*(condition.split(size) for condition in conditions), strict=True)
    return torch.cat([generator(*part) for part in parts])


def balanced_labels(classes: Tensor, n: int) -> Tensor:
    """n labels, int64 (n,): the classes in turn. If n is not a multiple of their number, the first one is random.

    >>> balanced_labels(torch.tensor([3, 7]), 4).tolist()
    [3, 7, 3, 7]
    """
    # with a fixed first class, mini-batches smaller than the number of classes would never have the last classes
    first = int(torch.randint(len(classes), ())) if n % len(classes) else 0
    return classes[torch.arange(first, first + n, device=classes.device) % len(classes)]

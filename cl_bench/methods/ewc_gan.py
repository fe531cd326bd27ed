"""EWC on a generator (Seff et al., 2017): a penalty keeps the weights of a conditional generator near old weights."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_bench.config import NonNegative, Positive
from cl_bench.data.batches import Data, at_once
from cl_bench.data.problem import Problem, Task, masked
from cl_bench.methods.base import Fit, frozen
from cl_bench.methods.parts.acgan import ACGAN
from cl_bench.methods.parts.generative_replay import GenerativeReplay, HowLong, Scholar
from cl_bench.methods.parts.importance import sum_of_powers
from cl_bench.methods.parts.quadratic import QuadraticPenalty
from cl_bench.methods.parts.two_players import TwoPlayers, balanced_labels
from cl_bench.networks.base import Network
from cl_bench.networks.gan import with_class
from cl_bench.networks.optimizers import Optimizer


class EWCGAN(GenerativeReplay):
    """Objective of the GAN at task t: that of `ACGAN` on only the task's images, and for the generator also (strength /
    2) sum_j F_j (theta_j - theta*_j)^2. theta* are its weights at the end of task t-1. The discriminator has no
    penalty.

    A GAN has no likelihood for the Fisher information. Here F_j = E[(d L / d theta_j)^2] at the end of task t-1, over
    noise and all classes so far. L is a loss of a generated image under the discriminator at that time: its negative
    score (`critic`), or the cross-entropy of its classifier (`classifier`). F covers all old classes, so one F and one
    anchor are enough for all old tasks. The scale of L is arbitrary, so F is divided by its mean.

    A solver, trained on the task's images and replayed images as in `GenerativeReplay`, makes the predictions.

    Args:
        strength: lambda, in units of the mean importance; a higher value forgets less and learns less.
        fisher: L, `critic` or `classifier`.
        fisher_samples: number of generated images for F.

    The other arguments are those of `GenerativeReplay`.
    """

    kinds = ("class", "task")  # the condition is the class, and domains share their classes

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        *,
        gan: ACGAN,
        strength: NonNegative,
        fisher: Literal["critic", "classifier"],
        fisher_samples: Positive,
        n_gen: Positive,
        n_gen_mode: Literal["per_task", "total"],
        generator_epochs: HowLong,
        generator_steps: HowLong,
    ) -> None:
        super().__init__(
            problem,
            network,
            optimizer,
            gan=gan,
            n_gen=n_gen,
            n_gen_mode=n_gen_mode,
            generator_epochs=generator_epochs,
            generator_steps=generator_steps,
        )
        self.strength, self.fisher, self.fisher_samples = strength, fisher, fisher_samples
        self.penalty = QuadraticPenalty(self.drawing)

    @property
    def drawing(self) -> dict[str, nn.Parameter]:
        """The weights of the generator by name."""
        return dict(self.gan.generator.named_parameters())

    def learn_to_generate(self, task: Task, mixture: Data, old: Scholar | None, fit: Fit) -> None:
        penalty = (lambda n: self.strength / 2 * self.penalty(self.drawing)) if old else None
        self.fit_gan(task, task.train, fit, step=partial(self.gan.train_step, allowed=self.seen, penalty=penalty))
        self.penalty.replace(self.drawing, self.importance(), decay=0.0)

    def importance(self) -> dict[str, Tensor]:
        """F of every weight of the generator, by name, scaled to mean 1. All are 0 if L is constant."""
        y = balanced_labels(self.problem.seen(self.index).to(self.device), self.fisher_samples)
        conditions = with_class(self.gan.noise(len(y)), y, self.problem.n_outputs)
        answers = Answers(self.gan)
        total = {name: torch.zeros_like(weight) for name, weight in self.drawing.items()}
        size = at_once(self.problem.image_shape, 250)
        for some, labels in zip(conditions.split(size), y.split(size), strict=True):
            for name, value in sum_of_powers(answers, some, partial(self.loss_of, labels), power=2).items():
                total[name.removeprefix("generator.")] += value
        mean = torch.cat([value.flatten() for value in total.values()]).mean()
        least = torch.finfo(mean.dtype).tiny  # if L is constant, e.g. the cross-entropy of the only class so far
        return {name: value / mean.clamp(min=least) for name, value in total.items()}

    def loss_of(self, y: Tensor, answers: Tensor) -> list[Tensor]:
        """L for each image, (B,). y: its class, (B,). answers: from `Answers`, (B, 1 + n_outputs)."""
        if self.fisher == "critic":
            return [-answers[:, 0]]
        return [F.cross_entropy(masked(answers[:, 1:], self.seen), y, reduction="none")]


class Answers(nn.Module):
    """Conditions of the generator -> score and logits of the discriminator for its images, (B, 1 + n_outputs)."""

    def __init__(self, gan: TwoPlayers) -> None:
        super().__init__()
        self.generator, self.discriminator = gan.generator, frozen(gan.discriminator)

    def forward(self, conditions: Tensor) -> Tensor:
        score, logits = self.discriminator(self.generator.layers(conditions))
        return torch.cat([score[:, None], logits], dim=1)

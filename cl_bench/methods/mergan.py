"""Memory replay GANs (Wu et al., 2018): a conditional generator trains on its own old images, or is kept near them."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from cl_bench.config import NonNegative, Positive
from cl_bench.data.batches import Data
from cl_bench.data.problem import Problem, Task
from cl_bench.methods.base import Fit
from cl_bench.methods.parts.acgan import ACGAN
from cl_bench.methods.parts.generative_replay import GenerativeReplay, HowLong, Scholar
from cl_bench.methods.parts.two_players import balanced_labels
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer


class MeRGAN(GenerativeReplay):
    """Objective of the GAN at task t, which continues from the generator G_old at the end of task t-1:

    - joint training with replay: that of `ACGAN`, on the task's images and on images of old classes from G_old;
    - replay alignment: that of `ACGAN` on only the task's images, and for the generator also
      lambda_ra / n_old sum_c 1/2 sum_i ||G(z_i, c) - G_old(z_i, c)||^2 over the n_old old classes c (section 4.2).

    A solver, trained on the task's images and replayed images as in `GenerativeReplay`, makes the predictions. With
    alignment the discriminator gets only new classes and cannot distinguish them from old classes.

    Args:
        way: replay or alignment.
        lambda_ra: weight of the alignment.

    The other arguments are those of `GenerativeReplay`.
    """

    kinds = ("class", "task")  # the condition is the class, and domains share their classes
    unread: ClassVar[dict[str, dict[str, Any]]] = {
        "lambda_ra": {"way": "replay"},
    }

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        *,
        gan: ACGAN,
        way: Literal["replay", "alignment"],
        lambda_ra: NonNegative,
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
        self.way, self.lambda_ra = way, lambda_ra

    def learn_to_generate(self, task: Task, mixture: Data, old: Scholar | None, fit: Fit) -> None:
        if self.way == "replay":
            self.fit_gan(task, mixture, fit, step=partial(self.gan.train_step, allowed=self.seen))
        else:
            penalty = partial(self.alignment, old) if old else None
            self.fit_gan(task, task.train, fit, step=partial(self.gan.train_step, allowed=self.seen, penalty=penalty))

    def alignment(self, old: Scholar, n: int) -> Tensor:
        """The alignment term of n images: the same noise and classes for both generators, old classes in equal numbers.

        Pixels are scaled to [-1, 1], as in the paper.
        """
        y = balanced_labels(old.classes, n)
        z = self.gan.noise(n)
        with torch.no_grad():
            target = old.gan.generator(z, y)
        distance = 2 * (self.gan.generator(z, y) - target)
        return self.lambda_ra / len(old.classes) * distance.square().sum() / 2

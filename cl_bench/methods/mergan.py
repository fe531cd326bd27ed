"""Memory replay GANs (Wu et al., 2018): a conditional generator that is shown, or held to, what it drew before."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from cl_bench.config import NonNegative, Positive
from cl_bench.data.batches import Data
from cl_bench.data.problem import Problem, Task
from cl_bench.methods.base import Fit, frozen
from cl_bench.methods.dgr import DGR
from cl_bench.methods.parts.acgan import ACGAN, evenly
from cl_bench.networks.gan import ConditionalGenerator
from cl_bench.networks.optimizers import Optimizer


class MeRGAN(DGR):
    """Objective of the GAN at task t, which goes on from the generator G_old that task t-1 left:

    - joint training with replay: that of `ACGAN`, on the task's images and on images of G_old of past classes;
    - replay alignment: that of `ACGAN` on the task's images alone, and for the generator besides
      lambda_ra / (t-1) sum_c 1/2 sum_i ||G(z_i, c) - G_old(z_i, c)||^2 over past classes c (section 4.2).

    The learner is a solver of the task's images and of replayed ones, as in `DGR`: with alignment the discriminator
    sees the new classes only and can't tell them from the old.

    way: replay or alignment. lambda_ra: weight of the alignment. Others as for `DGR`.
    """

    kinds = ("class", "task")  # the condition is the class, and domains share their classes

    def __init__(
        self,
        problem: Problem,
        network: nn.Module,
        optimizer: Optimizer,
        *,
        gan: ACGAN,
        way: Literal["replay", "alignment"] = "replay",
        lambda_ra: NonNegative = 1e-3,
        n_gen: Positive = 12000,
        n_gen_mode: Literal["per_task", "total"] = "per_task",
        generator_epochs: Positive | list[Positive] | None = None,
        generator_steps: Positive | list[Positive] | None = None,
    ) -> None:
        how_long = {"generator_epochs": generator_epochs, "generator_steps": generator_steps}
        super().__init__(problem, network, optimizer, gan=gan, n_gen=n_gen, n_gen_mode=n_gen_mode, **how_long)  # type: ignore[arg-type]
        self.gan: ACGAN = gan
        self.way, self.lambda_ra = way, lambda_ra

    def learn_to_generate(self, task: Task, mixture: Data, fit: Fit) -> None:
        if self.way == "replay":
            self.fit_gan(task, mixture, fit)
        else:
            if task.index:
                self.gan.penalty = partial(self.alignment, frozen(self.gan.generator))
            self.fit_gan(task, task.train, fit)
            self.gan.penalty = None

    def alignment(self, old: ConditionalGenerator, n: int) -> Tensor:
        """How far the generator draws from the old one, for the same noise and each past class equally often.

        n: images in all. Pixels count in [-1, 1], as in the paper.
        """
        y = evenly(self.old_classes, n)
        z = self.gan.noise(n)
        with torch.no_grad():
            target = old(z, y)
        distance = 2 * (self.gan.generator(z, y) - target)
        return self.lambda_ra / len(self.old_classes) * distance.square().sum() / 2

"""The AC-GAN on all classes at once: the upper bound of the generative methods."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from cl_bench.config import Positive
from cl_bench.data.problem import Problem, Task
from cl_bench.methods.base import Fit, Method
from cl_bench.methods.parts.acgan import ACGAN
from cl_bench.methods.parts.memory import Memory
from cl_bench.methods.parts.sizes import bytes_of
from cl_bench.networks.base import reset_parameters


class JointGAN(Method):
    """Objective: that of `ACGAN`, on the union of all tasks, from random weights. Its classifier makes the predictions.

    Args:
        every: it is also trained and measured after each multiple of this number of tasks, not only after the last
            task.
        generator_epochs: passes over all images; None: as in the trainer.
        generator_steps: mini-batches instead.
    """

    family = "reference"
    kinds = ("class", "task")
    answers_by = ("gan.discriminator.",)
    refused: ClassVar[dict[str, str]] = {
        "scheduler": "trains only a GAN, whose step size is constant",
        "trainer.patience": "trains only a GAN",
        "trainer.freeze_batch_norm": "trains only a GAN, from random weights",
        "label_smoothing": "trains only a GAN, which has its own loss",
    }
    unread: ClassVar[dict[str, dict[str, Any]]] = {
        "network": {},
        "optimizer": {},
        "scenario.train_mask": {},
        "trainer.epochs": {"generator_epochs": ..., "generator_steps": ...},
        "trainer.iterations": {"generator_epochs": ..., "generator_steps": ...},
    }

    def __init__(
        self,
        problem: Problem,
        *,
        gan: ACGAN,
        every: Positive | None,
        generator_epochs: Positive | None,
        generator_steps: Positive | None,
    ) -> None:
        super().__init__(problem)
        self.gan, self.every = gan, every
        self.generator_epochs, self.generator_steps = generator_epochs, generator_steps
        self.memory = Memory(problem=problem)

    @property
    def measurable(self) -> bool:
        done = self.index + 1
        return done == self.problem.n_tasks or (self.every is not None and done % self.every == 0)

    def learn(self, task: Task, fit: Fit) -> dict[str, Any]:
        data = self.memory.add(task.train)
        if not self.measurable:
            return {}
        reset_parameters(self.gan)
        step = partial(self.gan.train_step, allowed=self.problem.mask("seen", after=task.index)[0].to(self.device))
        fit(self.gan, data, phase="gan", step=step, epochs=self.generator_epochs, steps=self.generator_steps)
        return {"generator_bytes": bytes_of(self.gan.generator.state_dict())}

    def forward(self, x: Tensor, index: int | None = None) -> Tensor:
        return self.gan.discriminator(x)[1]

    @property
    def answer_bytes(self) -> int:
        return bytes_of(self.gan.discriminator.state_dict())

    def generate(self, n: int) -> tuple[Tensor, Tensor]:
        y = self.problem.seen(self.index).to(self.device).repeat_interleave(n)
        return self.gan.sample(y), y

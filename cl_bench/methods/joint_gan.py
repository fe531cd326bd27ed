"""The AC-GAN on all classes at once: the upper bound of the generative methods."""

from __future__ import annotations

from torch import Tensor

from cl_bench.config import Positive
from cl_bench.data.problem import Problem, Task
from cl_bench.methods.base import Fit, Method, bytes_of
from cl_bench.methods.parts.acgan import ACGAN
from cl_bench.methods.parts.memory import Memory


class JointGAN(Method):
    """Objective: that of `ACGAN`, on the union of all tasks, from random weights; its classifier is the learner.

    every: trains so after this many tasks and its multiples too, not after the last alone; what lies between is not
    measured. generator_epochs: passes over all images, None for the trainer's. generator_steps: mini-batches instead.
    """

    kinds = ("class", "task")

    def __init__(
        self,
        problem: Problem,
        *,
        gan: ACGAN,
        every: Positive | None = None,
        generator_epochs: Positive | None = None,
        generator_steps: Positive | None = None,
    ) -> None:
        super().__init__(problem)
        self.gan, self.every = gan, every
        self.generator_epochs, self.generator_steps = generator_epochs, generator_steps
        self.memory = Memory()

    def learn(self, task: Task, fit: Fit) -> None:
        done = task.index + 1
        self.measurable = done == self.problem.n_tasks or (self.every is not None and done % self.every == 0)
        data = self.memory.keep(task.train)
        if self.measurable:
            self.gan.reset()
            self.gan.allowed = self.problem.mask("seen", after=task.index)[0].to(self.device)
            fit(self.gan, data, phase="gan", epochs=self.generator_epochs, steps=self.generator_steps)
            self.facts["generator_bytes"] = bytes_of(self.gan.generator)

    def forward(self, x: Tensor, task: int | None = None) -> Tensor:
        return self.gan.discriminator(x)[1]

    def generate(self, n: int) -> tuple[Tensor, Tensor]:
        y = self.problem.seen(self.task).to(self.device).repeat_interleave(n)
        return self.gan.sample(y), y

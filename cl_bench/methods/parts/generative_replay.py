"""A solver that learns with images of a generator, which learns task after task itself: what its kinds share."""

from __future__ import annotations

import logging
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from cl_bench.config import InputError, Positive
from cl_bench.data.batches import FLOATS, REPLAYED, Data, at_once
from cl_bench.data.problem import Problem, Task, masked
from cl_bench.methods.base import Classifier, Fit, frozen
from cl_bench.methods.parts.acgan import ACGAN
from cl_bench.methods.parts.sizes import bytes_of
from cl_bench.methods.parts.wgan_gp import WGANGP
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer

log = logging.getLogger(__name__)

HowLong = Positive | list[Positive] | None
CHECKED = 1000  # replayed images that the old solver looks at, to find a collapse


class Scholar(NamedTuple):
    """A generator and a solver that learn no more, as a task found them.

    allowed: what the solver may answer, bool (n_tasks, n_outputs). classes: of past tasks, int64. batch_size: see
    `Data`.
    """

    gan: WGANGP | ACGAN
    solver: nn.Module
    allowed: Tensor
    classes: Tensor
    batch_size: int


class GenerativeReplay(Classifier):
    """When a task begins, the generator that the last one left draws images of past classes. The solver (`network`)
    learns from the task's images and from these; then the generator learns, in the way of a child.

    Args:
        gan: the generator with its opponent.
        n_gen: images replayed.
        n_gen_mode: whether they are counted per past task or in total.
        generator_epochs: passes of the GAN over its images, one number or one per task; None for the trainer's.
        generator_steps: mini-batches instead, one number or one per task.
    """

    family = "generative replay"
    n_phases = 2

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        *,
        gan: WGANGP | ACGAN,
        n_gen: Positive,
        n_gen_mode: Literal["per_task", "total"],
        generator_epochs: HowLong,
        generator_steps: HowLong,
    ) -> None:
        super().__init__(problem, network, optimizer)
        for name, value in (("generator_epochs", generator_epochs), ("generator_steps", generator_steps)):
            if isinstance(value, list) and len(value) != problem.n_tasks:
                raise InputError(f"method.{name}={value}: needs one number, or one for each of {problem.n_tasks} tasks")
        self.gan, self.n_gen, self.n_gen_mode = gan, n_gen, n_gen_mode
        self.generator_epochs, self.generator_steps = generator_epochs, generator_steps

    def learn(self, task: Task, fit: Fit) -> dict[str, Any]:
        old = self.scholar(task.train.batch_size) if task.index else None
        data, diagnostics = self.mixture(task, old) if old else (task.train, {})
        fit(self, data, phase="solver", step=self.solver_step(old))
        self.learn_to_generate(task, data, old, fit)
        return diagnostics | {"generator_bytes": bytes_of(self.gan.generator.state_dict())}

    def learn_to_generate(self, task: Task, mixture: Data, old: Scholar | None, fit: Fit) -> None:
        """Trains the generator. mixture: the task's images and the replayed ones. old: None in the first task."""
        raise NotImplementedError(f"{type(self).__name__} must say how its generator learns")

    def solver_step(self, old: Scholar | None) -> Any:
        """What the solver does with a mini-batch; None for a step down its loss."""
        return None

    def mixture(self, task: Task, old: Scholar) -> tuple[Data, dict[str, Any]]:
        """The task's images and replayed ones, and what is worth knowing of these."""
        images, labels = self.generate_replay(old, self.n_gen * (task.index if self.n_gen_mode == "per_task" else 1))
        replay = Data(images, labels, torch.full_like(labels, REPLAYED, dtype=torch.int16))
        return task.train + replay, self.histogram(old, images[:CHECKED].float() / 255, labels)

    def fit_gan(self, task: Task, data: Data, fit: Fit, step: Any) -> None:
        """Trains the GAN on the data for as long as the settings say for this task. step: see `Fit`."""
        epochs, steps = (
            value[task.index] if isinstance(value, list) else value
            for value in (self.generator_epochs, self.generator_steps)
        )
        fit(self.gan, data, phase="generator", step=step, epochs=epochs, steps=steps)

    @property
    def seen(self) -> Tensor:
        """The outputs of the tasks so far, bool (n_outputs,)."""
        return self.problem.mask("seen", after=self.index)[0].to(self.device)

    def scholar(self, batch_size: int = 1) -> Scholar:
        """A frozen copy of generator and solver as they are when a task begins."""
        before = self.index - 1
        allowed = self.problem.mask(self.problem.rules["evaluation"], after=before).to(self.device)
        classes = self.problem.seen(before).to(self.device)
        return Scholar(frozen(self.gan), frozen(self.network), allowed, classes, batch_size)

    def replayed(self, old: Scholar, n: int) -> tuple[Tensor, Tensor]:
        """n images of the old generator, and the classes it was asked for or else those the old solver sees in them."""
        x, y = old.gan.draw(old.classes, n)
        return x, self.old_labels(old, x) if y is None else y

    @torch.no_grad()
    def old_logits(self, old: Scholar, x: Tensor) -> Tensor:
        """What the old solver says of images, as many at once as memory is sure to hold."""
        parts = x.split(at_once(x.shape[1:], 1000, batch_size=old.batch_size))
        return torch.cat([old.solver(part) for part in parts])

    def old_labels(self, old: Scholar, x: Tensor) -> Tensor:
        """The old solver's choice among the outputs it has learned, int64 (B,).

        With a head per task the image may have come from any of them: each image asks one old head, drawn at
        random, which in expectation is the mean over all old heads.
        """
        asked = torch.randint(self.index, (len(x),), device=x.device)
        return masked(self.old_logits(old, x), old.allowed[asked]).argmax(1)

    def generate_replay(self, old: Scholar, n: int) -> tuple[Tensor, Tensor]:
        """n replayed images, uint8, and their labels."""
        images = torch.empty(n, *self.problem.image_shape, dtype=torch.uint8, device=self.device)
        labels = torch.empty(n, dtype=torch.int64, device=self.device)
        size = at_once(self.problem.image_shape, 10000, numbers=FLOATS)
        for some, of_some in zip(images.split(size), labels.split(size), strict=True):
            x, y = self.replayed(old, len(some))
            some.copy_(x.mul_(255).round_())  # floats take four times as much room: no second set of them
            of_some.copy_(y)
        return images, labels

    def histogram(self, old: Scholar, images: Tensor, labels: Tensor) -> dict[str, Any]:
        """How many replayed images there are of each class, with a warning of a collapse to one class.

        Where classes were asked for, the old solver says what it sees, how often that is another class, and a collapse
        is one class in its eyes.

        Args:
            images: those of the first labels, in [0, 1].
        """
        counts = torch.bincount(labels, minlength=self.problem.n_outputs).tolist()
        diagnostics: dict[str, Any] = {"replay_histogram": counts}
        if old.gan.conditional:
            asked = labels[: len(images)]
            answered = masked(self.old_logits(old, images), old.allowed[self.task_of_output[asked]]).argmax(1)
            diagnostics["disagreement"] = float((answered != asked).float().mean())
            counts = torch.bincount(answered, minlength=self.problem.n_outputs).tolist()
        if len(old.classes) > 1 and sum(count > 0 for count in counts) == 1:
            n, task = sum(counts), self.index + 1
            log.warning(
                "task %d: the generator has collapsed; numbers of images per class among %d images: %s", task, n, counts
            )
        return diagnostics

    def generate(self, n: int) -> tuple[Tensor, Tensor]:
        """Images of the generator as it is, of the classes asked for or else by the solver's choice."""
        classes = self.problem.seen(self.index).to(self.device)
        spare = 1 if self.gan.conditional else 2
        x, labels = self.gan.draw(classes, spare * n * len(classes))
        if labels is None:
            parts = x.split(at_once(x.shape[1:], 1000))
            labels = torch.cat([masked(self(part), self.seen).argmax(1) for part in parts])
        rows = torch.cat([(labels == output).nonzero().squeeze(1)[:n] for output in classes])
        return x[rows], labels[rows]

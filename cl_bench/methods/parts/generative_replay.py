"""Generative replay, which DGR, MeRGAN and EWC-GAN share: a solver and a generator learn task after task."""

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
CHECKED = 1000  # replayed images that the old solver classifies, to detect a collapse of the generator


class Scholar(NamedTuple):
    """The generator and the solver at the end of the last task, frozen (a scholar of Shin et al., 2017).

    allowed: the outputs that the solver may predict, bool (n_tasks, n_outputs). classes: of past tasks, int64.
    batch_size: see `Data`.
    """

    gan: WGANGP | ACGAN
    solver: nn.Module
    allowed: Tensor
    classes: Tensor
    batch_size: int


class GenerativeReplay(Classifier):
    """When a task begins, the generator at the end of the last task draws images of past classes. The solver, which is
    `network`, learns from the task's images and these images. Then the generator learns, as a subclass defines.

    Args:
        gan: the generator with its critic or discriminator.
        n_gen: number of replayed images.
        n_gen_mode: `per_task`: n_gen for each past task; `total`: n_gen together.
        generator_epochs: passes of the GAN over its images, one number or one per task; None: as in the trainer.
        generator_steps: mini-batches instead, one number or one per task.

    Raises InputError for a list of lengths with another number of tasks.
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
        """Trains the generator. mixture: the task's images and replayed images. old: None in the first task."""
        raise NotImplementedError(f"{type(self).__name__} must say how its generator learns")

    def solver_step(self, old: Scholar | None) -> Any:
        """The step of the solver on a mini-batch, see `Fit`; None: a step on its loss."""
        return None

    def mixture(self, task: Task, old: Scholar) -> tuple[Data, dict[str, Any]]:
        """The task's images together with replayed images, and notes about these for the results."""
        images, labels = self.generate_replay(old, self.n_gen * (task.index if self.n_gen_mode == "per_task" else 1))
        replay = Data(images, labels, torch.full_like(labels, REPLAYED, dtype=torch.int16))
        return task.train + replay, self.histogram(old, images[:CHECKED].float() / 255, labels)

    def fit_gan(self, task: Task, data: Data, fit: Fit, step: Any) -> None:
        """Trains the GAN on the data, for the length that the settings have for this task. step: see `Fit`."""
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
        """A frozen copy of generator and solver when a task begins."""
        before = self.index - 1
        allowed = self.problem.mask(self.problem.rules["evaluation"], after=before).to(self.device)
        classes = self.problem.seen(before).to(self.device)
        return Scholar(frozen(self.gan), frozen(self.network), allowed, classes, batch_size)

    def replayed(self, old: Scholar, n: int) -> tuple[Tensor, Tensor]:
        """n images of the old generator, in [0, 1], and their labels: the classes given to it, or else predictions."""
        x, y = old.gan.draw(old.classes, n)
        return x, self.old_labels(old, x) if y is None else y

    @torch.no_grad()
    def old_logits(self, old: Scholar, x: Tensor) -> Tensor:
        """The logits of the old solver for images (B, C, H, W), computed in parts that fit into memory."""
        parts = x.split(at_once(x.shape[1:], 1000, batch_size=old.batch_size))
        return torch.cat([old.solver(part) for part in parts])

    def old_labels(self, old: Scholar, x: Tensor) -> Tensor:
        """The classes that the old solver predicts, int64 (B,).

        In task-incremental learning an image may belong to any old task. For each image one old head is drawn at
        random and makes the prediction. In expectation the loss is the mean over all old heads.
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
            some.copy_(x.mul_(255).round_())  # in place: floats take four times as much memory as uint8
            of_some.copy_(y)
        return images, labels

    def histogram(self, old: Scholar, images: Tensor, labels: Tensor) -> dict[str, Any]:
        """The number of replayed images of each class. Warns if the generator has collapsed to one class.

        A conditional generator has given classes. Then the old solver classifies the images: the notes also have the
        share of images of another class than the given one, and a collapse is one predicted class for all images.

        Args:
            images: the first images, in [0, 1].
            labels: of all images, int64 (n,).
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
        """Images of the current generator, with the classes given to it, or else with predictions of the solver."""
        classes = self.problem.seen(self.index).to(self.device)
        spare = 1 if self.gan.conditional else 2
        x, labels = self.gan.draw(classes, spare * n * len(classes))
        if labels is None:
            parts = x.split(at_once(x.shape[1:], 1000))
            labels = torch.cat([masked(self(part), self.seen).argmax(1) for part in parts])
        rows = torch.cat([(labels == output).nonzero().squeeze(1)[:n] for output in classes])
        return x[rows], labels[rows]

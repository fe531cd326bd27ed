"""Deep generative replay (Shin et al., 2017): a solver, and a generator that dreams of the past for it."""

from __future__ import annotations

import logging
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_bench.config import InputError, Positive, Rate, Share
from cl_bench.data.batches import FLOATS, REPLAYED, Batch, Data, at_once
from cl_bench.data.problem import Problem, Task, masked
from cl_bench.methods.base import Classifier, Fit, bytes_of, frozen
from cl_bench.methods.parts.acgan import ACGAN, evenly
from cl_bench.methods.parts.wgan_gp import WGANGP
from cl_bench.networks.optimizers import Optimizer

log = logging.getLogger(__name__)


class Scholar(NamedTuple):
    """A generator and a solver that learn no more.

    allowed: what the solver may answer, bool (n_tasks, n_outputs). batch_size: see `Data`.
    """

    gan: WGANGP | ACGAN
    solver: nn.Module
    allowed: Tensor
    batch_size: int


class DGR(Classifier):
    """Objective at task t, of the solver: r CE(x, y) + (1 - r) CE(x', y'), with images x' of the generator that
    task t-1 left and their labels y' by the solver that task t-1 left; of the generator: the same mixture.

    replay: `fixed` draws the images once per task, `n_gen` of them, and mixes them with the task's own (then
    r is the task's share of the images); `fresh` draws new ones for every mini-batch.
    n_gen: images replayed per past task, or in total (`n_gen_mode`). ratio: r for fresh replay, None for 1 / t.
    labels: the old solver's choice (hard), or its softened prediction as a target (soft, temperature 2).
    balance (of a fixed set): draw more images than needed and keep equally many of each class, as far as they come.
    generator: starts each task from random weights (reset) or from the last task's (continue).
    generator_epochs: passes over the mixture, one number or one per task, None for the trainer's. generator_steps:
    mini-batches for the generator per task instead, one number or one per task.
    """

    n_phases = 2

    def __init__(
        self,
        problem: Problem,
        network: nn.Module,
        optimizer: Optimizer,
        *,
        gan: WGANGP | ACGAN,
        n_gen: Positive = 12000,
        n_gen_mode: Literal["per_task", "total"] = "per_task",
        replay: Literal["fixed", "fresh"] = "fixed",
        ratio: Share | None = None,
        labels: Literal["hard", "soft"] = "hard",
        temperature: Rate = 2.0,
        balance: bool = False,
        generator: Literal["reset", "continue"] = "reset",
        generator_epochs: Positive | list[Positive] | None = None,
        generator_steps: Positive | list[Positive] | None = None,
    ) -> None:
        super().__init__(problem, network, optimizer)
        for name, value in (("generator_epochs", generator_epochs), ("generator_steps", generator_steps)):
            if isinstance(value, list) and len(value) != problem.n_tasks:
                raise InputError(f"method.{name}={value}: needs one number, or one for each of {problem.n_tasks} tasks")
        if balance and replay == "fresh":
            raise InputError(
                "method.balance=true: fresh replay is drawn a mini-batch at a time; use method.replay=fixed"
            )
        self.gan = gan
        self.n_gen, self.n_gen_mode = n_gen, n_gen_mode
        self.replay, self.ratio = replay, ratio
        self.labels, self.temperature = labels, temperature
        self.balance, self.generator = balance, generator
        self.generator_epochs, self.generator_steps = generator_epochs, generator_steps
        self._old: Scholar | None = None  # what task t-1 left; rebuilt from the state, so no part of it

    def learn(self, task: Task, fit: Fit) -> None:
        self._old = self.scholar(task.train.batch_size) if task.index else None
        data = task.train
        if task.index and self.replay == "fixed":
            data = data + self.dream(self.n_gen * (task.index if self.n_gen_mode == "per_task" else 1))
        elif task.index:
            self.note(*self.replayed(1000))
        fit(self, data, phase="solver")
        self.learn_to_generate(task, data, fit)
        self._old = None
        self.facts["generator_bytes"] = bytes_of(self.gan.generator)

    def learn_to_generate(self, task: Task, mixture: Data, fit: Fit) -> None:
        """Trains the generator on the mixture of real and replayed images."""
        if self.generator == "reset" and task.index:
            self.gan.reset()
        self.gan.mix = self.mixed if task.index and self.replay == "fresh" else None
        self.fit_gan(task, mixture, fit)
        self.gan.mix = None

    def fit_gan(self, task: Task, data: Data, fit: Fit) -> None:
        """Trains the GAN on the data for as long as the settings say for this task."""
        epochs, steps = (
            value[task.index] if isinstance(value, list) else value
            for value in (self.generator_epochs, self.generator_steps)
        )
        if isinstance(self.gan, ACGAN):
            self.gan.allowed = self.problem.mask("seen", after=task.index)[0].to(self.device)
        fit(self.gan, data, phase="generator", epochs=epochs, steps=steps)

    def loss(self, batch: Batch) -> Tensor:
        if self._old is None or (self.replay == "fixed" and self.labels == "hard"):
            return super().loss(batch)
        if self.replay == "fresh":
            r = self.share
            return r * super().loss(batch) + (1 - r) * self.replay_loss(*self.replayed(len(batch.y))).mean()
        new = F.cross_entropy(self.active(self(batch.x), batch.y), batch.y, reduction="none")
        return torch.where(batch.task == REPLAYED, self.replay_loss(batch.x, batch.y), new).mean()

    def replay_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """How far the solver is from the old solver's answer, hard or soft, for each replayed image (B,)."""
        logits = self(x)
        if self.labels == "hard":
            return F.cross_entropy(self.active(logits, y), y, reduction="none")
        # the old solver gives classes it never saw no probability, and the softmax of training includes them:
        # without that nothing would hold the new classes down on old images
        old = self.old.allowed[self.task_of_output[y]]
        target = masked(self.old_logits(x) / self.temperature, old).softmax(1)
        return F.cross_entropy(self.active(logits / self.temperature, y), target, reduction="none")

    @property
    def share(self) -> float:
        """r, the weight of the current task in fresh replay."""
        return 1 / (self.task + 1) if self.ratio is None else self.ratio

    def mixed(self, batch: Batch) -> Batch:
        """A mini-batch with the share 1 - r of its images replaced by the old generator's."""
        kept = round(self.share * len(batch.y))
        if kept == len(batch.y):
            return batch
        x, y = self.replayed(len(batch.y) - kept)
        replayed = x, y, torch.full_like(batch.task[kept:], REPLAYED)
        return Batch(*(torch.cat([new[:kept], old]) for new, old in zip(batch[:3], replayed, strict=True)))

    def replayed(self, n: int) -> tuple[Tensor, Tensor]:
        """n images of the old generator, and the classes it was asked for or else those the old solver sees in them."""
        if isinstance(self.old.gan, ACGAN):
            y = evenly(self.old_classes, n)
            return self.old.gan.sample(y), y
        x = self.old.gan.sample(n)
        return x, self.old_labels(x)

    @torch.no_grad()
    def old_logits(self, x: Tensor) -> Tensor:
        """What the old solver says of images, as many at once as memory is sure to hold."""
        parts = x.split(at_once(x.shape[1:], 1000, batch_size=self.old.batch_size))
        return torch.cat([self.old.solver(self.normalised(part)) for part in parts])

    def old_labels(self, x: Tensor) -> Tensor:
        """The old solver's choice among the outputs it has learned, int64 (B,).

        With a head per task the image may have come from any of them: each image asks one old head, drawn at
        random, which in expectation is the mean over all old heads.
        """
        asked = torch.randint(self.task, (len(x),), device=x.device)
        return masked(self.old_logits(x), self.old.allowed[asked]).argmax(1)

    @property
    def old(self) -> Scholar:
        assert self._old, "there is no old scholar in the first task"
        return self._old

    def scholar(self, batch_size: int = 1) -> Scholar:
        """A frozen copy of generator and solver as they are when a task begins."""
        allowed = self.problem.mask(self.problem.rules["evaluation"], after=self.task - 1).to(self.device)
        return Scholar(frozen(self.gan), frozen(self.network), allowed, batch_size)

    @property
    def old_classes(self) -> Tensor:
        """The outputs of past tasks."""
        return self.problem.seen(self.task - 1).to(self.device)

    def dream(self, n: int) -> Data:
        """n replayed images as data."""
        images, labels = self._dreamt(n)
        if self.balance:
            images, labels = self._balanced(images, labels, n)
        self.note(images[:1000].float() / 255, labels)
        return Data(images, labels, torch.full_like(labels, REPLAYED, dtype=torch.int16))

    def note(self, images: Tensor, labels: Tensor) -> None:
        """Puts the classes of replayed images among the task's facts, and warns of a collapse to one class.

        images: those of the first labels; where the classes were asked for, the old solver is asked what it sees, and
        a collapse is one class in its eyes.
        """
        counts = torch.bincount(labels, minlength=self.problem.n_outputs).tolist()
        self.facts["replay_histogram"] = counts
        if isinstance(self.gan, ACGAN):
            asked = labels[: len(images)]
            seen = masked(self.old_logits(images), self.old.allowed[self.task_of_output[asked]]).argmax(1)
            self.facts["disagreement"] = float((seen != asked).float().mean())
            counts = torch.bincount(seen, minlength=self.problem.n_outputs).tolist()
        if len(self.old_classes) > 1 and sum(count > 0 for count in counts) == 1:
            n, task = sum(counts), self.task + 1
            log.warning("task %d: the generator has collapsed; class counts of %d images: %s", task, n, counts)

    def _dreamt(self, n: int) -> tuple[Tensor, Tensor]:
        images = torch.empty(n, *self.problem.image_shape, dtype=torch.uint8, device=self.device)
        labels = torch.empty(n, dtype=torch.int64, device=self.device)
        size = at_once(self.problem.image_shape, 10000, numbers=FLOATS)
        for some, of_some in zip(images.split(size), labels.split(size), strict=True):
            x, y = self.replayed(len(some))
            some.copy_(x.mul_(255).round_())  # floats take four times as much room: no second set of them
            of_some.copy_(y)
        return images, labels

    def _balanced(self, images: Tensor, labels: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Up to four times as many draws; n / classes of each class, the rest filled with what there is."""
        drawn = [(images, labels), *(self._dreamt(n) for _ in range(3))]
        images, labels = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        rank = torch.zeros_like(labels)
        for label in self.old_classes:
            rows = labels == label
            rank[rows] = torch.arange(int(rows.sum()), device=rank.device)
        surplus = (rank >= -(-n // len(self.old_classes))).long()
        rows = torch.argsort(surplus, stable=True)[:n]  # every class's share first, then whatever came
        return images[rows], labels[rows]

    def generate(self, n: int) -> tuple[Tensor, Tensor]:
        """Images of the generator as it is, of the classes asked for or else by the solver's choice."""
        classes = self.problem.seen(self.task).to(self.device)
        if isinstance(self.gan, ACGAN):
            labels = classes.repeat_interleave(n)
            return self.gan.sample(labels), labels
        allowed = self.problem.mask("seen", after=self.task)[0].to(self.device)
        x = self.gan.sample(2 * n * len(classes))
        parts = x.split(at_once(x.shape[1:], 1000))
        labels = torch.cat([masked(self(part), allowed).argmax(1) for part in parts])
        rows = torch.cat([(labels == output).nonzero().squeeze(1)[:n] for output in classes])
        return x[rows], labels[rows]

"""Deep generative replay (Shin et al., 2017): a generator draws images of old tasks, and the old solver labels them."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_bench.config import InputError, Positive, Rate, Share
from cl_bench.data.batches import REPLAYED, Batch, Data
from cl_bench.data.problem import Problem, Task, masked
from cl_bench.methods.base import Fit
from cl_bench.methods.parts.acgan import ACGAN
from cl_bench.methods.parts.generative_replay import CHECKED, GenerativeReplay, HowLong, Scholar
from cl_bench.methods.parts.wgan_gp import WGANGP
from cl_bench.networks.base import Network, reset_parameters
from cl_bench.networks.optimizers import Optimizer


class DGR(GenerativeReplay):
    """Objective of the solver at task t: r CE(x, y) + (1 - r) CE(x', y'). x' are images of the generator at the end of
    task t-1, and the solver at the end of task t-1 gives their labels y'. The generator trains on the same mixture.

    Args:
        replay: `fixed` draws `n_gen` images once per task and mixes them with the task's images; then r is the task's
            share of the images. `fresh` draws new images for every mini-batch.
        ratio: r for fresh replay; None: 1 / t.
        labels: the class that the old solver predicts (hard), or its probabilities at a temperature (soft).
        temperature: of soft labels; 2 in the literature.
        balance: with `fixed`, draw more images than needed and keep the same number of each class, if there are enough.
        generator: each task starts from random weights (reset) or from the last task's weights (continue).

    The other arguments are those of `GenerativeReplay`.
    """

    unread: ClassVar[dict[str, dict[str, Any]]] = {
        "temperature": {"labels": "hard"},
        "ratio": {"replay": "fixed"},
        "n_gen": {"replay": "fresh"},
        "n_gen_mode": {"replay": "fresh"},
    }

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        *,
        gan: WGANGP | ACGAN,
        n_gen: Positive,
        n_gen_mode: Literal["per_task", "total"],
        replay: Literal["fixed", "fresh"],
        ratio: Share | None,
        labels: Literal["hard", "soft"],
        temperature: Rate,
        balance: bool,
        generator: Literal["reset", "continue"],
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
        if balance and replay == "fresh":
            raise InputError("method.balance=true: needs one fixed set of images; set method.replay=fixed")
        self.replay, self.ratio = replay, ratio
        self.labels, self.temperature = labels, temperature
        self.balance, self.generator = balance, generator

    def mixture(self, task: Task, old: Scholar) -> tuple[Data, dict[str, Any]]:
        if self.replay == "fixed":
            return super().mixture(task, old)
        return task.train, self.histogram(old, *self.replayed(old, CHECKED))

    def learn_to_generate(self, task: Task, mixture: Data, old: Scholar | None, fit: Fit) -> None:
        if self.generator == "reset" and task.index:
            reset_parameters(self.gan)
        mix = partial(self.mixed, old) if old and self.replay == "fresh" else None
        self.fit_gan(task, mixture, fit, step=partial(self.gan.train_step, mix=mix, allowed=self.seen))

    def solver_step(self, old: Scholar | None) -> Any:
        return partial(self.train_step, old=old)

    def loss(self, batch: Batch, old: Scholar | None = None) -> Tensor:
        if old is None or (self.replay == "fixed" and self.labels == "hard"):
            return super().loss(batch)
        if self.replay == "fresh":
            r, (x, y) = self.share, self.replayed(old, len(batch.y))
            return r * super().loss(batch) + (1 - r) * self.replay_loss(old, x, y).mean()
        new = self.cross_entropy(self.active(self(batch.x), batch.y), batch.y, reduction="none")
        return torch.where(batch.task_ids == REPLAYED, self.replay_loss(old, batch.x, batch.y), new).mean()

    def replay_loss(self, old: Scholar, x: Tensor, y: Tensor) -> Tensor:
        """The cross-entropy with the label of the old solver, hard or soft, for each replayed image, (B,)."""
        logits = self(x)
        if self.labels == "hard":
            return self.cross_entropy(self.active(logits, y), y, reduction="none")
        # soft labels are 0 for new classes, and the training softmax has these classes: this lowers the logits of new
        # classes for old images
        allowed = old.allowed[self.task_of_output[y]]
        target = masked(self.old_logits(old, x) / self.temperature, allowed).softmax(1)
        return F.cross_entropy(self.active(logits / self.temperature, y), target, reduction="none")

    @property
    def share(self) -> float:
        """r, the weight of the current task in fresh replay."""
        return 1 / (self.index + 1) if self.ratio is None else self.ratio

    def mixed(self, old: Scholar, batch: Batch) -> Batch:
        """The mini-batch, with a share 1 - r of its images replaced by images of the old generator."""
        kept = round(self.share * len(batch.y))
        if kept == len(batch.y):
            return batch
        x, y = self.replayed(old, len(batch.y) - kept)
        replayed = x, y, torch.full_like(batch.task_ids[kept:], REPLAYED)
        new = batch.x, batch.y, batch.task_ids
        x, y, task_ids = (torch.cat([part[:kept], drawn]) for part, drawn in zip(new, replayed, strict=True))
        return Batch(x, y, task_ids)

    def generate_replay(self, old: Scholar, n: int) -> tuple[Tensor, Tensor]:
        images, labels = super().generate_replay(old, n)
        return self.balanced(old, images, labels, n) if self.balance else (images, labels)

    def balanced(self, old: Scholar, images: Tensor, labels: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """n images from four times as many draws: n / (number of classes) of each class; others, if there are fewer."""
        drawn = [(images, labels), *(super(DGR, self).generate_replay(old, n) for _ in range(3))]
        images, labels = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        rank = torch.zeros_like(labels)
        for label in old.classes:
            rows = labels == label
            rank[rows] = torch.arange(int(rows.sum()), device=rank.device)
        surplus = (rank >= -(-n // len(old.classes))).long()
        rows = torch.argsort(surplus, stable=True)[:n]  # first the share of each class, then all others
        return images[rows], labels[rows]

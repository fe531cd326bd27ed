"""Gradient-based sample selection (Aljundi et al., 2019b), greedy: keeps images with different gradients."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from cl_bench.config import Positive
from cl_bench.data.batches import Batch
from cl_bench.data.problem import Problem
from cl_bench.methods.base import Classifier
from cl_bench.methods.parts.cosines import cosines
from cl_bench.methods.parts.memory import Budget, Memory
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer

Selection = Literal["greedy", "random"]


class GSS(Classifier):
    """Objective at each step: the mean cross-entropy on the mini-batch and on images from memory together.

    greedy (algorithm 2): after the step each image gets a score: 1 + the largest cosine of its gradient with the
    gradients of some images drawn from memory. While there are free places, the image is kept. Then an image with score
    c < 1, whose gradient points away from all of them, may replace image i, drawn with a probability proportional to
    its score C_i. It does so with probability C_i / (C_i + c). So the kept images have different gradients, for any
    order and frequency of classes.

    random, the baseline of the paper: the new memory is drawn from the memory and the mini-batch together, each with
    the same probability. Unlike in a reservoir, old images disappear over time.

    Args:
        memory: images kept, each with its score, counted in total.
        selection: `greedy` or `random`, as above.
        n_replay: images from memory in each step; None: as many as the mini-batch has.
        n_compared: images from memory whose gradients a new image is compared with.
    """

    family = "rehearsal"
    needs_borders: ClassVar[bool] = False
    unread: ClassVar[dict[str, dict[str, Any]]] = {
        "n_compared": {"selection": "random"},
    }

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        memory: Budget,
        *,
        selection: Selection,
        n_replay: Positive | None = None,
        n_compared: Positive,
    ) -> None:
        super().__init__(problem, network, optimizer)
        self.memory = Scored(memory.places(problem, n_logits=1), problem)  # a score takes the bytes of a logit
        self.selection: Selection = selection
        self.n_replay, self.n_compared = n_replay, n_compared

    def train_step(self, batch: Batch, optimizers: torch.optim.Optimizer) -> dict[str, Tensor]:
        logs = super().train_step(batch, optimizers)
        if not batch.updates_left:  # a mini-batch enters the memory once, after its last step
            if self.selection == "greedy":
                self.memory.greedy(batch, self.scores(batch))
            else:
                self.memory.random(batch)
        return logs

    def loss(self, batch: Batch) -> Tensor:
        if not len(self.memory):
            return super().loss(batch)
        old = self.memory.sample(self.n_replay or len(batch.y))
        x, y = torch.cat([batch.x, old.x]), torch.cat([batch.y, old.y])
        return self.cross_entropy(self.active(self(x), y), y)

    def scores(self, batch: Batch) -> Tensor:
        """The score of each image, (B,), in [0, 2]: 1 + its largest cosine with some images of memory; 1 if memory is
        empty."""
        if not len(self.memory):
            return torch.ones(len(batch.y), device=batch.y.device)
        kept = self.memory.sample(self.n_compared)
        x, y = torch.cat([batch.x, kept.x]), torch.cat([batch.y, kept.y])
        with torch.autocast(x.device.type, enabled=False):
            return 1 + cosines(self.network, x, partial(self.slopes, y=y), len(batch.y)).amax(1)

    def slopes(self, logits: Tensor, y: Tensor) -> Tensor:
        """The gradient of the cross-entropy of each image by its logits, both (B, n_outputs)."""
        logits = logits.detach().requires_grad_()
        return torch.autograd.grad(self.cross_entropy(self.active(logits, y), y, reduction="sum"), logits)[0]


class Scored(Memory):
    """Images of a stream of mini-batches, each with a score. No operation waits for a GPU.

    Args:
        places: largest number of images kept.
        problem: the benchmark of the images.
    """

    PARTS = (*Memory.PARTS, "scores")
    scores: Tensor

    def __init__(self, places: int, problem: Problem | None = None) -> None:
        super().__init__(problem=problem)
        self.places = places
        self.register_buffer("scores", torch.empty(0))

    def greedy(self, batch: Batch, scores: Tensor) -> None:
        """Adds a mini-batch. scores: of its images, (B,).

        When all places are taken, each new image draws a place, with a probability proportional to the score there. No
        place is drawn twice. The scores change after all draws.
        """
        late = self._append(batch, scores)
        for rows in late.split(self.places) if len(late) else ():
            race = self.scores / torch.empty(len(self)).exponential_().to(scores)  # the largest are a weighted draw
            place, uniform = race.topk(len(rows)).indices, torch.rand(len(rows)).to(scores)
            old, new = self.scores[place], scores[rows]
            self._put(place, rows, batch, scores, where=(new < 1) & (uniform * (old + new) < old))

    def random(self, batch: Batch) -> None:
        """Adds a mini-batch. The new memory is a random choice from the memory and the mini-batch together."""
        scores = torch.ones(len(batch.y), device=batch.y.device)
        rows = self._append(batch, scores)
        order = torch.randperm(self.places + len(rows))
        stays, goes = order[: self.places], order[self.places :]
        comes, place = stays[stays >= self.places] - self.places, goes[goes < self.places].to(rows)
        self._put(place, rows[comes.to(rows)], batch, scores, where=torch.ones_like(place, dtype=torch.bool))

    def _append(self, batch: Batch, scores: Tensor) -> Tensor:
        """Keeps the first images while there are free places. Returns the rows of the others."""
        assert batch.images is not None, "a generated image is not kept"
        n, room = len(self), self.places - len(self)
        if room:
            for name, part in zip(self.PARTS, (batch.images, batch.y, batch.task_ids, scores), strict=True):
                kept = getattr(self, name).view(n, *part.shape[1:])
                setattr(self, name, torch.cat([kept, part[:room].to(kept.dtype)]))
        return torch.arange(min(room, len(batch.y)), len(batch.y), device=batch.y.device)

    def _put(self, place: Tensor, rows: Tensor, batch: Batch, scores: Tensor, where: Tensor) -> None:
        """Writes these rows of the mini-batch to these places, all different, if `where` is true for them."""
        assert batch.images is not None
        for name, part in zip(self.PARTS, (batch.images, batch.y, batch.task_ids, scores), strict=True):
            kept = getattr(self, name)
            old, new = kept.index_select(0, place), part.index_select(0, rows).to(kept.dtype)
            kept.index_copy_(0, place, torch.where(where.view(-1, *[1] * (old.dim() - 1)), new, old))

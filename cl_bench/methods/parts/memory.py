"""Real images that a method keeps between tasks."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cl_bench.config import InputError, Positive
from cl_bench.data.batches import Batch, Data
from cl_bench.data.on_disk import in_memory
from cl_bench.data.problem import Problem
from cl_bench.networks.growing import Growing
from cl_bench.seeding import derive

log = logging.getLogger(__name__)

Per = Literal["total", "class", "task"]


@dataclass(frozen=True)
class Budget:
    """How much of the past a rehearsal method may keep; the key `memory`, the same for all of them.

    Args:
        images: how many images.
        per: what `images` counts: all that are kept, those of each class of a task, or those of each task.
        bytes: instead of `images`, so many bytes: of pixels, labels, tasks, and what a method keeps with each image.
        available: training images of all tasks; no reservoir has more places.
    """

    images: Positive
    per: Per = "total"
    bytes: Positive | None = None
    available: int | None = None

    def count(self, problem: Problem, n_logits: int = 0) -> int:
        """The images that it allows, each kept with so many logits; says so where there are fewer.

        Raises InputError when it is too few bytes for a single one.
        """
        size = bytes_per_image(problem, n_logits)
        n_images = self.images if self.bytes is None else self.bytes // size
        if not n_images:
            raise InputError(f"memory.bytes={self.bytes}: an image takes {size}; set at least this number")
        times = {"total": 1, "class": sum(map(len, problem.outputs)), "task": problem.n_tasks}[self.per]
        if self.available is not None and n_images * times > self.available:
            log.warning("%s: there are only %d training images, and all of them are kept", self, self.available)
        return n_images

    def places(self, problem: Problem, n_logits: int = 0) -> int:
        """The places of a reservoir. Raises InputError for a budget per class or task, as a stream has neither."""
        if self.per != "total":
            raise InputError(f"memory.per={self.per}: a reservoir has one total size; set memory.per=total")
        n_images = self.count(problem, n_logits)
        return n_images if self.available is None else min(n_images, self.available)

    def __str__(self) -> str:
        """As a person types it."""
        return f"memory.images={self.images}" if self.bytes is None else f"memory.bytes={self.bytes}"


def bytes_per_image(problem: Problem, n_logits: int = 0) -> int:
    """Bytes of an image in memory: its pixels (uint8) or features (float32), label (int64), task (int16) and logits
    (float32)."""
    return math.prod(problem.image_shape) * problem.image_dtype.itemsize + 8 + 2 + 4 * n_logits


class Memory(Growing):
    """Images and labels of past tasks; their bytes are part of the method's state.

    Images are kept as they lie in the data set (uint8; features as float32). A sample is seen as a mini-batch of their
    task is: permuted, cropped.

    A total is shared equally by the classes of the tasks so far, a class that comes back in another task being another
    one: old ones give way to new ones.

    Args:
        budget: how many images; None for all.
        problem: what they are of.

    Raises InputError for a total that leaves a class with nothing.
    """

    PARTS: ClassVar[tuple[str, ...]] = ("images", "labels", "task_ids")
    images: Tensor
    labels: Tensor
    task_ids: Tensor

    def __init__(self, budget: Budget | None = None, problem: Problem | None = None) -> None:
        super().__init__()
        self.view, self.augment = (problem.view, problem.augment) if problem else (None, None)
        self.per: Per = "total"
        self.n_images: int | None = None
        if budget and problem:
            self.per, self.n_images = budget.per, budget.count(problem)
            classes = sum(map(len, problem.outputs))
            if self.per == "total" and self.n_images < classes:
                holds = f" holds {self.n_images} images," if budget.bytes else ""
                missing = f"less than one image for each of {classes} classes of all tasks together"
                raise InputError(f"{budget}:{holds} {missing}; set more, or memory.per=class or task")
        self.register_buffer("images", torch.empty(0, dtype=problem.image_dtype if problem else torch.uint8))
        self.register_buffer("labels", torch.empty(0, dtype=torch.int64))
        self.register_buffer("task_ids", torch.empty(0, dtype=torch.int16))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def data(self) -> Data:
        """All that is kept."""
        return Data(self.images, self.labels, self.task_ids, self.view, self.augment)

    def draw(self, n: int) -> Tensor:
        """n different rows at random, all of them where there are fewer; int64."""
        return torch.randperm(len(self))[:n].to(self.labels.device)

    def sample(self, n: int) -> Batch:
        """n different images at random, all of them where there are fewer, as a mini-batch of the training."""
        return self.data.batch(self.draw(n), training=True)

    def after_step(self, batch: Batch, logits: Tensor | None = None) -> None:
        """What is kept of a mini-batch of the training, and of the network's logits for it: nothing here."""

    def after_task(self, data: Data) -> None:
        """Keeps images of a task that has ended, each with the same chance, as many as the budget allows.

        A ring over the training batches would hold the last of a random permutation: such a draw too.
        """
        self.add(data[torch.randperm(len(data)).to(data.labels.device)])

    def add(self, data: Data) -> Data:
        """Keeps images, of each class or task the first that the budget allows; returns all that are kept."""
        kept = data + self.data if len(self) else data
        if self.n_images is not None:
            group = kept.task_ids.long()
            if self.per != "task":
                group = group * (1 + kept.labels.max()) + kept.labels
            share = self.n_images // len(group.unique()) if self.per == "total" else self.n_images
            kept = kept[(rank(group) < share).nonzero().squeeze(1)]
        self.images = in_memory(kept.images, "what the method keeps of the past")
        self.labels, self.task_ids = kept.labels, kept.task_ids
        return kept


class Reservoir(Memory):
    """Some images of a stream of mini-batches, each image of it with the same chance (Vitter, 1985, algorithm R).

    An image that comes again, in another pass over the data, is another image of the stream.

    Args:
        places: images kept at most.
        problem: what they are of.
        n_logits: logits kept with each image.
    """

    PARTS = (*Memory.PARTS, "logits")
    logits: Tensor

    def __init__(self, places: int, problem: Problem | None = None, *, n_logits: int = 0) -> None:
        super().__init__(problem=problem)
        self.places = places
        self.register_buffer("logits", torch.empty(0, n_logits))
        self.seed, self.seen = int(torch.randint(2**31, ())), 0  # seen: images of the stream so far

    def sample_with_logits(self, n: int) -> tuple[Batch, Tensor]:
        """As `sample`, and the logits that were kept with the images, (n, n_logits)."""
        rows = self.draw(n)
        return self.data.batch(rows, training=True), self.logits[rows]

    def after_task(self, data: Data) -> None:
        """Every image came with its mini-batch."""

    def after_step(self, batch: Batch, logits: Tensor | None = None) -> None:
        """The next mini-batch of the stream, and what the network says of it, (B, n_logits).

        Image number i, from 0, takes place i. When all places are taken it draws one of 0 to i and takes that, if
        there is such a place. The draws follow from the seed and i alone, and are made on the CPU: nothing waits
        for a GPU, and most mini-batches of a long stream touch no image.
        """
        if batch.updates_left:  # it is kept once, after its last step
            return
        assert batch.images is not None, "a generated image is not kept"
        number = torch.arange(self.seen, self.seen + len(batch.y))
        generator = torch.Generator().manual_seed(derive(self.seed, self.seen))
        drawn = torch.rand(len(number), generator=generator, dtype=torch.float64).mul_(number + 1).long()
        place = torch.where(number < self.places, number, drawn)
        self.seen += len(number)
        if not (place < self.places).any():
            return

        places = min(self.places, self.seen)
        row_at = torch.full((places + 1,), -1)  # the last place is for all that find none
        row_at.scatter_reduce_(0, place.clamp(max=places), number - number[0], "amax")  # the later one stays
        place = (row_at[:-1] >= 0).nonzero().squeeze(1)
        if logits is None:
            logits = self.logits.new_empty(len(number), 0)
        self._put(place, row_at[place], (batch.images, batch.y, batch.task_ids, logits))

    def _put(self, place: Tensor, row: Tensor, parts: tuple[Tensor, ...]) -> None:
        """Puts these rows of the parts in their places, ascending; places not there yet follow on those that are."""
        n, old = len(self), int((place < len(self)).sum())
        place, row = place[:old].to(self.labels.device), row.to(self.labels.device)
        for name, part in zip(self.PARTS, parts, strict=True):
            kept, part = getattr(self, name), part.detach().index_select(0, row)
            if old:
                kept.index_copy_(0, place, part[:old].to(kept.dtype))
            if old < len(row):
                kept = torch.cat([kept.view(n, *part.shape[1:]), part[old:].to(kept.dtype)])
                setattr(self, name, kept)

    def get_extra_state(self) -> dict[str, int]:
        return {"seed": self.seed, "seen": self.seen}

    def set_extra_state(self, state: Mapping[str, int]) -> None:
        self.seed, self.seen = state["seed"], state["seen"]


def rank(group: Tensor) -> Tensor:
    """The position of each row among the rows of its group, from 0, int64.

    >>> rank(torch.tensor([5, 3, 5, 5, 3])).tolist()
    [0, 0, 1, 2, 1]
    """
    order = torch.argsort(group, stable=True)
    ordered = group[order]
    position = torch.arange(len(group), device=group.device) - torch.searchsorted(ordered, ordered)
    return torch.empty_like(order).scatter_(0, order, position)

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
    """The size of a rehearsal memory: the key `memory`, which is the same for all methods.

    Args:
        images: number of images.
        per: what `images` counts. `total`: all kept images; `class`: those of each class of a task; `task`: those of
            each task.
        bytes: the size in bytes, instead of `images`: pixels, labels, tasks, and what a method keeps with each image.
        available: number of training images of all tasks, the largest size of a reservoir.
    """

    images: Positive
    per: Per = "total"
    bytes: Positive | None = None
    available: int | None = None

    def count(self, problem: Problem, n_logits: int = 0) -> int:
        """The number of images, if each is kept with n_logits logits. Warns if there are fewer training images.

        Raises InputError if the bytes are too few for one image.
        """
        size = bytes_per_image(problem, n_logits)
        n_images = self.images if self.bytes is None else self.bytes // size
        if not n_images:
            raise InputError(f"memory.bytes={self.bytes}: an image takes {size}; set at least this number")
        times = {"total": 1, "class": sum(map(len, problem.outputs)), "task": problem.n_tasks}[self.per]
        if self.available is not None and n_images * times > self.available:
            log.warning("%s: there are only %d training images, and all of them are kept", self, self.available)
        return n_images

    def check(self, problem: Problem, n_images: int, each: int) -> None:
        """Raises InputError if these images, all that it allows, are less than `each` for each class."""
        of_all, of_one = sum(map(len, problem.outputs)), max(map(len, problem.outputs))
        classes, whose = {
            "total": (of_all, f"each of {of_all} classes of all tasks together"),
            "task": (of_one, f"each of {of_one} classes of a task"),
            "class": (1, "each class"),
        }[self.per]
        if n_images < (least := each * classes):
            images = "image" if each == 1 else "images"
            holds = f" holds {n_images} image{'s' * (n_images > 1)}," if self.bytes else ""
            more = least * bytes_per_image(problem) if self.bytes else least
            other = ", or memory.per=class" if self.per == "total" and n_images >= each else ""
            raise InputError(f"{self}:{holds} less than {each} {images} for {whose}; set at least {more}{other}")

    def places(self, problem: Problem, n_logits: int = 0) -> int:
        """The size of a reservoir. Raises InputError for a budget per class or task: a stream does not know them."""
        if self.per != "total":
            raise InputError(f"memory.per={self.per}: a reservoir has one total size; set memory.per=total")
        n_images = self.count(problem, n_logits)
        return n_images if self.available is None else min(n_images, self.available)

    def __str__(self) -> str:
        """The key and its value, as they are typed on the command line."""
        return f"memory.images={self.images}" if self.bytes is None else f"memory.bytes={self.bytes}"


def bytes_per_image(problem: Problem, n_logits: int = 0) -> int:
    """Bytes of an image in memory: its pixels (uint8) or features (float32), label (int64), task (int16) and logits
    (float32).

    >>> bytes_per_image(Problem("class", (1, 8, 8), ((0, 1), (2, 3))), n_logits=4)
    90
    """
    return math.prod(problem.image_shape) * problem.image_dtype.itemsize + 8 + 2 + 4 * n_logits


class Memory(Growing):
    """Images and labels of past tasks; they are part of the method's state.

    Images are kept as they are in the data set (uint8; features as float32). When they are replayed, they are changed
    like a mini-batch of their task: permuted, cropped.

    A total is divided equally among the classes of the tasks so far: old images are removed for new ones. A class that
    comes back in another task counts as another class.

    Args:
        budget: number of images; None: all.
        problem: the benchmark of the images.
        each: images that each class needs; None: one if the budget is a total, and none otherwise.

    Raises InputError if a class would have fewer images.
    """

    PARTS: ClassVar[tuple[str, ...]] = ("images", "labels", "task_ids")
    images: Tensor
    labels: Tensor
    task_ids: Tensor

    def __init__(self, budget: Budget | None = None, problem: Problem | None = None, each: int | None = None) -> None:
        super().__init__()
        self.view, self.augment = (problem.view, problem.augment) if problem else (None, None)
        self.per: Per = "total"
        self.n_images: int | None = None
        if budget and problem:
            self.per, self.n_images = budget.per, budget.count(problem)
            if each or self.per == "total":
                budget.check(problem, self.n_images, each or 1)
        self.register_buffer("images", torch.empty(0, dtype=problem.image_dtype if problem else torch.uint8))
        self.register_buffer("labels", torch.empty(0, dtype=torch.int64))
        self.register_buffer("task_ids", torch.empty(0, dtype=torch.int16))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def data(self) -> Data:
        """All kept images."""
        return Data(self.images, self.labels, self.task_ids, self.view, self.augment)

    def draw(self, n: int) -> Tensor:
        """n different random rows, or all if there are fewer; int64."""
        return torch.randperm(len(self))[:n].to(self.labels.device)

    def sample(self, n: int) -> Batch:
        """n different random images, or all if there are fewer, as a training mini-batch."""
        return self.data.batch(self.draw(n), training=True)

    def after_step(self, batch: Batch, logits: Tensor | None = None) -> None:
        """Called after each step with its mini-batch, and with its logits if they are kept. Does nothing here."""

    def after_task(self, data: Data) -> None:
        """Keeps random images of a task that has ended, each with the same probability, as many as the budget allows.

        The ring buffer of GEM and A-GEM keeps the last images of a random order, which is such a random choice too.
        """
        self.add(data[torch.randperm(len(data)).to(data.labels.device)])

    def add(self, data: Data) -> Data:
        """Keeps images: of each class or task the first ones, as many as the budget allows. Returns all kept images."""
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
    """A random sample of a stream: it has each image so far with the same probability (Vitter, 1985, algorithm R).

    An image that comes again in another pass over the data counts as another image.

    Args:
        places: largest number of images kept.
        problem: the benchmark of the images.
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
        """As `sample`, with the logits that were kept with the images, (n, n_logits)."""
        rows = self.draw(n)
        return self.data.batch(rows, training=True), self.logits[rows]

    def after_task(self, data: Data) -> None:
        """Does nothing: `after_step` got every image."""

    def after_step(self, batch: Batch, logits: Tensor | None = None) -> None:
        """The next mini-batch of the stream, with its logits, (B, n_logits).

        Image number i, counted from 0, gets place i. When all places are taken, it draws a number from 0 to i and gets
        the place with this number, if there is one. The draws depend only on the seed and i and are made on the CPU. So
        no step waits for a GPU, and most mini-batches of a long stream change nothing.
        """
        if batch.updates_left:  # a mini-batch counts once, after its last step
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
        row_at = torch.full((places + 1,), -1)  # the last place collects images that get none
        row_at.scatter_reduce_(0, place.clamp(max=places), number - number[0], "amax")  # a later image replaces it
        place = (row_at[:-1] >= 0).nonzero().squeeze(1)
        if logits is None:
            logits = self.logits.new_empty(len(number), 0)
        self._put(place, row_at[place], (batch.images, batch.y, batch.task_ids, logits))

    def _put(self, place: Tensor, row: Tensor, parts: tuple[Tensor, ...]) -> None:
        """Writes these rows of the parts to the places, in ascending order. New places are appended."""
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

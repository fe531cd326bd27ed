"""Images as whole tensors or on disk, and the loader that makes chunks of mini-batches from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cl_bench.data.on_disk import Images, joined

AT_ONCE = 2**20  # numbers of images that any machine can take at once: 4 MiB of float32
FLOATS = 2**25  # numbers of images that are kept as floats at a time, 128 MiB, on their way to bytes
REPLAYED = -1  # the task of a generated image: no view changes it
NO_TASK = -1  # the task of a test image that belongs to no task


def at_once(image_shape: Sequence[int], most: int, *, batch_size: int = 1, numbers: int | None = None) -> int:
    """The number of images that a network gets at once when nothing is trained. It is at most `most`. For large images
    it is limited by `numbers`, but is at least the mini-batch size of the training, which needs more memory per image.

    >>> at_once((1, 28, 28), 1024), at_once((3, 224, 224), 1024), at_once((3, 224, 224), 1024, batch_size=32)
    (1024, 6, 32)
    """
    return max(1, min(most, max(batch_size, (numbers or AT_ONCE) // math.prod(image_shape))))


class Batch(NamedTuple):
    """One mini-batch on the device.

    x: float images in [0, 1], shape (B, C, H, W), as the learner gets them.
    y: int64 outputs of the benchmark, shape (B,).
    task_ids: int16 index of the task of each image, shape (B,); `REPLAYED` for generated images.
    images: the same images as in the data set, uint8 (features: float32), shape (B, C, H, W); None for generated
    images.
    updates_left: number of later steps of a stream with this mini-batch; 0 in the last step.
    """

    x: Tensor
    y: Tensor
    task_ids: Tensor
    images: Tensor | None = None
    updates_left: int = 0


Step = Callable[[Batch, Any], dict[str, Tensor]]
"""What is done with a mini-batch, given the optimizers: detached scalars to log."""


@dataclass(frozen=True)
class Data:
    """Images and labels. Labels are in memory. Images are in memory or on disk.

    images: uint8, shape (N, C, H, W); or features of images, see `data.features`, float32, shape (N, width, 1, 1).
    labels: int64 outputs of the benchmark, shape (N,).
    task_ids: int16 index of the task of each image, shape (N,).
    view: `view(x, task_ids) -> x` changes a batch of float images in [0, 1], for example by the permutation of each
    task; None: no change.
    augment: changes a training batch only (crop, flip), `augment(x) -> x`.
    batch_size: images in a mini-batch of the training. `batches` may take the same number at once, see `at_once`.
    order: of a stream, the rows in which its images come, int64 (N,); None: a new random order in each pass. A
    selection or a join has None.
    updates: steps with each mini-batch, one after another.
    """

    images: Images
    labels: Tensor
    task_ids: Tensor
    view: nn.Module | None = None
    augment: Callable[[Tensor], Tensor] | None = None
    batch_size: int = 1
    order: Tensor | None = None
    updates: int = 1

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor) -> Data:
        return replace(
            self, images=self.images[rows], labels=self.labels[rows], task_ids=self.task_ids[rows], order=None
        )

    def __add__(self, other: Data) -> Data:
        """Both sets of images, with the view of this set. The view uses the task of each image."""
        return replace(
            self,
            images=joined(self.images, other.images),
            labels=torch.cat([self.labels, other.labels]),
            task_ids=torch.cat([self.task_ids, other.task_ids]),
            order=None,
        )

    def to(self, device: torch.device | str, moved: dict[Images, Images] | None = None) -> Data:
        """The same data on the device. Rows of images on disk are moved when they are read.

        moved: images that are on the device already, for tasks that share them.
        """
        view = None if self.view is None else self.view.to(device)
        moved = {} if moved is None else moved
        if self.images not in moved:
            moved[self.images] = self.images.to(device)
        return replace(
            self,
            images=moved[self.images],
            labels=self.labels.to(device),
            task_ids=self.task_ids.to(device),
            view=view,
        )

    def batch(self, rows: Tensor, *, training: bool = False) -> Batch:
        """The mini-batch of these rows (int64 indices on the same device, shape (B,))."""
        # index_select: plain indexing of bytes takes five times as long on a CPU
        images, task_ids = self.images.index_select(0, rows), self.task_ids.index_select(0, rows)
        x = images if images.is_floating_point() else images / 255
        if training and self.augment is not None:  # a generator has learned augmented images already
            x = torch.where(task_ids.view(-1, 1, 1, 1) == REPLAYED, x, self.augment(x))
        if self.view is not None:
            x = self.view(x, task_ids)
        return Batch(x, self.labels.index_select(0, rows), task_ids, images)

    def n_batches(self, batch_size: int) -> int:
        """Mini-batches in one pass. In a stream no image comes twice, so a single image at the end joins the last
        mini-batch: batch normalization cannot train on one image.

        >>> x = torch.zeros(21)
        >>> Data(x, x, x).n_batches(10), Data(x, x, x, order=torch.arange(21)).n_batches(10)
        (3, 2)
        """
        alone = self.order is not None and batch_size > 1 and len(self) % batch_size == 1
        return max(1, math.ceil(len(self) / batch_size) - alone)

    def batches(self, most: int = 1024) -> Iterator[Batch]:
        """Every image once, in order, `most` of them at once, or fewer if they are large."""
        size = at_once(self.images.shape[1:], most, batch_size=self.batch_size)
        for rows in torch.arange(len(self), device=self.labels.device).split(size):
            yield self.batch(rows)


class Chunk:
    """Some consecutive mini-batches of a phase. Each is made when the iteration reaches it."""

    def __init__(self, batches: Batches, steps: range) -> None:
        self.batches, self.steps = batches, steps

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        for step in self.steps:
            yield step, self.batches[step]
            if self.batches.after_step(step + 1):
                return

    def __len__(self) -> int:
        return len(self.steps)


class Batches:
    """The mini-batches of one training phase, `steps` of them, in chunks.

    If the last mini-batch of an epoch has a single image, the first image of the epoch joins it. For a stream see
    `Data.n_batches`. Every epoch has a new permutation, which depends only on (seed, epoch). So mini-batch number s is
    the same whether the phase started at 0 or was continued at s, and continuing needs only `start`.

    step: replaces the learner's own `train_step`; None: no replacement. after_step: called after each step with the
    number of steps so far; returns whether the chunk ends here.

    Raises ValueError for an empty data set.
    """

    def __init__(
        self,
        data: Data,
        *,
        batch_size: int,
        steps: int,
        seed: int,
        chunk: int = 32,
        start: int = 0,
        step: Step | None = None,
        after_step: Callable[[int], bool | None] = lambda done: False,
    ) -> None:
        if not len(data):
            raise ValueError("no images to train on")
        self.data, self.batch_size, self.steps, self.seed = data, batch_size, steps, seed
        self.chunk, self.start, self.step, self.after_step = chunk, start, step, after_step
        self.per_epoch = data.n_batches(batch_size) * data.updates
        self.epochs = math.ceil(steps / self.per_epoch)
        self._epoch, self._order = -1, torch.empty(0)

    def __len__(self) -> int:
        return math.ceil((self.steps - self.start) / self.chunk)

    def __iter__(self) -> Iterator[Chunk]:
        for first in range(self.start, self.steps, self.chunk):
            yield Chunk(self, range(first, min(first + self.chunk, self.steps)))

    def __getitem__(self, step: int) -> Batch:
        epoch, i = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            order = self.data.order
            if order is None:
                generator = torch.Generator().manual_seed(self.seed + epoch)
                order = torch.randperm(len(self.data), generator=generator)
            self._epoch, self._order = epoch, order.to(self.data.labels.device)
        updates = self.data.updates
        end = None if i >= self.per_epoch - updates else (i // updates + 1) * self.batch_size
        rows = self._order[i // updates * self.batch_size : end]
        if len(rows) == 1 and self.data.order is None and self.batch_size > 1:
            rows = torch.cat([rows, self._order[:1]])  # batch normalization cannot train on one image
        return self.data.batch(rows, training=True)._replace(updates_left=updates - 1 - i % updates)

    def new(self, batch: Batch, step: int) -> Batch | None:
        """The images of a step's mini-batch that no step has learned yet; None in later passes and updates. An image
        that joined a single last image is cut off, but only from y and task_ids."""
        if step >= self.per_epoch or step % self.data.updates:
            return None
        alone = len(self.data) - step * self.batch_size == 1 and self.data.order is None
        return batch._replace(y=batch.y[:1], task_ids=batch.task_ids[:1]) if alone else batch

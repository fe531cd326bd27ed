"""A stream without task boundaries whose images rotate slowly: MNIST-360."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
from annotated_types import Gt, Le
from torch import Tensor

from cl_bench.config import InputError
from cl_bench.data.batches import FLOATS, NO_TASK
from cl_bench.data.classes import Classes, some_of
from cl_bench.data.datasets import Dataset
from cl_bench.data.problem import Problem, TrainMask
from cl_bench.data.tasks import Fraction, Scenario, data_of, task_of
from cl_bench.data.views import turned
from cl_bench.seeding import derive


def rotating_pairs(
    dataset: Dataset,
    seed: int,
    *,
    kind: Literal["class"] = "class",
    classes: Classes | None = None,
    visits: Annotated[int, Gt(0), Le(1000)] = 3,
    val_fraction: Fraction = 0.0,
    train_mask: TrainMask | None = None,
) -> Scenario:
    """Two classes at a time. Each image is rotated a little more than the image before (Buzzega et al., 2020).

    The classes form a ring with pairs of neighbors: (0, 1), (1, 2), ..., (8, 0). So a class is in two consecutive
    pairs, and the stream goes around the ring `visits` times. Each image comes once, in an order drawn from the seed.
    The images of a class rotate by 360 degrees in total, so no two of them have the same angle. Class i begins at (i -
    1) times the angle of one pair. So both classes of a pair have the same angles, except in pairs with the first
    class. A pair is a segment of the stream. Its images alternate in proportion to their numbers.

    All segments share the test images: those of all these classes, in the order of the data set, with angles evenly
    spaced over 360 degrees for each class.

    Args:
        classes: of the ring, in order, by name or number; None: all. MNIST-360 has no digit 9, which is a rotated 6.
        visits: number of times that the stream goes around the ring.

    Raises InputError for fewer than three classes, for a class with fewer images than the pairs that need them, and for
    images that stay on disk, because all images are rotated before the stream begins.
    """
    if not (isinstance(dataset.x_train, Tensor) and isinstance(dataset.x_test, Tensor)):
        raise InputError(
            "scenario=rotating_pairs: rotates all images in advance and needs them in memory, and those of "
            f"{dataset.name} stay on disk; set dataset.on_disk=false"
        )
    if dataset.n_classes < 3:
        found = f"has {dataset.n_classes} classes, and scenario=rotating_pairs needs at least 3"
        raise InputError(f"dataset={dataset.name}: {found}")
    if dataset.x_val is not None:
        why = "has its own validation images, which scenario=rotating_pairs does not rotate; leave them out"
        raise InputError(f"dataset={dataset.name}: {why}")
    ring = some_of(dataset.class_names, classes, least=3)
    n, names = len(ring), [dataset.class_names[label] for label in ring]
    pairs = [(first, (first + 1) % n) for _ in range(visits) for first in range(n)]
    channels, height, width = dataset.x_train.shape[1:]
    problem = Problem(
        kind,
        image_shape=(channels, height, width),
        outputs=tuple(tuple(sorted(pair)) for pair in pairs),
        train_mask=train_mask or "seen",
        mean=dataset.mean,
        std=dataset.std,
        class_names=tuple(names),
        augment=dataset.augment,
    )
    parts, tests = [], []
    for position, label in enumerate(ring):
        rows = (dataset.y_train == label).nonzero().squeeze(1)
        if len(rows) < 2 * visits:
            found = f"class '{names[position]}' comes {2 * visits} times and has {len(rows)} images"
            raise InputError(f"scenario.visits={visits}: {found}")
        generator = torch.Generator().manual_seed(derive(seed, "stream", position))
        rows = rows[torch.randperm(len(rows), generator=generator)]
        images = _around(dataset.x_train[rows], start=(position - 1) * 180 / visits)
        parts.append(iter(images.tensor_split(2 * visits)))
        tests.append(_around(dataset.x_test[dataset.y_test == label]))
    tasks = []
    for index, pair in enumerate(pairs):
        images, labels = _alternating([next(parts[position]) for position in pair], pair)
        train = data_of(images, labels, index, augment=dataset.augment)
        task = task_of(index, [names[position] for position in pair], problem, train, val_fraction, seed)
        tasks.append(replace(task, train=replace(task.train, order=torch.arange(len(task.train)))))
    labels = torch.arange(n).repeat_interleave(torch.tensor([len(images) for images in tests]))
    return Scenario(problem, tasks, [data_of(torch.cat(tests), labels, NO_TASK)])


def _around(images: Tensor, start: float = 0.0) -> Tensor:
    """uint8 images (N, C, H, W), rotated by N evenly spaced angles over 360 degrees, beginning with `start` degrees."""
    degrees = start + torch.arange(len(images)) * (360 / len(images))
    size = max(1, FLOATS // images[0].numel())
    blocks = zip(images.split(size), degrees.split(size), strict=True)
    return torch.cat([turned(block.float(), angle).round().byte() for block, angle in blocks])


def _alternating(images: list[Tensor], labels: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The images of several classes as one stream, and their labels. Each class is spread evenly, in its own order."""
    share = torch.cat([(torch.arange(len(part)) + 0.5) / len(part) for part in images])
    order = share.argsort(stable=True)
    label = torch.tensor(labels).repeat_interleave(torch.tensor([len(part) for part in images]))
    return torch.cat(images)[order], label[order]

"""Scenarios: how a data set is split into tasks, and which outputs compete for which image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from cl_bench.config import InputError, Positive, Side
from cl_bench.data.batches import Data
from cl_bench.data.classes import ClassOrder, MetaClasses, dealt_out, order_of, set_apart
from cl_bench.data.datasets import Dataset, load
from cl_bench.data.on_disk import Images, changed
from cl_bench.data.problem import Kind, Problem, Task, TrainMask
from cl_bench.data.tasks import (
    Fraction,
    Scenario,
    at_most,
    data_of,
    drawn,
    output_names,
    own_val,
    problem_of,
    selected,
    task_of,
)
from cl_bench.data.transforms import resize
from cl_bench.data.views import Permute, Rotate
from cl_bench.seeding import derive

Views = Annotated[int, Gt(0), Le(1000)]


def split(
    dataset: Dataset,
    seed: int,
    *,
    kind: Kind,
    n_tasks: Positive | None,
    classes_per_task: Positive | None = None,
    base: Positive | None = None,
    class_order: ClassOrder = "fixed",
    uneven: bool = False,
    meta_classes: MetaClasses | None = None,
    max_train: Positive | None = None,
    val_fraction: Fraction = 0.0,
    train_mask: TrainMask | None = None,
) -> Scenario:
    """Each task has some classes of one data set.

    Outputs are numbered in the order in which classes come. Domain-incremental tasks share the outputs: the first class
    of each task is output 0, and the second is output 1.

    Args:
        base: number of classes in the first task, if later tasks have `classes_per_task`.
        class_order: see `classes.order_of`.
        meta_classes: see `classes.set_apart`. They are in no task, and their images come with the first task.
        max_train: largest number of training images per task, drawn from the seed, with at least one of each class.

    Raises InputError if the classes cannot be split like this.
    """
    apart, order = set_apart(order_of(dataset.class_names, class_order, seed), dataset.class_names, meta_classes)
    least = 2 if kind != "class" or train_mask == "current" else 1
    groups = dealt_out(order, n_tasks, classes_per_task, base, uneven, len(apart), least)
    sizes = [len(group) for group in groups]
    if min(sizes) < least:
        key = "train_mask=current" if kind == "class" else f"kind={kind}"
        which = f"task {sizes.index(1) + 1} would have one class; " if max(sizes) > 1 else ""
        raise InputError(
            f"scenario.{key}: {which}a task with one class has only one possible answer; "
            "choose fewer tasks, or other sizes"
        )
    outputs, next_output = [], 0
    for group in groups:
        start = 0 if kind == "domain" else next_output
        outputs.append(tuple(range(start, start + len(group))))
        next_output += len(group)

    names = [[dataset.class_names[label] for label in group] for group in groups]
    called = [f"task {task}" for task in range(1, 1 + len(groups))]
    problem = problem_of(kind, dataset, tuple(outputs), train_mask, output_names(outputs, names, called))
    problem = replace(problem, n_meta=len(apart))
    tasks, tests = [], []
    for index, group in enumerate(groups):
        train = selected(dataset.x_train, dataset.y_train, group, outputs[index], index, augment=dataset.augment)
        tests.append(selected(dataset.x_test, dataset.y_test, group, outputs[index], index))
        val = own_val(dataset, group, outputs[index], index)
        tasks.append(at_most(max_train, task_of(index, names[index], problem, train, val_fraction, seed, val), seed))
    if apart:
        meta = selected(dataset.x_train, dataset.y_train, apart, range(len(apart)), 0, augment=dataset.augment)
        tasks[0] = replace(tasks[0], meta=meta)
    return Scenario(problem, tasks, tests)


def permuted(
    dataset: Dataset,
    seed: int,
    *,
    kind: Kind,
    n_tasks: Views = 10,
    first_plain: bool = False,
    max_train: Positive | None = None,
    val_fraction: Fraction = 0.0,
    train_mask: TrainMask | None = None,
) -> Scenario:
    """Every task has all classes, with its own permutation of the pixels (Goodfellow et al., 2014), without copies.

    Args:
        first_plain: whether the first task has no permutation.
        max_train: largest number of training images per task, a new draw for each task, with at least one of each
            class.
    """
    pixels = dataset.x_train.shape[2] * dataset.x_train.shape[3]
    generator = torch.Generator().manual_seed(derive(seed, "permutations"))
    orders = [torch.randperm(pixels, generator=generator) for _ in range(n_tasks)]
    if first_plain:
        orders[0] = torch.arange(pixels)
    view = Permute(torch.stack([*orders, torch.arange(pixels)]))
    names = [f"permutation {i}" for i in range(n_tasks)]
    return _views(dataset, seed, kind, n_tasks, view, names, val_fraction, train_mask, max_train)


def rotated(
    dataset: Dataset,
    seed: int,
    *,
    kind: Kind,
    n_tasks: Views = 10,
    max_angle: Annotated[float, Ge(0), Le(360)] = 180.0,
    angles: Literal["even", "random", "unsorted"] = "even",
    max_train: Positive | None = None,
    val_fraction: Fraction = 0.0,
    train_mask: TrainMask | None = None,
) -> Scenario:
    """Every task has all classes, with images rotated by its own angle (Lopez-Paz and Ranzato, 2017), without copies.

    Args:
        max_angle: in degrees.
        angles: `even`: evenly spaced in [0, max_angle); `random`: drawn from the seed and sorted; `unsorted`: drawn
            from the seed.
        max_train: largest number of training images per task, a new draw for each task, with at least one of each
            class.
    """
    generator = torch.Generator().manual_seed(derive(seed, "angles"))
    drawn_angles = torch.rand(n_tasks, generator=generator)
    order = {"even": torch.arange(n_tasks) / n_tasks, "random": drawn_angles.sort()[0], "unsorted": drawn_angles}
    degrees = torch.cat([order[angles] * max_angle, torch.zeros(1)])
    names = [f"{angle:.0f} degrees" for angle in degrees[:-1].tolist()]
    return _views(dataset, seed, kind, n_tasks, Rotate(degrees), names, val_fraction, train_mask, max_train)


def sequence(
    data_dir: Path,
    seed: int,
    *,
    datasets: Sequence[str],
    kind: Kind,
    size: Side | None = None,
    max_train: Positive | None = None,
    max_test: Positive | None = None,
    val_fraction: Fraction = 0.0,
    train_mask: TrainMask | None = None,
) -> Scenario:
    """One data set after another, for example MNIST, then SVHN, then digits.

    Gray images become color images if any set has color. All images get the same size: `size` by `size`, or the largest
    height and the largest width of all sets. They keep their proportions and get a black border.
    Domain-incremental sets share the outputs, so they must have the same number of classes.
    max_train, max_test: largest number of images of each set, drawn from the seed, with at least one of each class.
    """
    if not datasets:
        raise InputError("scenario.datasets=[]: name at least one data set")
    sets = [load(name, data_dir) for name in datasets]
    counts = [dataset.n_classes for dataset in sets]
    if kind == "domain" and len(set(counts)) > 1:
        found = ", ".join(f"{dataset.name} has {dataset.n_classes}" for dataset in sets)
        raise InputError(
            f"scenario.kind=domain: the data sets must have the same number of classes, but {found}; try kind=task"
        )
    shapes = [dataset.x_train.shape[1:] for dataset in sets]
    channels, height, width = (max(lengths) for lengths in zip(*shapes, strict=True))
    height, width = (size, size) if size else (height, width)

    starts = [0 if kind == "domain" else sum(counts[:i]) for i in range(len(sets))]
    outputs = tuple(tuple(range(start, start + n)) for start, n in zip(starts, counts, strict=True))
    names = output_names(outputs, [dataset.class_names for dataset in sets], [dataset.name for dataset in sets])
    problem = Problem(kind, (channels, height, width), outputs, train_mask or "seen", class_names=names)
    tasks, tests = [], []
    for index, dataset in enumerate(sets):

        def fitted(x: Tensor) -> Tensor:
            return resize(x, (height, width)).expand(-1, channels, -1, -1).contiguous()

        def prepared(x: Images, y: Tensor, most: int | None, key: str, index: int = index) -> Data:
            rows = drawn(y, most, derive(seed, f"{key} images", index), f"max_{key}")
            x = changed(x[rows], fitted, (channels, height, width))
            return data_of(x, y[rows] + starts[index], index)

        train = prepared(dataset.x_train, dataset.y_train, max_train, "train")
        tests.append(prepared(dataset.x_test, dataset.y_test, max_test, "test"))
        val, share = None, val_fraction
        if dataset.x_val is not None and dataset.y_val is not None:
            val = prepared(dataset.x_val, dataset.y_val, None, "val")
            share = 0.0 if any(other.x_val is None for other in sets) else val_fraction  # that of the others
        tasks.append(task_of(index, [dataset.name], problem, train, share, seed, val))
    return Scenario(problem, tasks, tests)


def _views(
    dataset: Dataset,
    seed: int,
    kind: Kind,
    n_tasks: int,
    view: Permute | Rotate,
    names: Sequence[str],
    val_fraction: float,
    train_mask: TrainMask | None,
    max_train: int | None = None,
) -> Scenario:
    """Every task has all images, with its own view of them. The tasks share the images in memory.

    Every task has the same validation images, so no task trains on them in another view.
    max_train: number of training images drawn for each task.
    """
    n = dataset.n_classes
    starts = [0 if kind == "domain" else n * task for task in range(n_tasks)]
    outputs = tuple(tuple(range(start, start + n)) for start in starts)
    class_names = output_names(outputs, [dataset.class_names] * n_tasks, names)
    problem = problem_of(kind, dataset, outputs, train_mask, class_names, view)
    everything = data_of(dataset.x_train, dataset.y_train, 0, view=view, augment=dataset.augment)
    val = None
    if dataset.x_val is not None and dataset.y_val is not None:
        val = data_of(dataset.x_val, dataset.y_val, 0, view=view)
    shared = task_of(0, [], problem, everything, val_fraction, seed, val)
    tasks, tests = [], []
    for index, (name, start) in enumerate(zip(names, starts, strict=True)):
        train, val = (_as_task(data, index, start) for data in (shared.train, shared.val))
        tests.append(data_of(dataset.x_test, dataset.y_test + start, index, view=view))
        tasks.append(at_most(max_train, Task(index, (name,), train, val), seed))
    return Scenario(problem, tasks, tests)


def _as_task(data: Data, task: int, start: int) -> Data:
    """The same images in memory as those of this task, whose first class is output `start`."""
    return replace(data, labels=data.labels + start, task_ids=torch.full_like(data.task_ids, task))

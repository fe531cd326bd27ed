"""Scenarios: how a data set is cut into tasks, and which outputs may answer for which image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn

from cl_bench.config import InputError, Positive, Side
from cl_bench.data.batches import Data
from cl_bench.data.classes import ClassOrder, dealt_out, order_of
from cl_bench.data.datasets import Dataset, load
from cl_bench.data.problem import Kind, Problem, Scenario, Task, TrainMask
from cl_bench.data.transforms import resize
from cl_bench.data.views import Permute, Rotate
from cl_bench.seeding import derive

Fraction = Annotated[float, Ge(0), Lt(1)]
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
    max_train: Positive | None = None,
    val_fraction: Fraction = 0.0,
    train_mask: TrainMask | None = None,
) -> Scenario:
    """The classes of one data set, some of them in each task.

    Outputs are numbered in the order in which classes appear. Domain-incremental tasks share the outputs: the
    first class of each task is output 0, the second output 1.
    base: classes of the first task, where the later ones have `classes_per_task` each.
    class_order: see `classes.order_of`.
    max_train: at most so many training images of each task, drawn from the seed, one of each class at least.
    Raises InputError when the classes can't be cut as asked.
    """
    groups = dealt_out(order_of(dataset.class_names, class_order, seed), n_tasks, classes_per_task, base, uneven)
    sizes = [len(group) for group in groups]
    if min(sizes) == 1 and (kind != "class" or train_mask == "current"):
        key = "train_mask=current" if kind == "class" else f"kind={kind}"
        which = f"task {sizes.index(1) + 1} would have one class; " if max(sizes) > 1 else ""
        raise InputError(
            f"scenario.{key}: {which}tasks of one class have nothing to tell apart; choose fewer tasks, or other sizes"
        )
    outputs, next_output = [], 0
    for group in groups:
        start = 0 if kind == "domain" else next_output
        outputs.append(tuple(range(start, start + len(group))))
        next_output += len(group)

    names = [[dataset.class_names[label] for label in group] for group in groups]
    called = [f"task {task}" for task in range(1, 1 + len(groups))]
    problem = _problem(kind, dataset, tuple(outputs), train_mask, _output_names(outputs, names, called))
    tasks, tests = [], []
    for index, group in enumerate(groups):
        train = _select(dataset.x_train, dataset.y_train, group, outputs[index], index, augment=dataset.augment)
        tests.append(_select(dataset.x_test, dataset.y_test, group, outputs[index], index))
        tasks.append(_at_most(max_train, _task(index, names[index], problem, train, val_fraction, seed), seed))
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
    """All classes in every task, the pixels in another order (Goodfellow et al., 2014); no copy per task.

    first_plain: the first task keeps the pixels where they are.
    max_train: at most so many training images of each task, drawn from the seed anew for each, one of each class at
        least.
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
    angles: Literal["even", "random"] = "even",
    max_train: Positive | None = None,
    val_fraction: Fraction = 0.0,
    train_mask: TrainMask | None = None,
) -> Scenario:
    """All classes in every task, the images turned (Lopez-Paz and Ranzato, 2017); no copy per task.

    max_angle: degrees. angles: evenly spaced from 0 to below `max_angle`, or drawn from the seed and sorted.
    max_train: at most so many training images of each task, drawn from the seed anew for each, one of each class at
        least.
    """
    generator = torch.Generator().manual_seed(derive(seed, "angles"))
    degrees = (
        torch.arange(n_tasks) / n_tasks if angles == "even" else torch.rand(n_tasks, generator=generator).sort()[0]
    )
    degrees = torch.cat([degrees * max_angle, torch.zeros(1)])
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
    """One data set after another: MNIST, then SVHN, then digits.

    Grey images become colour where any set has colour. All take one size: `size` by `size`, or the largest height and
    the largest width among them; they keep their proportions, black is around them.
    Domain-incremental sets must have the same number of classes: they share the outputs.
    max_train, max_test: at most so many images of each set, drawn from the seed, one of each class at least.
    """
    if not datasets:
        raise InputError("scenario.datasets=[]: name at least one data set")
    sets = [load(name, data_dir) for name in datasets]
    counts = [dataset.n_classes for dataset in sets]
    if kind == "domain" and len(set(counts)) > 1:
        found = ", ".join(f"{dataset.name} has {dataset.n_classes}" for dataset in sets)
        raise InputError(f"scenario.kind=domain: the sets must share their classes, but {found}; try kind=task")
    shapes = [dataset.x_train.shape[1:] for dataset in sets]
    channels, height, width = (max(lengths) for lengths in zip(*shapes, strict=True))
    height, width = (size, size) if size else (height, width)

    starts = [0 if kind == "domain" else sum(counts[:i]) for i in range(len(sets))]
    outputs = tuple(tuple(range(start, start + n)) for start, n in zip(starts, counts, strict=True))
    names = _output_names(outputs, [dataset.class_names for dataset in sets], [dataset.name for dataset in sets])
    problem = Problem(kind, (channels, height, width), outputs, train_mask or "seen", class_names=names)
    tasks, tests = [], []
    for index, dataset in enumerate(sets):

        def prepared(x: Tensor, y: Tensor, most: int | None, key: str, index: int = index) -> Data:
            rows = _drawn(y, most, derive(seed, f"{key} images", index), f"max_{key}")
            x = resize(x[rows], (height, width)).expand(-1, channels, -1, -1)
            return _data(x.contiguous(), y[rows] + starts[index], index)

        train = prepared(dataset.x_train, dataset.y_train, max_train, "train")
        tests.append(prepared(dataset.x_test, dataset.y_test, max_test, "test"))
        tasks.append(_task(index, [dataset.name], problem, train, val_fraction, seed))
    return Scenario(problem, tasks, tests)


def _problem(
    kind: Kind,
    dataset: Dataset,
    outputs: tuple[tuple[int, ...], ...],
    train_mask: TrainMask | None,
    class_names: tuple[str, ...],
    view: nn.Module | None = None,
) -> Problem:
    c, h, w = dataset.x_train.shape[1:]
    mask = train_mask or "seen"
    return Problem(kind, (c, h, w), outputs, mask, dataset.mean, dataset.std, class_names, view, dataset.augment)


def _output_names(
    outputs: Sequence[Sequence[int]], classes: Sequence[Sequence[str]], tasks: Sequence[str]
) -> tuple[str, ...]:
    """What each output stands for: a class, or the first three of those that share it; with its task where several
    outputs have classes of one name.

    outputs, classes: of each task, in the same order. tasks: what each is called.
    """
    stands_for: dict[int, dict[str, str]] = {}
    for task, numbers, names in zip(tasks, outputs, classes, strict=True):
        for output, name in zip(numbers, names, strict=True):
            stands_for.setdefault(output, {}).setdefault(name, task)
    named = {output: "/".join([*found][:3]) + "/..." * (len(found) > 3) for output, found in sorted(stands_for.items())}
    if len(set(named.values())) == len(named):
        return tuple(named.values())
    return tuple(f"{name} ({next(iter(stands_for[output].values()))})" for output, name in named.items())


def _data(
    images: Tensor,
    labels: Tensor,
    task: int,
    view: nn.Module | None = None,
    augment: Callable[[Tensor], Tensor] | None = None,
) -> Data:
    return Data(images, labels, torch.full(labels.shape, task, dtype=torch.int16), view, augment)


def _select(
    x: Tensor,
    y: Tensor,
    group: Sequence[int],
    outputs: Sequence[int],
    task: int,
    augment: Callable[[Tensor], Tensor] | None = None,
) -> Data:
    """The images whose class is in the group, labelled with the outputs that stand for it."""
    rows = torch.isin(y, torch.tensor(group)).nonzero().squeeze(1)
    output_of = torch.full((int(y.max()) + 1,), -1)
    output_of[list(group)] = torch.tensor(outputs)
    return _data(x[rows], output_of[y[rows]], task, augment=augment)


def _task(index: int, names: Sequence[str], problem: Problem, train: Data, val_fraction: float, seed: int) -> Task:
    """A task with a stratified share of its images set apart for selection, of each class one at least.

    Raises InputError when that leaves a class without an image to train on.
    """
    held_out = torch.zeros(len(train), dtype=torch.bool)
    generator = torch.Generator().manual_seed(derive(seed, "validation", index))
    for label in train.labels.unique() if val_fraction else []:
        rows = (train.labels == label).nonzero().squeeze(1)
        apart = max(round(val_fraction * len(rows)), 1)
        if apart == len(rows):
            which = f"its {len(rows)} images of class '{problem.class_names[label]}'"
            raise InputError(f"scenario.val_fraction={val_fraction}: leaves nothing to train on of {which}")
        rows = rows[torch.randperm(len(rows), generator=generator)]
        held_out[rows[:apart]] = True
    val = train[held_out.nonzero().squeeze(1)]
    if val_fraction:
        train = train[(~held_out).nonzero().squeeze(1)]
    return Task(index, tuple(names), train, val)


def _at_most(max_train: int | None, task: Task, seed: int) -> Task:
    """The task with so many of its training images, drawn from the seed anew for each; with all for None."""
    if max_train is None:
        return task
    rows = _drawn(task.train.labels, max_train, derive(seed, "train images", task.index), "max_train")
    return replace(task, train=task.train[rows])


def _drawn(labels: Tensor, most: int | None, seed: int, key: str) -> Tensor:
    """The rows of at most so many images, drawn from the seed, in a random order; one of each class is among them.

    Raises InputError when there are more classes.
    """
    rows = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    if most is None:
        return rows
    drawn = labels[rows]
    first = torch.stack([(drawn == label).int().argmax() for label in labels.unique()])
    if len(first) > most:
        raise InputError(f"scenario.{key}={most}: fewer than one for each of {len(first)} classes")
    later = torch.ones(len(rows), dtype=torch.bool)
    later[first] = False
    return rows[torch.cat([first, later.nonzero().squeeze(1)])[:most].sort()[0]]


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
    """Every task has all images, each seen its own way; the tasks share the pixels in memory.

    What is set apart for selection are the same images in every task, so in no way are they seen in training.
    max_train: draws so many of the others for each task.
    """
    n = dataset.n_classes
    starts = [0 if kind == "domain" else n * task for task in range(n_tasks)]
    outputs = tuple(tuple(range(start, start + n)) for start in starts)
    class_names = _output_names(outputs, [dataset.class_names] * n_tasks, names)
    problem = _problem(kind, dataset, outputs, train_mask, class_names, view)
    everything = _data(dataset.x_train, dataset.y_train, 0, view=view, augment=dataset.augment)
    shared = _task(0, [], problem, everything, val_fraction, seed)
    tasks, tests = [], []
    for index, (name, start) in enumerate(zip(names, starts, strict=True)):
        train, val = (_as_task(data, index, start) for data in (shared.train, shared.val))
        tests.append(_data(dataset.x_test, dataset.y_test + start, index, view=view))
        tasks.append(_at_most(max_train, Task(index, (name,), train, val), seed))
    return Scenario(problem, tasks, tests)


def _as_task(data: Data, task: int, start: int) -> Data:
    """The same images in memory as those of this task, whose first class is output `start`."""
    return replace(data, labels=data.labels + start, task_ids=torch.full_like(data.task_ids, task))

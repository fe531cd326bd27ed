"""Streams: each image comes once, mini-batch after mini-batch, and the ends of tasks are unknown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor

from cl_bench.config import InputError, Positive, Share
from cl_bench.data.batches import Data
from cl_bench.data.classes import ClassOrder, order_of
from cl_bench.data.datasets import Dataset
from cl_bench.data.problem import Problem, Task, TrainMask
from cl_bench.data.tasks import Fraction, Scenario, data_of, own_val, problem_of, task_of
from cl_bench.seeding import derive


@dataclass(frozen=True)
class Stream:
    """How images come. Every scenario has these keys.

    Args:
        passes: `epochs`: task by task, with the number of passes in `trainer`; `online`: each image once, in a random
            order within its task or in the order of the scenario.
        batch_size: images in a mini-batch of a stream.
        updates_per_batch: steps with each mini-batch of a stream.
        measure_every: number of images between two measurements of the accuracy in a stream; None: when a task ends.
        repeat: whether all tasks of a stream come a second time, with the other half of their images.
    """

    passes: Literal["epochs", "online"]
    batch_size: Positive
    updates_per_batch: Positive
    measure_every: Positive | None
    repeat: bool


def as_stream(scenario: Scenario, stream: Stream, seed: int) -> Scenario:
    """The scenario as a stream, with its images in order. Accuracies are measured where its tasks end.

    Raises InputError for a training mask that needs to know the current task.
    """
    problem = scenario.problem
    if problem.kind == "class" and problem.train_mask == "current":
        raise InputError(
            "scenario.train_mask=current: in a stream (scenario.passes=online) the current task is not known; choose "
            "seen or all"
        )
    tasks, tests = list(scenario.tasks), list(scenario.tests)
    if stream.repeat:
        tasks = twice(tasks, seed)
        tests = tests if scenario.shared_test else tests * 2
        problem = replace(problem, outputs=problem.outputs * 2)
    tasks = [
        replace(task, train=replace(in_order(task.train, seed, task.index), updates=stream.updates_per_batch))
        for task in tasks
    ]
    return Scenario(replace(problem, online=True), tasks, tests)


def in_order(data: Data, seed: int, index: int) -> Data:
    """The images of a task with their order in the stream, drawn from the seed if they have none."""
    if data.order is not None:
        return data
    generator = torch.Generator().manual_seed(derive(seed, "stream", index))
    return replace(data, order=torch.randperm(len(data), generator=generator))


def first_places(problem: Problem, task: Task) -> Tensor:
    """The number of images in this task that come before the first image of each output, int64 (n_outputs,). -1 for
    outputs of earlier tasks; the number of all its images for outputs that do not come."""
    assert task.train.order is not None
    labels = task.train.labels[task.train.order.to(task.train.labels.device)]
    places = torch.arange(len(labels), device=labels.device)
    first = places.new_full((problem.n_outputs,), len(labels)).scatter_reduce(0, labels, places, "amin")
    return first.masked_fill(problem.mask("seen", after=task.index - 1)[0].to(labels.device), -1)


def twice(tasks: Sequence[Task], seed: int) -> list[Task]:
    """The tasks one after another, and then once more in the same order with other images: every second image of each
    class in a task comes the second time.

    Raises InputError for a task that cannot be divided into two halves.
    """
    visits = []
    for start in (0, 1):
        for task in tasks:
            data = in_order(task.train, seed, task.index)
            assert data.order is not None
            labels = data.labels[data.order]
            place = torch.zeros_like(labels)  # the position of each image among the images of its class
            for label in labels.unique():
                place[labels == label] = torch.arange(int((labels == label).sum()))
            half = data[data.order[place % 2 == start]]
            if not len(half):
                why = (
                    f"task {task.index + 1} has one image of each class, and would have none when the tasks come again"
                )
                raise InputError(f"scenario.repeat=true: {why}; use more images")
            half = replace(half, order=torch.arange(len(half)))
            visits.append(replace(task, index=len(visits), train=half, meta=None if start else task.meta))
    return visits


def blurry(
    dataset: Dataset,
    seed: int,
    *,
    kind: Literal["class"],
    n_tasks: Annotated[int, Ge(2), Le(1000)],
    disjoint: Share,
    stray: Share,
    form: Literal["even", "random"] = "even",
    class_order: ClassOrder = "random",
    val_fraction: Fraction = 0.0,
    train_mask: TrainMask | None = None,
) -> Scenario:
    """A stream whose classes come back: i-Blurry-N-M (Koh et al., 2022), with N = 100 disjoint and M = 100 stray.

    Each class belongs to a part of the stream. A disjoint class comes only in this part. Of each other (blurry) class a
    share comes in the other parts.

    Args:
        n_tasks: number of parts. Accuracies are measured after each part: R[i][j] is on the test images of the classes
            that belong to part j.
        disjoint: share of the classes that are disjoint.
        stray: share of the images of each blurry class that come in other parts.
        form: `even`: parts have equal numbers of classes of each kind, as far as possible, and of stray images;
            `random`: both are drawn (Si-Blurry, Moon et al., 2023).
        class_order: see `classes.order_of`.

    Raises InputError for fewer classes than parts.
    """
    order = order_of(dataset.class_names, class_order, seed)
    if len(order) < n_tasks:
        raise InputError(f"scenario.n_tasks={n_tasks}: there are {len(order)} classes; choose at most this number")
    generator = torch.Generator().manual_seed(derive(seed, "blurry"))
    n_disjoint = round(disjoint * len(order))
    own = own_parts(len(order), n_disjoint, n_tasks, form, generator)  # of each output, in the order of classes

    outputs = torch.empty(dataset.n_classes, dtype=torch.int64)
    ranks = sorted(range(len(order)), key=lambda place: own[place])  # outputs are numbered as their parts come
    outputs[[order[place] for place in ranks]] = torch.arange(len(order))
    labels, part = outputs[dataset.y_train], torch.empty(len(dataset.y_train), dtype=torch.int64)
    for place, label in enumerate(order):
        rows = (dataset.y_train == label).nonzero().squeeze(1)
        rows = rows[torch.randperm(len(rows), generator=generator)]
        part[rows] = own[place]
        n_stray = 0 if place < n_disjoint else round(stray * len(rows))
        others = torch.tensor([other for other in range(n_tasks) if other != own[place]])
        if form == "even":
            part[rows[:n_stray]] = others[torch.arange(n_stray) % len(others)]
        else:
            part[rows[:n_stray]] = others[torch.randint(len(others), (n_stray,), generator=generator)]

    names = [dataset.class_names[order[place]] for place in ranks]
    came = tuple(tuple(labels[part == index].unique().tolist()) for index in range(n_tasks))
    problem = problem_of(kind, dataset, came, train_mask, tuple(names))
    tasks, tests = [], []
    owner = torch.tensor([own[place] for place in ranks])  # of each output
    test_labels = outputs[dataset.y_test]
    for index in range(n_tasks):
        rows = (part == index).nonzero().squeeze(1)
        train = data_of(dataset.x_train[rows], labels[rows], index, augment=dataset.augment)
        called = [names[output] for output in (owner == index).nonzero().squeeze(1).tolist()]
        group = [label for place, label in enumerate(order) if own[place] == index]
        val = own_val(dataset, group, outputs[group].tolist(), index)
        task = task_of(index, called, problem, train, val_fraction, seed, val)
        tasks.append(replace(task, train=in_order(task.train, seed, index)))
        rows = (owner[test_labels] == index).nonzero().squeeze(1)
        tests.append(data_of(dataset.x_test[rows], test_labels[rows], index))
    return Scenario(problem, tasks, tests)


def own_parts(
    n_classes: int, n_disjoint: int, n_tasks: int, form: Literal["even", "random"], generator: torch.Generator
) -> list[int]:
    """The part of the stream to which each class belongs, from 0. The first `n_disjoint` classes are disjoint.

    Each part has at least one class. even: the parts get classes in turn, first the disjoint ones, then the others.
    random: one class of each part is drawn, and each other class draws its part.

    >>> own_parts(10, 5, 5, "even", torch.Generator())
    [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]
    """
    if form == "even":
        return [place % n_tasks for place in range(n_classes)]
    drawn = torch.randint(n_tasks, (n_classes,), generator=generator)
    first = torch.randperm(n_classes, generator=generator)[:n_tasks]  # one class of each part
    drawn[first] = torch.arange(n_tasks)
    return drawn.tolist()

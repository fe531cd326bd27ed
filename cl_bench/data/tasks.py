"""The parts of every scenario: its tasks in their order, and the images of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated

import torch
from annotated_types import Ge, Lt
from pytorch_lightning import LightningDataModule
from torch import Tensor, nn

from cl_bench.config import InputError
from cl_bench.data.batches import Batch, Data
from cl_bench.data.dataset import Dataset, unlike
from cl_bench.data.on_disk import Images
from cl_bench.data.problem import Kind, Problem, Task, TrainMask
from cl_bench.seeding import derive

Fraction = Annotated[float, Ge(0), Lt(1)]


class Scenario(LightningDataModule):
    """The tasks in their order. Test images are here, and methods do not get them.

    tasks: the tasks that are learned, one `Task` each. A trial of a search may have only the first tasks of the
    problem.
    tests: the test images of each task, or one set that all tasks share. In a shared set each image has its task, or
    `NO_TASK`. `NO_TASK` is possible only in class- and domain-incremental learning.

    Outputs without names get their numbers as names.
    Raises InputError for a wrong number of names.
    """

    def __init__(self, problem: Problem, tasks: Sequence[Task], tests: Sequence[Data]) -> None:
        super().__init__()
        n = problem.n_outputs
        if not problem.class_names:
            problem = replace(problem, class_names=tuple(map(str, range(n))))
        if (named := len(problem.class_names)) != n:
            raise InputError(f"scenario: class_names has {named} names for {n} outputs; give {n} names, or none")
        self.problem, self.tasks, self.tests = problem, list(tasks), list(tests)

    @property
    def shared_test(self) -> bool:
        """Whether the tasks share one test set. Then R has one column, and there is no accuracy for each task."""
        return len(self.tests) < len(self.tasks)

    def to(self, device: torch.device | str, batch_size: int = 1) -> Scenario:
        """The same scenario with its images on the device, see `Data.to`. batch_size: of the training."""
        moved: dict[Images, Images] = {}

        def there(data: Data) -> Data:
            return replace(data.to(device, moved), batch_size=batch_size)

        tasks = [
            replace(task, train=there(task.train), val=there(task.val), meta=task.meta and there(task.meta))
            for task in self.tasks
        ]
        tests = {id(test): there(test) for test in self.tests}  # a set that tasks share is moved once
        return Scenario(self.problem, tasks, [tests[id(test)] for test in self.tests])

    def train_dataloader(self) -> list[Iterator[Batch]]:
        return [task.train.batches() for task in self.tasks]

    def val_dataloader(self) -> list[Iterator[Batch]]:
        return [task.val.batches() for task in self.tasks]

    def test_dataloader(self) -> list[Iterator[Batch]]:
        return [test.batches() for test in self.tests]


def problem_of(
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


def output_names(
    outputs: Sequence[Sequence[int]], classes: Sequence[Sequence[str]], tasks: Sequence[str]
) -> tuple[str, ...]:
    """The name of each output: its class, or the first three of the classes that share it. If several outputs have a
    class of the same name, the name has the task too.

    outputs, classes: of each task, in the same order. tasks: the name of each task.
    """
    stands_for: dict[int, dict[str, str]] = {}
    for task, numbers, names in zip(tasks, outputs, classes, strict=True):
        for output, name in zip(numbers, names, strict=True):
            stands_for.setdefault(output, {}).setdefault(name, task)
    named = {output: "/".join([*found][:3]) + "/..." * (len(found) > 3) for output, found in sorted(stands_for.items())}
    if len(set(named.values())) == len(named):
        return tuple(named.values())
    names = tuple(f"{name} ({next(iter(stands_for[output].values()))})" for output, name in named.items())
    if len(set(names)) < len(names) and len(set(tasks)) < len(tasks):  # one data set several times
        return output_names(outputs, classes, unlike(tasks))
    return names


def data_of(
    images: Images,
    labels: Tensor,
    task: int,
    view: nn.Module | None = None,
    augment: Callable[[Tensor], Tensor] | None = None,
) -> Data:
    return Data(images, labels, torch.full(labels.shape, task, dtype=torch.int16), view, augment)


def selected(
    x: Images,
    y: Tensor,
    group: Sequence[int],
    outputs: Sequence[int],
    task: int,
    augment: Callable[[Tensor], Tensor] | None = None,
) -> Data:
    """The images whose class is in the group, with labels from `outputs`, which has the output of each class."""
    rows = torch.isin(y, torch.tensor(group)).nonzero().squeeze(1)
    output_of = torch.full((int(y.max()) + 1,), -1)
    output_of[list(group)] = torch.tensor(outputs)
    return data_of(x[rows], output_of[y[rows]], task, augment=augment)


def own_val(dataset: Dataset, group: Sequence[int], outputs: Sequence[int], task: int) -> Data | None:
    """The data set's own validation images of these classes, as in `selected`; None if it has none."""
    if dataset.x_val is None or dataset.y_val is None:
        return None
    return selected(dataset.x_val, dataset.y_val, group, outputs, task)


def task_of(
    index: int,
    names: Sequence[str],
    problem: Problem,
    train: Data,
    val_fraction: float,
    seed: int,
    val: Data | None = None,
) -> Task:
    """A task. A stratified share of its images, at least one of each class, is set apart for selection.

    val: the data set's own validation images; then no share is set apart.
    Raises InputError if a class would have no training image.
    """
    if val is not None:
        if val_fraction:
            why = "the data set has its own validation images; set 0"
            raise InputError(f"scenario.val_fraction={val_fraction}: {why}")
        return Task(index, tuple(names), train, val)
    held_out = torch.zeros(len(train), dtype=torch.bool)
    generator = torch.Generator().manual_seed(derive(seed, "validation", index))
    for label in train.labels.unique() if val_fraction else []:
        rows = (train.labels == label).nonzero().squeeze(1)
        apart = max(round(val_fraction * len(rows)), 1)
        if apart == len(rows):
            name = problem.class_names[label] if problem.class_names else int(label)
            which = f"its {len(rows)} images of class '{name}'"
            raise InputError(f"scenario.val_fraction={val_fraction}: leaves no training image of {which}")
        rows = rows[torch.randperm(len(rows), generator=generator)]
        held_out[rows[:apart]] = True
    val = train[held_out.nonzero().squeeze(1)]
    if val_fraction:
        train = train[(~held_out).nonzero().squeeze(1)]
    return Task(index, tuple(names), train, val)


def at_most(max_train: int | None, task: Task, seed: int) -> Task:
    """The task with at most `max_train` training images, a new draw for each task; None: all."""
    if max_train is None:
        return task
    rows = drawn(task.train.labels, max_train, derive(seed, "train images", task.index), "max_train")
    return replace(task, train=task.train[rows])


def drawn(labels: Tensor, most: int | None, seed: int, key: str) -> Tensor:
    """The rows of at most `most` random images, in a random order, with at least one of each class; None: all.

    Raises InputError if there are more classes than `most`.
    """
    rows = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    if most is None:
        return rows
    drawn = labels[rows]
    first = torch.stack([(drawn == label).int().argmax() for label in labels.unique()])
    if len(first) > most:
        raise InputError(f"scenario.{key}={most}: less than one image for each of {len(first)} classes")
    later = torch.ones(len(rows), dtype=torch.bool)
    later[first] = False
    return rows[torch.cat([first, later.nonzero().squeeze(1)])[:most].sort()[0]]

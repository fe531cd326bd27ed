"""The order of the classes of a data set, and the classes of each task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Le

from cl_bench.config import InputError
from cl_bench.config.errors import nearest, typed
from cl_bench.seeding import derive

Classes = list[Annotated[int, Ge(0)] | str]
"""Some classes, each by its name or by its number."""
ClassOrder = Literal["fixed", "random", "icarl"] | Classes
MetaClasses = Annotated[int, Ge(2), Le(10**9)] | Classes
ICARL_SEED = 1993  # the seed of iCaRL and of later papers on CIFAR-100


def order_of(names: Sequence[str], class_order: ClassOrder, seed: int) -> list[int]:
    """The numbers of all classes, in their order.

    Args:
        names: of all classes, in the order of their numbers.
        class_order: `fixed`: as numbered; `random`: drawn from the seed; `icarl`: NumPy's permutation with seed 1993,
            the same for every seed of a run; a list: each class once, by name or by number.
        seed: for `random`.

    Raises InputError for a list that does not have each class once.

    >>> order_of([f"class {number}" for number in range(100)], "icarl", seed=0)[:8]
    [68, 56, 78, 8, 23, 84, 90, 65]
    """
    n_classes = len(names)
    if class_order == "fixed":
        return list(range(n_classes))
    if class_order == "random":
        generator = torch.Generator().manual_seed(derive(seed, "class order"))
        return torch.randperm(n_classes, generator=generator).tolist()
    if class_order == "icarl":
        return np.random.RandomState(ICARL_SEED).permutation(n_classes).tolist()
    order, near = _numbered(class_order, names)
    if len(order) != n_classes or set(order) != set(range(n_classes)):
        must = f"must have each class from 0 to {n_classes - 1} once, as number or name"
        raise InputError(f"scenario.class_order={typed(class_order)}: {must}{near}")
    return [int(number) for number in order]


def some_of(
    names: Sequence[str], classes: Sequence[int | str] | None, least: int, key: str = "scenario.classes"
) -> list[int]:
    """The numbers of the classes in a list, in its order; None: of all classes.

    Args:
        names: of all classes, in the order of their numbers.
        classes: each by name or by number.
        least: smallest number of classes.
        key: the key of the list, for messages.

    Raises InputError for unknown or repeated classes, and for less than `least` classes.

    >>> some_of(["cat", "dog", "cow"], ["cow", "cat"], least=2)
    [2, 0]
    """
    chosen, near = (range(len(names)), "") if classes is None else _numbered(classes, names)
    said = f"{key}={typed(classes)}"
    if len(set(chosen)) != len(chosen) or not set(chosen) <= set(range(len(names))):
        raise InputError(f"{said}: must have classes from 0 to {len(names) - 1}, each once, or their names{near}")
    if len(chosen) < least:
        raise InputError(f"{said}: names {len(chosen)} classes; at least {least} are needed")
    return [int(number) for number in chosen]


def set_apart(order: list[int], names: Sequence[str], meta_classes: MetaClasses | None) -> tuple[list[int], list[int]]:
    """The classes for meta-training, and the others, both in their order.

    Args:
        order: of all classes.
        names: of all classes, in the order of their numbers.
        meta_classes: the number of classes, which are the first ones; or a list, by name or by number; None: none.

    Raises InputError for a wrong list, for less than two classes, and if no class is left for the tasks.

    >>> set_apart([2, 0, 1, 3], ["a", "b", "c", "d"], 2), set_apart([2, 0, 1, 3], ["a", "b", "c", "d"], ["d", "c"])
    (([2, 0], [1, 3]), ([2, 3], [0, 1]))
    """
    if meta_classes is None:
        return [], order
    chosen, near = (order[:meta_classes], "") if isinstance(meta_classes, int) else _numbered(meta_classes, names)
    key, n_classes = f"scenario.meta_classes={typed(meta_classes)}", len(order)
    if len(set(chosen)) != len(chosen) or not set(chosen) <= set(order):
        raise InputError(f"{key}: must have classes from 0 to {n_classes - 1}, each once, or their names{near}")
    if len(chosen) < 2:
        raise InputError(f"{key}: meta-training needs at least two classes; null: no meta-training")
    if len(chosen) == n_classes:
        raise InputError(f"{key}: leaves no class of {n_classes} for the tasks; choose fewer")
    return [label for label in order if label in chosen], [label for label in order if label not in chosen]


def _numbered(labels: Sequence[int | str], names: Sequence[str]) -> tuple[list[int | str], str]:
    """The numbers of classes given by name or by number, and a hint for a name that no class has."""
    numbers = {name: number for number, name in enumerate(names)}
    unknown = [label for label in labels if isinstance(label, str) and label not in numbers]
    near = nearest(unknown[0], names) if unknown else ""
    if not all(str(label) in numbers for label in labels):  # names may be numbers, but others than those from 0
        return list(labels), near
    return [numbers[str(label)] for label in labels], near


def dealt_out(
    order: list[int],
    n_tasks: int | None,
    classes_per_task: int | None,
    base: int | None,
    uneven: bool,
    n_meta: int = 0,
    least: int = 1,
) -> list[list[int]]:
    """The classes of each task. Each class is in one task.

    Args:
        order: the numbers of all classes for tasks, in order.
        n_tasks, classes_per_task: one of the two.
        base: number of classes in the first task, if the others have `classes_per_task`; None: as in the others.
        uneven: whether other tasks may differ in size too.
        n_meta: number of meta-training classes, which are not in `order`; for messages.
        least: least number of classes of a task, for messages.

    Raises InputError for settings that contradict each other.

    >>> dealt_out([0, 1, 2, 3, 4, 5, 6], None, 2, base=3, uneven=False)
    [[0, 1, 2], [3, 4], [5, 6]]
    """
    n_classes = len(order)
    if base and (n_tasks or not classes_per_task):
        way = "set scenario.n_tasks=null and scenario.classes_per_task=N"
        raise InputError(f"scenario.base={base}: the tasks after the first have classes_per_task classes each; {way}")
    if base and base >= n_classes:
        raise InputError(f"scenario.base={base}: leaves no class of {n_classes} for a second task; choose fewer")
    key, value = ("n_tasks", n_tasks) if n_tasks else ("classes_per_task", classes_per_task)
    if not value or (n_tasks and classes_per_task):
        way = "divides the classes too; set scenario.n_tasks=null" if value else "is also null; set one of the two"
        other = f"scenario.classes_per_task={classes_per_task or 'null'}"
        raise InputError(f"scenario.n_tasks={n_tasks or 'null'}: {other} {way}")
    left = n_classes - (base or 0)
    divisors = [n for n in range(1, left + 1) if left % n == 0]
    if value > left or (value not in divisors and not uneven):
        fitting = [n for n in divisors if (left // n if n_tasks else n) >= least] or divisors
        fits = ", ".join(map(str, fitting))
        way = "" if value > left else " (or scenario.uneven=true)"
        after = f" after the first {base} (scenario.base)" if base else ""
        after += f" besides the {n_meta} of scenario.meta_classes" if n_meta else ""
        raise InputError(
            f"scenario.{key}={value}: {left} classes{after} cannot be divided like this; choose {fits}{way}"
        )
    if n_tasks:
        return [part.tolist() for part in torch.tensor(order).tensor_split(n_tasks)]
    first, size = [order[:base]] if base else [], value
    return [*first, *(order[i : i + size] for i in range(base or 0, n_classes, size))]

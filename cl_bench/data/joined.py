"""The tasks of one scenario followed by those of another, for a run that continues another run."""

from __future__ import annotations

from dataclasses import replace

from cl_bench.config import InputError
from cl_bench.data.batches import Data
from cl_bench.data.problem import Problem, Task
from cl_bench.data.tasks import Scenario, output_names


def joined(old: Scenario, new: Scenario) -> Scenario:
    """Both scenarios as one. In class- and task-incremental learning new classes get new outputs, after the old ones.
    In domain-incremental learning the tasks share the outputs.

    Pixels are normalized as in the old scenario, because a network has one normalization.
    Raises InputError for scenarios that do not fit together.
    """
    check(old, new)
    before, after = old.problem, new.problem
    shift = 0 if before.kind == "domain" else before.n_outputs
    outputs = (*before.outputs, *(tuple(output + shift for output in own) for own in after.outputs))
    problem = replace(before, outputs=outputs, class_names=names_of(before, after, shift))
    n = before.n_tasks

    def moved(data: Data) -> Data:
        return replace(data, labels=data.labels + shift, task_ids=data.task_ids + n)

    def later(task: Task) -> Task:
        return replace(task, index=task.index + n, train=moved(task.train), val=moved(task.val))

    return Scenario(problem, [*old.tasks, *map(later, new.tasks)], [*old.tests, *map(moved, new.tests)])


def names_of(before: Problem, after: Problem, shift: int) -> tuple[str, ...]:
    """The class name of each output. If both runs have a class with the same name, the name has the run too."""
    both = [before.class_names, after.class_names]
    numbers = [range(len(both[0])), range(shift, shift + len(both[1]))]
    return output_names(numbers, both, ["earlier run", "this run"])


def check(old: Scenario, new: Scenario) -> None:
    """Raises InputError for scenarios that do not fit together, with the key of the setting that differs."""
    before, after = old.problem, new.problem
    if before.kind != after.kind:
        raise InputError(f"scenario.kind={after.kind}: the run that is continued is {before.kind}-incremental")
    if before.image_shape != after.image_shape:
        ours, theirs = ("x".join(map(str, problem.image_shape)) for problem in (after, before))
        raise InputError(f"dataset: has images of {ours}, the run that is continued of {theirs}; see dataset.size")
    if before.rules["train"] != after.rules["train"]:
        raise InputError(
            f"scenario.train_mask={after.rules['train']}: the run that is continued has {before.rules['train']}"
        )
    if repr(before.augment) != repr(after.augment):  # two partials of the same are not equal
        raise InputError("dataset.augment: images in memory are all augmented, or none; set the value of the first run")
    for scenario, whose in ((old, "the run that is continued"), (new, "this one")):
        if scenario.problem.view is not None:
            raise InputError(
                f"continue_from: {whose} shows the same images in several forms; set a higher scenario.n_tasks"
            )
        if scenario.shared_test or scenario.problem.n_meta:
            what = "tasks that share one test set" if scenario.shared_test else "classes for meta-training"
            raise InputError(f"continue_from: {whose} has {what}, which cannot be continued")
    if before.kind == "domain" and before.n_outputs != after.n_outputs:
        raise InputError(
            f"scenario.kind=domain: tasks share {before.n_outputs} outputs in the run that is continued, here "
            f"{after.n_outputs}"
        )
    twice = [name for name in after.class_names if name in before.class_names]
    if before.kind == "class" and twice:
        raise InputError(
            f"dataset: class '{twice[0]}' is a class of the run that is continued; new tasks need new classes, with "
            "names of their own"
        )

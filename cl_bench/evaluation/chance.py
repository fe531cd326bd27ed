"""How right it is to guess."""

from __future__ import annotations

import torch
from torch import Tensor

from cl_bench.data.tasks import Scenario


def chance(scenario: Scenario) -> list[float]:
    """The accuracy, after each task, of one that draws from the outputs that may answer, each as likely as the others:
    mean over the tests of the tasks so far, or that on the test set that all tasks share, shape (T,).

    In class-incremental learning it is 1 / (classes seen), and falls as they come.
    """
    problem, tests, n_tasks = scenario.problem, scenario.tests, len(scenario.tasks)
    allowed = problem.mask("own", after=0).double()  # (all tasks of the problem, n_outputs)
    rule = problem.rules["evaluation"]
    if rule == "seen":
        seen = allowed.cummax(0).values[:n_tasks]
        each = (shares(scenario) @ seen.T) / seen.sum(1)  # (tests, after)
        return [float(each[: None if scenario.shared_test else i + 1, i].mean()) for i in range(n_tasks)]
    allowed = problem.mask(rule, after=0).double()
    allowed = allowed / allowed.sum(1, keepdim=True)
    if scenario.shared_test:
        [test] = tests
        return [float(allowed[test.task_ids.long().cpu(), test.labels.cpu()].mean())] * n_tasks
    of_task = (shares(scenario) * allowed[:n_tasks]).sum(1)
    return (of_task.cumsum(0) / torch.arange(1, n_tasks + 1)).tolist()


def shares(scenario: Scenario) -> Tensor:
    """The share of each output among the labels of each test set, float64 (tests, n_outputs)."""
    n = scenario.problem.n_outputs
    counts = torch.stack([test.labels.bincount(minlength=n).cpu() for test in scenario.tests]).double()
    return counts / counts.sum(1, keepdim=True)

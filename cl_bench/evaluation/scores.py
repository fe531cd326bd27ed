"""Measuring a method on the test images of every task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from cl_bench.config import InputError
from cl_bench.data.batches import NO_TASK, Batch, Data
from cl_bench.data.problem import masked
from cl_bench.data.tasks import Scenario
from cl_bench.evaluation.by_class import ByClassTally
from cl_bench.evaluation.metrics import (
    AccuracyAfter,
    AccuracyMatrix,
    ContinualMetric,
    continual_metrics,
    plasticity_gap,
    retention,
)
from cl_bench.evaluation.or_nan import OrNaN
from cl_bench.methods.base import Method
from cl_bench.methods.parts.importance import eval_mode
from cl_bench.record import to_json


class Scores(NamedTuple):
    """Fields of `record.Results`: None where nothing was measured. A shared test set is one column of R."""

    R: list[list[float | None]]
    b: list[float | None]
    R_task_masked: list[list[float | None]] | None
    n_test: list[int]
    metrics: dict[str, float | None]


class References(NamedTuple):
    """What other runs reached on each task: jointly trained networks, and networks that learned one task alone.

    joint_line: mean accuracy of a joint run on the tasks so far, after each task, for pictures.
    """

    joint: list[float] | None = None
    separate: list[float] | None = None
    joint_line: list[float | None] | None = None


NO_REFERENCES = References()


class Score(nn.Module):
    """The accuracy matrix of a run and every metric on it; its state is its counts.

    With classes to be told apart across tasks it counts a second matrix, of the same run with the task given
    (only the task's own outputs may answer): a different quantity, kept under a different name. Where the test images
    are of no task there is none.

    references: for the metrics that compare with them.
    """

    metrics: MetricCollection
    own: AccuracyMatrix

    def __init__(self, scenario: Scenario, references: References = NO_REFERENCES) -> None:
        super().__init__()
        self.separate = references.separate
        self.scenario, self.problem = scenario, scenario.problem
        self.has_own = self.problem.kind == "class" and not any(NO_TASK in test.task_ids for test in scenario.tests)
        n_tasks, n_tests = len(scenario.tasks), len(scenario.tests)
        # A5 and A10, after 5 and 10 classes, mean something only where classes are told apart across tasks
        told_apart = self.problem.kind == "class" and not scenario.shared_test
        new = self.problem.task_of_output.bincount(minlength=n_tasks)[:n_tasks].tolist()
        classes = new if told_apart else [0] * n_tasks
        self.metrics = continual_metrics(n_tasks, classes, references.joint, n_tests)
        self.own = AccuracyMatrix(n_tasks, n_tests)
        self.or_nan = OrNaN()

    @torch.no_grad()
    def measure(self, method: Method, after: int) -> ByClassTally:
        """Counts right answers on every test set, after learning task `after` (-1: before any training). Returns what
        was answered to the images of the tasks so far."""
        method.eval()
        shared = self.scenario.shared_test
        rule = self.problem.rules["baseline" if after < 0 else "evaluation"]
        allowed, own = self.problem.mask(rule, after), self.problem.mask("own", after)
        tally = ByClassTally(self.problem.n_outputs, allowed if shared else allowed[: after + 1])
        tests = self.scenario.tests
        with answering() as highest:
            for test, batches in enumerate(self.scenario.test_dataloader()):
                again = any(tests[test] is earlier for earlier in tests[:test])  # of a task that came round again
                for batch in batches:
                    task = self.tasks(batch, test)
                    logits = self.logits(method, batch, test)
                    among = masked(logits, allowed.to(logits.device)[task])
                    answer = highest(among)
                    self.metrics.update(after, test, answer, batch.y)
                    if test <= after or (shared and after >= 0):
                        tally.add(test, among, answer, batch.y, again)
                    if self.has_own:
                        answer = masked(logits, own.to(logits.device)[task]).argmax(1)
                        self.own.update(after, test, answer, batch.y)
        return tally

    def tasks(self, batch: Batch, test: int) -> Any:
        """The task of all images of a mini-batch of a test set, or of each where the tasks share it, int64 (B,)."""
        return batch.task_ids.long() if self.scenario.shared_test else test

    def logits(self, method: Method, batch: Batch, test: int) -> Tensor:
        """The answers to a mini-batch of a test set; in task-incremental learning with the task of each image given."""
        if self.problem.kind != "task":
            logits = method(batch.x)
        elif not self.scenario.shared_test:
            logits = method(batch.x, index=test)
        else:
            parts = {task: (batch.task_ids == task).nonzero().squeeze(1) for task in batch.task_ids.unique().tolist()}
            found = torch.cat([method(batch.x[rows], index=task) for task, rows in parts.items()])
            logits = found[torch.cat([*parts.values()]).argsort()]
        check_shape(logits, len(batch.y), self.problem.n_outputs)
        return logits

    @torch.no_grad()
    def on_stream(self, method: Method, index: int, came: Tensor) -> float:
        """Accuracy in the middle of a stream, on the test images of what came: of these outputs, or of the tasks up to
        `index` where outputs are not told apart across tasks. Of a test set that all tasks share, domain-incremental
        learning has all of it from the beginning.

        came: bool (n_outputs,).
        """
        problem = self.problem
        allowed = problem.mask(problem.rules["evaluation"], after=index).to(came.device)
        among, tests = torch.ones_like(came), self.scenario.tests[: index + 1]
        if problem.kind == "class":
            among, tests = came, self.scenario.tests
        right, given = came.new_zeros(2, dtype=torch.int64)
        with eval_mode(method), answering() as highest:
            for test, data in enumerate(tests):
                if any(data is earlier for earlier in tests[:test]):  # of a task that came round again
                    continue
                for batch in data.batches():
                    task = self.tasks(batch, test)
                    logits = self.logits(method, batch, test)
                    counted = among[batch.y]
                    if problem.kind == "task":
                        counted = counted & (task <= index)
                    right += (counted & (highest(masked(logits, allowed[task] & among)) == batch.y)).sum()
                    given += counted.sum()
        return float(right.double() / given)

    @torch.no_grad()
    def accuracies(self, method: Method, after: int, images: Mapping[int, Data]) -> list[float]:
        """Accuracy on the images of each of some tasks up to `after`, or on the test set that all share, in the middle
        of a training. images: by the number of their test set; none is empty."""
        counts = torch.tensor([len(data) for data in images.values()], dtype=torch.float64)
        return (self.right(method, after, images) / counts).tolist()

    def validation(self, method: Method, after: int, first: int = 0) -> float | None:
        """Accuracy on the validation images of tasks `first` to `after`, None where there are none."""
        images = {task.index: task.val for task in self.scenario.tasks[first : after + 1] if len(task.val)}
        n = sum(map(len, images.values()))
        return float(self.right(method, after, images).sum()) / n if n else None

    @torch.no_grad()
    def right(self, method: Method, after: int, images: Mapping[int, Data]) -> Tensor:
        """How many of each of these sets of images are answered right, float64; see `accuracies`."""
        allowed = self.problem.mask(self.problem.rules["evaluation"], after)
        right = [torch.zeros((), dtype=torch.int64, device=method.device) for _ in images]
        with eval_mode(method), answering() as highest:
            for place, (test, data) in enumerate(images.items()):
                for batch in data.batches():
                    logits = self.logits(method, batch, test)
                    answer = highest(masked(logits, allowed.to(logits.device)[self.tasks(batch, test)]))
                    right[place] += (answer == batch.y).sum()
        return torch.stack(right).cpu().double()

    def results(self) -> Scores:
        """Matrices and metrics as plain numbers."""
        counts = cast(ContinualMetric, self.metrics["ACC"])
        metrics = self.metrics.items(keep_base=True, copy_state=False)
        values = {name: self.or_nan(name, metric.compute) for name, metric in metrics}
        if self.separate:
            # a network that learned one task alone knows no other class, so the task is given to ours too
            R = self.own.R if self.problem.kind == "class" else counts.R
            alone = R.new_tensor(self.separate)
            values["retention"] = float(retention(R, alone))
            values["plasticity_gap"] = float(plasticity_gap(R, alone))
            values["transfer"] = -values["plasticity_gap"]
        return Scores(
            R=with_none(counts.R),
            b=with_none(counts.b),
            R_task_masked=with_none(self.own.R) if self.has_own else None,
            n_test=[len(test) for test in self.scenario.tests],
            metrics=to_json({name: values[name] for name in sorted(values, key=self.order)}),
        )

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The counts, which the metrics share: one tensor under all their names, so that a file holds it once."""
        state = super().state_dict(*args, **kwargs)
        for name in state:
            if ".metrics." in f".{name}":
                first, _, last = name.partition("metrics.")
                state[name] = state[f"{first}metrics.ACC.{last.rpartition('.')[2]}"]
        return state

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """The counts go to the metrics that there are now: when they were saved, `reference` may have been another."""
        saved = {name: state_dict.pop(name) for name in list(state_dict) if name.startswith(f"{prefix}metrics.")}
        for metric in self.metrics:
            for part in ("correct", "count"):
                state_dict[f"{prefix}metrics.{metric}.{part}"] = saved[f"{prefix}metrics.ACC.{part}"]
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def ends(self) -> dict[str, int]:
        """The tasks after which A5 and A10 are measured, where these exist."""
        return {name: metric.tasks - 1 for name, metric in self.metrics.items() if isinstance(metric, AccuracyAfter)}

    @staticmethod
    def order(name: str) -> tuple[int, str]:
        """What people look at first comes first."""
        first = ("ACC", "BWT", "FWT", "forgetting")
        return (first.index(name) if name in first else len(first), name)


def check_shape(logits: Tensor, n: int, n_outputs: int) -> None:
    """Raises InputError for answers of another shape: a single one for each image would stand for every output."""
    if logits.shape != (n, n_outputs):
        why = f"its forward returns the shape {tuple(logits.shape)} for {n} images, and there are {n_outputs} outputs"
        raise InputError(f"method: {why}; return logits of the shape (B, n_outputs)")


@contextmanager
def answering() -> Iterator[Callable[[Tensor], Tensor]]:
    """Yields the function that finds the highest output of each image, shape (B, n_outputs) -> (B,).

    Looks for NaN once, at the end, as each look waits for a GPU: see `check_numbers`.
    """
    bad: list[Tensor] = []

    def highest(logits: Tensor) -> Tensor:
        bad.append(logits.isnan().any(1).sum())
        return logits.argmax(1)

    yield highest
    if bad:
        check_numbers(torch.stack(bad).sum())


def check_numbers(bad: Tensor) -> None:
    """Raises InputError for images with NaN among the outputs that may answer: the highest would be the first NaN.

    bad: how many there are, shape ().
    """
    if n := int(bad):
        raise InputError(f"method: its forward returns NaN for {n} answers; return numbers")


def with_none(values: Tensor) -> list[Any]:
    """Nested lists with None for what is not finite; of many numbers at once, as a matrix of 300 tasks has 90,000.

    >>> with_none(torch.tensor([[0.5, float("nan")]]))
    [[0.5, None]]
    """
    table = values.cpu().numpy().astype(object)
    table[~values.isfinite().cpu().numpy()] = None
    return table.tolist()

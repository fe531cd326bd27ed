"""Continual-learning metrics: functions of the accuracy matrix, and torchmetrics that count it.

R[i, j] is the accuracy on task j after learning task i, float64, shape (T, T). b[j] is the accuracy of the network
before any training, shape (T,). A value that was not measured is NaN, never 0, and so is every metric that needs it.
All functions describe the run so far: the first t tasks, where t is the last measured row of R. Formulas count tasks
from 1. If all tasks share one test set, R has one column, shape (T, 1), and b has one entry. Then ACC is the accuracy
after the last task, and AAA is the mean over the measured rows. Metrics that need an accuracy on each task are NaN.

>>> R = torch.tensor([[0.90, 0.15, 0.10], [0.94, 0.88, 0.20], [0.72, 0.80, 0.92]], dtype=torch.float64)
>>> f"{average_accuracy(R):.4f} {backward_transfer(R):.4f} {forgetting(R):.4f}"
'0.8133 -0.1300 0.1500'
>>> R[2] = torch.nan  # the third task was not learned yet
>>> f"{average_accuracy(R):.4f} {backward_transfer(R):.4f} {forgetting(R):.4f}"
'0.9100 0.0400 -0.0400'
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection


def measured(R: Tensor) -> int:
    """Tasks learned so far, t: the last row of R with any measurement, counted from 1; 0 if there is none."""
    return max((t for t, row in enumerate(R.isfinite().any(dim=1).tolist(), start=1) if row), default=0)


def so_far(R: Tensor) -> Tensor:
    """The accuracies of the tasks learned so far on each other, shape (t, t); with a shared test set (t, 1)."""
    return R[: measured(R), : measured(R)]


def shared(R: Tensor) -> bool:
    """Whether the tasks share one test set."""
    return R.shape[1] < R.shape[0]


def just_learned(R: Tensor) -> Tensor:
    """R[j, j] for each task so far, shape (t,); NaN if the tasks share one test set."""
    return R.new_full((measured(R),), torch.nan) if shared(R) else so_far(R).diagonal()


def accuracy_after(R: Tensor, t: int) -> Tensor:
    """A_t = mean_{j<=t} R[t, j], NaN if this row was not measured (Chaudhry et al., 2018)."""
    return R[t - 1 : t, :t].mean()


def average_accuracy(R: Tensor) -> Tensor:
    """ACC = mean_{j<=t} R[t, j] (Lopez-Paz and Ranzato, 2017)."""
    return accuracy_after(R, measured(R))


def weighted_accuracy(R: Tensor, n: Tensor) -> Tensor:
    """Accuracy on the merged test sets, sum_{j<=t} n[j] R[t, j] / sum_{j<=t} n[j]. n are their sizes, shape (T,)."""
    R, n = so_far(R), n[: measured(R)]
    return (R[-1:] * n).sum() / n.sum()


def backward_transfer(R: Tensor) -> Tensor:
    """BWT = mean_{j<t} (R[t, j] - R[j, j]) (Lopez-Paz and Ranzato, 2017)."""
    return (so_far(R)[-1:] - just_learned(R))[:, :-1].mean()


def forward_transfer(R: Tensor, b: Tensor) -> Tensor:
    """FWT = mean_{1<j<=t} (R[j-1, j] - b[j]) (Lopez-Paz and Ranzato, 2017).

    In class-incremental learning the classes of a future task are never predicted. So R[j-1, j] = 0, and FWT = -mean b
    for every method.
    """
    R, b = so_far(R), b[: measured(R)]
    return (R.diagonal(offset=1) - b[1:]).mean()


def forgetting(R: Tensor) -> Tensor:
    """F = mean_{j<t} (max_{l<t} R[l, j] - R[t, j]) (Chaudhry et al., 2018).

    The maximum is over all rows except the last, also before task j was learned. F < 0: the last accuracy is highest.
    """
    R = so_far(R)
    best = R[:-1].cummax(dim=0).values[-1:]  # max, but empty instead of an error for a single task
    return (best - R[-1:])[:, :-1].mean()


def first_forgetting(R: Tensor) -> Tensor:
    """Accuracy lost since a task was first learned, mean_{j<t} (R[j, j] - R[t, j]) = -BWT."""
    return -backward_transfer(R)


def learning_accuracy(R: Tensor) -> Tensor:
    """LA = mean_{j<=t} R[j, j] (Riemer et al., 2019)."""
    return just_learned(R).mean()


def average_incremental_accuracy(R: Tensor) -> Tensor:
    """AAA at the ends of tasks, mean_{s<=t} A_s (Rebuffi et al., 2017; Caccia et al., 2022)."""
    if shared(R):
        return R.nanmean()
    R = so_far(R)
    return (R.tril().sum(dim=1) / torch.arange(1, len(R) + 1, device=R.device)).mean()


def incremental_accuracies(R: Tensor, n: Tensor) -> Tensor:
    """The accuracy on the merged test sets of tasks 1 to s, for each s up to t. n are their sizes, shape (T,)."""
    if shared(R):
        return R.new_full((measured(R),), torch.nan)
    R, n = so_far(R), n[: measured(R)]
    return (R * n).tril().sum(dim=1) / n.cumsum(0)


def weighted_incremental_accuracy(R: Tensor, n: Tensor) -> Tensor:
    """AAA on merged test sets, the mean over all steps, the first included (iCaRL, LUCIR, PODNet)."""
    return incremental_accuracies(R, n).mean()


def later_incremental_accuracy(R: Tensor, n: Tensor) -> Tensor:
    """The same without the first step, which is not incremental (BiC, weight aligning)."""
    return incremental_accuracies(R, n)[1:].mean()


def intransigence(R: Tensor, reference: Tensor) -> Tensor:
    """I = mean_{j<=t} (reference[j] - R[j, j]), negative if earlier tasks helped (Chaudhry et al., 2018).

    reference: accuracy on task j of a model trained jointly on tasks 1 to j, shape (T,).
    """
    learned = just_learned(R)
    return (reference[: len(learned)] - learned).mean()


def retention(R: Tensor, separate: Tensor) -> Tensor:
    """mean_{j<=t} R[t, j] / separate[j]: the last accuracy on each task, relative to a separate network.

    separate: accuracy on task j of a network of the same shape that learned only this task, shape (T,). If it is 0,
    retention is NaN.
    """
    alone = separate[: measured(R)]
    if shared(R) or not len(alone):
        return R.new_tensor(torch.nan)
    return (so_far(R)[-1] / torch.where(alone > 0, alone, torch.nan)).mean()


def plasticity_gap(R: Tensor, separate: Tensor) -> Tensor:
    """mean_{j<=t} (separate[j] - R[j, j]). Above 0, earlier tasks made learning worse.

    It is intransigence with separate networks instead of a joint network. Its negative is transfer.
    """
    return intransigence(R, separate)


class ContinualMetric(Metric):
    """Counts of correct predictions and of images, for each pair of tasks. A subclass computes one number from them.

    correct, count: int64, shape (T + 1, T); row 0 is before any training, row i + 1 after task i.
    n_tests: test sets, T of them; 1 if the tasks share one: (T + 1, 1).
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    correct: Tensor
    count: Tensor

    def __init__(self, n_tasks: int, n_tests: int | None = None) -> None:
        super().__init__()
        for name in ("correct", "count"):
            zeros = torch.zeros(n_tasks + 1, n_tests or n_tasks, dtype=torch.int64)
            self.add_state(name, zeros, dist_reduce_fx="sum", persistent=True)

    def update(self, after: int, on: int, preds: Tensor, target: Tensor) -> None:
        """Count a batch of test set `on`, evaluated after learning task `after` (-1: before any training).

        preds, target: predicted and true outputs, int64, shape (N,).
        """
        n_tasks, n_tests = len(self.count) - 1, self.count.shape[1]
        if not (-1 <= after < n_tasks and 0 <= on < n_tests):
            raise IndexError(f"no accuracy after task {after} on task {on} among {n_tasks} tasks")
        if preds.shape != target.shape:
            raise ValueError(f"{tuple(preds.shape)} predictions for {tuple(target.shape)} targets")
        self.correct[after + 1, on] += (preds == target).sum()
        self.count[after + 1, on] += target.numel()

    @property
    def R(self) -> Tensor:
        """Accuracy matrix, float64, shape (T, T), or (T, 1)."""
        return self.correct[1:].double() / self.count[1:]

    @property
    def b(self) -> Tensor:
        """Accuracy before any training, float64, shape (T,), or (1,)."""
        return self.correct[0].double() / self.count[0]

    @property
    def n(self) -> Tensor:
        """Numbers of test images in the last measured row of R, int64, shape (T,), or (1,)."""
        return self.count[measured(self.R)]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Copy the counts in: torchmetrics would share the checkpoint's memory, device and shape instead."""
        for name in ("correct", "count"):
            if prefix + name in state_dict:
                own, saved = getattr(self, name), state_dict.pop(prefix + name)
                own.copy_(saved[: len(own), : own.shape[1]])  # a trial once had rows of tasks that it didn't learn
                self._update_count, self._computed = 1, None  # else it warns, or answers from before loading
        super()._load_from_state_dict(state_dict, prefix, *args)


class AccuracyMatrix(ContinualMetric):
    """R itself, see `ContinualMetric.R`."""

    def compute(self) -> Tensor:
        return self.R


class AverageAccuracy(ContinualMetric):
    """ACC, see `average_accuracy`."""

    def compute(self) -> Tensor:
        return average_accuracy(self.R)


class WeightedAccuracy(ContinualMetric):
    """Accuracy on the merged test sets, see `weighted_accuracy`."""

    def compute(self) -> Tensor:
        return weighted_accuracy(self.R, self.n)


class AccuracyAfter(ContinualMetric):
    """A_k after k classes, see `accuracy_after`; NaN if no task ends there, or the task was not learned yet.

    classes_per_task: new classes in each task, T of them.
    """

    def __init__(self, k: int, classes_per_task: Sequence[int], n_tests: int | None = None) -> None:
        super().__init__(len(classes_per_task), n_tests)
        seen = list(accumulate(classes_per_task))
        self.tasks = seen.index(k) + 1 if k in seen else 0

    def compute(self) -> Tensor:
        return accuracy_after(self.R, self.tasks)


class BackwardTransfer(ContinualMetric):
    """BWT, see `backward_transfer`."""

    def compute(self) -> Tensor:
        return backward_transfer(self.R)


class ForwardTransfer(ContinualMetric):
    """FWT, see `forward_transfer`."""

    def compute(self) -> Tensor:
        return forward_transfer(self.R, self.b)


class Forgetting(ContinualMetric):
    """Best accuracy minus last accuracy, see `forgetting`."""

    higher_is_better = False

    def compute(self) -> Tensor:
        return forgetting(self.R)


class FirstForgetting(ContinualMetric):
    """Accuracy lost since a task was first learned, see `first_forgetting`."""

    higher_is_better = False

    def compute(self) -> Tensor:
        return first_forgetting(self.R)


class LearningAccuracy(ContinualMetric):
    """LA, see `learning_accuracy`."""

    def compute(self) -> Tensor:
        return learning_accuracy(self.R)


class AverageIncrementalAccuracy(ContinualMetric):
    """AAA, see `average_incremental_accuracy`."""

    def compute(self) -> Tensor:
        return average_incremental_accuracy(self.R)


class WeightedIncrementalAccuracy(ContinualMetric):
    """weighted_AAA, see `weighted_incremental_accuracy`."""

    def compute(self) -> Tensor:
        return weighted_incremental_accuracy(self.R, self.n)


class LaterIncrementalAccuracy(ContinualMetric):
    """later_AAA, see `later_incremental_accuracy`."""

    def compute(self) -> Tensor:
        return later_incremental_accuracy(self.R, self.n)


class Intransigence(ContinualMetric):
    """Accuracy of a joint reference minus accuracy right after learning, see `intransigence`."""

    higher_is_better = False

    def __init__(self, reference: Sequence[float], n_tests: int | None = None) -> None:
        super().__init__(len(reference), n_tests)
        self.reference = tuple(reference)

    def compute(self) -> Tensor:
        R = self.R
        return intransigence(R, R.new_tensor(self.reference))


def continual_metrics(
    n_tasks: int,
    classes_per_task: Sequence[int],
    reference: Sequence[float] | None = None,
    n_tests: int | None = None,
) -> MetricCollection:
    """Every metric of a run under its short name, with one shared state: a batch is counted once.

    classes_per_task: new classes in each task. reference: see `intransigence`. n_tests: see `ContinualMetric`.
    """
    for name, per_task in (("classes_per_task", classes_per_task), ("reference", reference)):
        if per_task is not None and len(per_task) != n_tasks:
            raise ValueError(f"{name} has {len(per_task)} entries for {n_tasks} tasks")
    metrics: dict[str, Metric | MetricCollection] = {
        "ACC": AverageAccuracy(n_tasks, n_tests),
        "BWT": BackwardTransfer(n_tasks, n_tests),
        "FWT": ForwardTransfer(n_tasks, n_tests),
        "forgetting": Forgetting(n_tasks, n_tests),
        "first_forgetting": FirstForgetting(n_tasks, n_tests),
        "LA": LearningAccuracy(n_tasks, n_tests),
        "AAA": AverageIncrementalAccuracy(n_tasks, n_tests),
        "weighted_ACC": WeightedAccuracy(n_tasks, n_tests),
        "weighted_AAA": WeightedIncrementalAccuracy(n_tasks, n_tests),
        "later_AAA": LaterIncrementalAccuracy(n_tasks, n_tests),
    }
    boundaries = set(accumulate(classes_per_task))
    metrics |= {f"A{k}": AccuracyAfter(k, classes_per_task, n_tests) for k in (5, 10) if k in boundaries}
    if reference is not None:
        metrics["intransigence"] = Intransigence(reference, n_tests)
    return MetricCollection(metrics, compute_groups=[list(metrics)])

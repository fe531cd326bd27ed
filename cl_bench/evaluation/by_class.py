"""What was answered to the test images of the tasks so far: by class, and whether the class is among the first five."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from cl_bench.record import ByClass, thinned

MOST_CLASSES = 400
"""Of a confusion matrix; of more, neighbors share a row and a column."""
CELLS = 200_000
"""Of all confusion matrices of a run that are kept, about 0.7 MB of JSON."""
ACCURACIES = 50_000
"""Of single classes that a run keeps, at most 1 MB."""
FIRST = 5


class ByClassTally:
    """Gathers answers, and counts them once they are all there.

    Args:
        n_outputs: of the problem.
        allowed: which outputs may answer, bool (tasks, n_outputs), of the tasks whose images come: only where more than
            five may for each of them it is asked whether the right one is among the first five.
    """

    def __init__(self, n_outputs: int, allowed: Tensor) -> None:
        self.n_outputs = n_outputs
        self.asks_first = bool((allowed.sum(1) > FIRST).all())
        self.answers: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.among_first: dict[int, list[Tensor]] = {}  # of each test set

    def add(self, test: int, logits: Tensor, answers: Tensor, y: Tensor, again: bool = False) -> None:
        """Some images of a test set: the logits, masked, (B, n_outputs), the answers and the right ones, int64 (B,).

        again: whether they have come with another test set, so that they are counted already.
        """
        if not again:
            self.answers.append(answers.int())
            self.labels.append(y.int())
        if self.asks_first:
            self.among_first.setdefault(test, []).append((logits.topk(FIRST).indices == y[:, None]).any(1))

    @property
    def top5(self) -> float | None:
        """The share of images whose class is among the five first answers, mean over the test sets; None where five or
        fewer may answer."""
        shares = [torch.cat(parts).double().mean() for parts in self.among_first.values()]
        return float(torch.stack(shares).mean()) if shares else None

    def count(self, confusion: bool = True) -> ByClass:
        """confusion: whether it is wanted, too."""
        answers, labels = torch.cat(self.answers).long(), torch.cat(self.labels).long()
        given = torch.bincount(labels, minlength=self.n_outputs).cpu()
        right = torch.bincount(labels[answers == labels], minlength=self.n_outputs).cpu()
        accuracy = [r / n if n else None for r, n in zip(right.tolist(), given.tolist(), strict=True)]
        if not confusion:
            return ByClass(accuracy)
        share = per_row(self.n_outputs)
        matrix = multiclass_confusion_matrix(
            answers // share, labels // share, -(-self.n_outputs // share), validate_args=False
        )
        return ByClass(accuracy, matrix.tolist(), share)


def per_row(n_outputs: int) -> int:
    """Classes that share a row of a confusion matrix.

    >>> per_row(400), per_row(401)
    (1, 2)
    """
    return -(-n_outputs // MOST_CLASSES)


def kept_after(measured: Iterable[int], n_outputs: int) -> tuple[set[int], set[int]]:
    """The tasks after which accuracies of classes are kept, and confusion matrices: all of those that are measured, or
    some at equal distances, the last included.

    >>> accuracies, matrices = kept_after(range(100), n_outputs=100)
    >>> len(accuracies), len(matrices), max(matrices)
    (100, 20, 99)
    """
    tasks = sorted(measured)
    rows = -(-n_outputs // per_row(n_outputs))
    return some(tasks, ACCURACIES // n_outputs), some(tasks, CELLS // rows**2)


def some(tasks: Sequence[int], most: int) -> set[int]:
    return {tasks[-1]} if most < 2 else {tasks[place] for place in thinned(len(tasks), most)}

"""What a benchmark is: its tasks in their order, and which outputs may answer for which image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cl_bench.data.batches import Data
from cl_bench.data.views import Pictures

Kind = Literal["class", "task", "domain"]
Rule = Literal["seen", "all", "current", "own"]
TrainMask = Literal["seen", "all", "current"]


@dataclass(frozen=True)
class Problem:
    """What a learner may know of a benchmark before its first task.

    Args:
        kind: class-, task- or domain-incremental (van de Ven and Tolias, 2019).
        image_shape: (C, H, W).
        outputs: the logits that stand for the classes of each task.
        train_mask: which outputs take part in the training softmax of class-incremental learning.
        mean, std: per channel on the [0, 1] scale; None leaves pixels as they are.
        class_names: what each output stands for, n_outputs of them; () where nobody said.
        view, augment: how images that a method keeps are seen, as in `Data`.
        online: whether the images come as a stream, each once, without a word of where a task ends.
        n_meta: classes apart from those of the tasks, whose images come with the first one, see `Task`.
        label_smoothing: share of each label that is spread over the outputs that take part in training.
        pictures: what was made features of, which then stand where images do; None where images are learned from.
    """

    kind: Kind
    image_shape: tuple[int, int, int]
    outputs: tuple[tuple[int, ...], ...]
    train_mask: TrainMask = "seen"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    class_names: tuple[str, ...] = ()
    view: nn.Module | None = None
    augment: Callable[[Tensor], Tensor] | None = None
    online: bool = False
    n_meta: int = 0
    label_smoothing: float = 0.0
    pictures: Pictures | None = None

    @property
    def image_dtype(self) -> torch.dtype:
        """Of images as they lie in the data set, and in a memory."""
        return torch.float32 if self.pictures else torch.uint8

    @property
    def n_tasks(self) -> int:
        return len(self.outputs)

    @property
    def n_outputs(self) -> int:
        return 1 + max(max(outputs) for outputs in self.outputs)

    def seen(self, task: int) -> Tensor:
        """The outputs of tasks 0 to `task`, int64, ascending."""
        return self.mask("seen", after=task)[0].nonzero().squeeze(1)

    @property
    def task_of_output(self) -> Tensor:
        """The first task that each output belongs to, int64 (n_outputs,)."""
        first = torch.empty(self.n_outputs, dtype=torch.int64)
        for task in reversed(range(self.n_tasks)):
            first[list(self.outputs[task])] = task
        return first

    @property
    def rules(self) -> dict[str, Rule]:
        """Which outputs compete in training, in evaluation and in the baseline before any training."""
        if self.kind == "class":
            return {"train": self.train_mask, "evaluation": "seen", "baseline": "all"}
        rule: Rule = "own" if self.kind == "task" else "all"
        return {"train": rule, "evaluation": rule, "baseline": rule}

    def mask(self, rule: Rule, after: int) -> Tensor:
        """Which outputs may answer for an image of each task, once tasks 0 to `after` have come; here alone the
        three kinds of scenario differ.

        all: every output. own: those of the image's task. seen: those of tasks 0 to `after`. current: those of
        task `after`. Returns bool, shape (n_tasks, n_outputs).

        >>> Problem("class", (1, 8, 8), ((0, 1), (2, 3))).mask("own", after=1).int().tolist()
        [[1, 1, 0, 0], [0, 0, 1, 1]]
        """
        if rule == "all":
            return torch.ones(self.n_tasks, self.n_outputs, dtype=torch.bool)
        has = torch.zeros(self.n_tasks, self.n_outputs, dtype=torch.bool)
        for task, outputs in enumerate(self.outputs):
            has[task, list(outputs)] = True
        if rule == "own":
            return has
        seen = has[: after + 1].any(0) if rule == "seen" else has[after]
        return seen.expand_as(has)


def masked(logits: Tensor, allowed: Tensor) -> Tensor:
    """The logits, with those that may not answer at the lowest finite value (their softmax is 0, never NaN)."""
    return logits.masked_fill(~allowed, torch.finfo(logits.dtype).min)


@dataclass(frozen=True)
class Task:
    """What a learner is handed: the images of one task and nothing of the others.

    index: 0 for the first. names: its classes as the data set calls them. train, val: its images; `val` (a
    stratified slice, may be empty) is for selection. meta: of the first task, images of the classes that are set apart
    for meta-training and are in no task, labeled from 0; None where there are none, and in later tasks.
    """

    index: int
    names: tuple[str, ...]
    train: Data
    val: Data
    meta: Data | None = None

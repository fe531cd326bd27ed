"""A benchmark: its tasks in their order, and the outputs that may answer for each image."""

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
    """What a learner may know about a benchmark before its first task.

    Args:
        kind: class-, task- or domain-incremental (van de Ven and Tolias, 2019).
        image_shape: (C, H, W).
        outputs: the outputs of the classes of each task.
        train_mask: the outputs that take part in the training softmax of class-incremental learning.
        mean, std: per channel, for pixels in [0, 1]; None: no normalization.
        class_names: the name of each output, n_outputs of them; (): its number.
        view, augment: the changes to images that a method keeps, as in `Data`.
        online: whether the images come as a stream: each once, and the ends of tasks are unknown.
        n_meta: number of classes for meta-training. Their images come with the first task, see `Task`.
        label_smoothing: share of each label that is spread over the outputs that take part in training.
        pictures: the images from which features were computed; None if the method learns from images.
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
        """The type of images in the data set and in a memory."""
        return torch.float32 if self.pictures else torch.uint8

    @property
    def n_tasks(self) -> int:
        return len(self.outputs)

    @property
    def n_outputs(self) -> int:
        return 1 + max(output for own in self.outputs for output in own)

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
        """The outputs that may answer for an image of each task, after tasks 0 to `after` have come. The three kinds of
        scenario differ only here.

        all: every output. own: those of the image's task. seen: those of tasks 0 to `after`. current: those of task
        `after`. Returns bool, shape (n_tasks, n_outputs).

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
    """The logits. Outputs that may not answer have the lowest finite value, so their softmax is 0 and never NaN."""
    return logits.masked_fill(~allowed, torch.finfo(logits.dtype).min)


@dataclass(frozen=True)
class Task:
    """What a learner gets: the images of one task, and nothing of other tasks.

    index: counted from 0. names: its classes, with their names in the data set. train, val: its images. `val` is for
    selection: a stratified share, which may be empty. meta: in the first task, images of the meta-training classes,
    which are in no task, labeled from 0; None if there are none, and in later tasks.
    """

    index: int
    names: tuple[str, ...]
    train: Data
    val: Data
    meta: Data | None = None

"""What every method is: something that learns task after task and answers for all of them."""

from __future__ import annotations

import copy
from functools import cached_property
from typing import Any, ClassVar, Protocol, TypeVar

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from cl_bench.data.batches import Batch, Chunk, Data
from cl_bench.data.problem import Kind, Problem, Task, TrainMask
from cl_bench.networks.optimizers import KeptState, Optimizer
from cl_bench.record import Phase

M = TypeVar("M", bound=nn.Module)


class Fit(Protocol):
    """Trains a module on data: one phase, one Lightning Trainer.

    epochs, steps: how long, in passes over the data or in mini-batches (steps wins; by default the trainer's
    setting). times: how many tasks' worth of the trainer's iterations, when it counts iterations.

    Returns the record of the phase, the saved one when it was finished before a kill: a method may decide by it.
    """

    def __call__(
        self,
        module: Learner,
        data: Data,
        *,
        phase: str,
        epochs: int | None = None,
        steps: int | None = None,
        times: int = 1,
    ) -> Phase: ...


class Learner(LightningModule):
    """A module that `fit` can train: it says what one step on one mini-batch is.

    It is at step `at` of `steps` of its phase, in pass `epoch` of `epochs` over the data, from 0, after a kill too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.at, self.steps, self.epoch, self.epochs = 0, 1, 0, 1
        self.logs: list[tuple[int, str, Tensor]] = []  # of the last chunk: step, name, value

    def step(self, batch: Batch, optimizers: Any) -> dict[str, Tensor]:
        """One optimisation step; returns detached scalars to log.

        optimizers: the torch optimiser that `configure_optimizers` made, or the list of them.
        """
        raise NotImplementedError(f"{type(self).__name__} must say what a step is")

    def training_step(self, chunk: Chunk, _: int) -> None:
        """Steps over the mini-batches of a chunk, and keeps what they log in `logs`."""
        optimizers: Any = self.optimizers(use_pl_optimizer=False)
        self.logs = []
        self.steps, self.epochs = chunk.batches.steps, chunk.batches.epochs
        for self.at, batch in chunk:
            self.epoch = self.at // chunk.batches.per_epoch
            self.logs += [(self.at, name, value) for name, value in self.step(batch, optimizers).items()]


class Method(Learner):
    """A continual learner.

    kinds: the scenarios in which it has a meaning. train_mask: the outputs that its paper trains in class-incremental
    learning; `scenario.train_mask` sets others. n_phases: trainings of one network each, in a task that trains all of
    them. task: index of the task being learned, set by the runner.
    measurable: False while there is nothing to measure yet (joint training before its last task).
    facts: what `learn` found out, kept with the task's results (plain Python values).

    Everything it remembers between tasks is in its `state_dict`.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("class", "task", "domain")
    n_phases: ClassVar[int] = 1
    train_mask: ClassVar[TrainMask] = "seen"

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem
        self.task = -1
        self.measurable = True
        self.facts: dict[str, Any] = {}

    def learn(self, task: Task, fit: Fit) -> None:
        """Learns one task, from its images alone and from what was kept."""
        fit(self, task.train, phase="train")

    def generate(self, n: int) -> tuple[Tensor, Tensor] | None:
        """n images of each class seen, in [0, 1], shape (N, C, H, W), and their outputs (N,).

        For methods that generate. A generator without conditions gives fewer of a class that it seldom draws.
        """
        return None


class Classifier(Method):
    """A network with one linear head over every output, and the mask that turns it into many heads or one.

    network: (B, C, H, W) -> (B, n_outputs). optimizer: made anew for each phase; with `keep_state` its moments go on.
    """

    task_of_output: Tensor
    mean: Tensor | None
    std: Tensor | None

    def __init__(self, problem: Problem, network: nn.Module, optimizer: Optimizer) -> None:
        super().__init__(problem)
        self.network, self.optimizer = network, optimizer
        self.optimizer_state = KeptState() if getattr(optimizer, "keep_state", False) else None
        self.register_buffer("task_of_output", problem.task_of_output, persistent=False)
        for name in ("mean", "std"):
            value = getattr(problem, name)
            constant = None if value is None else torch.tensor(value).view(1, -1, 1, 1)
            self.register_buffer(name, constant, persistent=False)
        self._barred: dict[int, Tensor] = {}  # of the current task: what may not answer, by label or for all labels

    @cached_property
    def weights(self) -> dict[str, nn.Parameter]:
        """The parameters of the network by name."""
        return dict(self.network.named_parameters())

    def forward(self, x: Tensor, task: int | None = None) -> Tensor:
        """Logits over every output, for images in [0, 1]."""
        return self.network(self.normalised(x))

    def normalised(self, x: Tensor) -> Tensor:
        """The images as the network takes them: by the data set's mean and deviation, where it has them."""
        return x if self.mean is None or self.std is None else (x - self.mean) / self.std

    def active(self, logits: Tensor, y: Tensor) -> Tensor:
        """The logits with the outputs that take no part in training for labels `y` masked."""
        rule = self.problem.rules["train"]
        if rule == "all":
            return logits
        if rule == "current":  # of an image that is replayed, the classes that were current with it
            rule = "own"
        if self.task not in self._barred:
            barred = ~self.problem.mask(rule, after=self.task).to(logits.device)
            self._barred = {self.task: barred[self.task_of_output] if rule == "own" else barred[0]}
        barred = self._barred[self.task]
        return logits.masked_fill(barred[y] if barred.dim() > 1 else barred, torch.finfo(logits.dtype).min)

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy over the outputs that take part."""
        return F.cross_entropy(self.active(self(batch.x), batch.y), batch.y)

    def step(self, batch: Batch, optimizers: torch.optim.Optimizer) -> dict[str, Tensor]:
        loss = self.loss(batch)
        optimizers.zero_grad()
        loss.backward()
        optimizers.step()
        return {"loss": loss.detach()}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = self.optimizer(self.network.parameters())
        return self.optimizer_state.handed_to(optimizer) if self.optimizer_state else optimizer


def frozen(module: M) -> M:
    """A copy in evaluation mode that learns no more."""
    return copy.deepcopy(module).eval().requires_grad_(False)


def forget(module: nn.Module) -> None:
    """Fresh random weights for every part of a module."""
    for part in module.modules():
        if part is not module and hasattr(part, "reset_parameters"):
            part.reset_parameters()  # type: ignore[operator]


def bytes_of(module: nn.Module) -> int:
    """Bytes of everything that a module keeps."""
    return sum(value.nbytes for value in module.state_dict().values())

"""What every method is: something that learns task after task and answers for all of them."""

from __future__ import annotations

import copy
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from cl_bench.data.batches import Batch, Chunk, Data, Step
from cl_bench.data.problem import Kind, Problem, Task, TrainMask, masked
from cl_bench.methods.parts.cross_entropy import cross_entropy
from cl_bench.methods.parts.sizes import bytes_of
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import KeptState, Optimizer
from cl_bench.record import Phase

M = TypeVar("M", bound=nn.Module)


class Fit(Protocol):
    """Trains a module on data: one phase, one Lightning Trainer. Returns what is known of the phase.

    Args:
        phase: its name.
        step: what is done with each mini-batch, for this phase alone; by default the module's `train_step`.
        epochs, steps: how long, in passes over the data or in mini-batches (steps wins; by default the trainer's
            setting).
        times: how many tasks' worth of the trainer's iterations, when it counts iterations.
    """

    def __call__(
        self,
        module: Learner,
        data: Data,
        *,
        phase: str,
        step: Step | None = None,
        epochs: int | None = None,
        steps: int | None = None,
        times: int = 1,
    ) -> Phase: ...


class Answers(NamedTuple):
    """What a classifier says of a mini-batch before it learns it, for its online accuracy.

    logits: (B, n_outputs). said: the outputs that these logits are trained towards. y, task_ids: of the mini-batch.
    """

    logits: Tensor
    said: Tensor
    y: Tensor
    task_ids: Tensor


class Learner(LightningModule):
    """A module that `fit` can train: it says what one step on one mini-batch is.

    It is at step `step_index` of `n_steps` of its phase, in pass `epoch` of `n_epochs` over the data, from 0, after a
    kill too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.step_index, self.n_steps, self.epoch, self.n_epochs = 0, 1, 0, 1
        self.logs: list[tuple[int, str, Tensor]] = []  # of the last chunk: step, name, value
        self.answers: list[Answers] = []  # of the last chunk, to mini-batches of the first pass
        self.asked: Batch | None = None  # the mini-batch of this step, until it is answered

    def train_step(self, batch: Batch, optimizers: Any) -> dict[str, Tensor]:
        """One optimization step; returns detached scalars to log.

        Args:
            optimizers: the torch optimizer that `configure_optimizers` made, or the list of them.
        """
        raise NotImplementedError(f"{type(self).__name__} must say what a step is")

    def begin_step(self, batch: Batch) -> None:
        """A mini-batch has come, and is learned next; nothing to do here."""

    def answered(self, logits: Tensor, y: Tensor) -> None:
        """Keeps the first logits of a step, for the online accuracy. A loss without `Classifier.active` calls it."""
        if self.asked is not None:
            n = len(self.asked.y)
            self.answers.append(Answers(logits[:n].detach(), y[:n], self.asked.y, self.asked.task_ids))
            self.asked = None

    def training_step(self, chunk: Chunk, _: int) -> None:
        """Steps over the mini-batches of a chunk, and keeps what they log in `logs` and first answer in `answers`."""
        optimizers: Any = self.optimizers(use_pl_optimizer=False)
        batches, self.logs, self.answers = chunk.batches, [], []
        step = batches.step or self.train_step
        self.n_steps, self.n_epochs = batches.steps, batches.epochs
        for self.step_index, batch in chunk:
            self.epoch = self.step_index // batches.per_epoch
            self.begin_step(batch)
            self.asked = batches.new(batch, self.step_index)
            self.logs += [(self.step_index, name, value) for name, value in step(batch, optimizers).items()]
        self.asked = None


class Method(Learner):
    """A continual learner. Everything that it remembers between tasks is in its `state_dict`.

    kinds: scenarios in which it has a meaning. train_mask: outputs that its paper trains in class-incremental learning;
    `scenario.train_mask` sets others. n_phases: trainings of one network each, in a task that trains all of them.
    needs_validation: whether it chooses by validation images. needs_borders: whether it must know where a task ends;
    else it learns a stream, see `learn_stream`. trains: whether by gradients; else length, optimizer and the keys of
    `config.training` say nothing (but of what `method.first_task` trains). by_gradients: whether in the phase that
    runs. refused: keys that it can't follow, and why. unread: keys that say nothing beside these values of others, some
    in a tuple, `...` for any but null. answers_by: how names of what answers begin in its state. grows: whether another
    run may go on with it, see `runs.continued`. family: a color of the report. index: of the task, or the last one.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("class", "task", "domain")
    n_phases: ClassVar[int] = 1
    train_mask: ClassVar[TrainMask] = "seen"
    needs_validation: ClassVar[bool] = False
    needs_borders: ClassVar[bool] = True
    trains: ClassVar[bool] = True
    refused: ClassVar[dict[str, str]] = {}
    unread: ClassVar[dict[str, dict[str, Any]]] = {}
    answers_by: ClassVar[tuple[str, ...]] = ("",)
    grows: ClassVar[bool] = False
    family: ClassVar[str] = "other"

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem
        self.index, self.by_gradients = -1, self.trains

    def learn_task(self, task: Task, fit: Fit) -> dict[str, Any]:
        """Learns one task, and returns what is worth knowing of it (plain Python values, kept with its results)."""
        self.index = task.index
        if self.problem.online:
            self.learn_stream(task.train, fit)
            return {}
        return self.learn(task, fit) or {}

    def learn(self, task: Task, fit: Fit) -> dict[str, Any] | None:
        """Learns one task, from its images alone and from what was kept; may return diagnostics."""
        fit(self, task.train, phase="train")

    def learn_stream(self, images: Data, fit: Fit) -> None:
        """Learns the next part of a stream that comes once, and isn't told where it ends: by its steps alone."""
        fit(self, images, phase="stream")

    def cross_entropy(self, logits: Tensor, y: Tensor, reduction: Literal["mean", "sum", "none"] = "mean") -> Tensor:
        """That of labels, smoothed if `label_smoothing` says so, over the outputs that take part."""
        return cross_entropy(logits, y, self.problem.label_smoothing, reduction)

    @property
    def measurable(self) -> bool:
        """False while there is nothing to measure yet (joint training before its last task)."""
        return True

    @property
    def answer_bytes(self) -> int:
        """Bytes of all that answers to the tasks so far need; what is kept for further learning alone doesn't count."""
        return bytes_of(self.state_dict())

    def generate(self, n: int) -> tuple[Tensor, Tensor] | None:
        """n images of each class seen (fewer of one that a generator without conditions seldom draws), in [0, 1],
        shape (N, C, H, W), and their outputs (N,); None of methods that don't generate."""
        return None

    def get_extra_state(self) -> dict[str, Any]:
        return {"index": self.index}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.index = state["index"]


class Classifier(Method):
    """A network with one linear head over every output, and the mask that turns it into many heads or one.

    Args:
        network: (B, C, H, W) -> (B, n_outputs).
        optimizer: made anew for each phase; with `keep_state` its moments go on.
    """

    answers_by = ("network.",)
    task_of_output: Tensor
    came: Tensor

    def __init__(self, problem: Problem, network: Network, optimizer: Optimizer) -> None:
        super().__init__(problem)
        self.network, self.optimizer = network, optimizer
        goes_on = problem.online or getattr(optimizer, "keep_state", False)
        self.optimizer_state = KeptState() if goes_on else None
        self.register_buffer("task_of_output", problem.task_of_output, persistent=False)
        if problem.online:  # outputs whose labels came so far
            self.register_buffer("came", torch.zeros(problem.n_outputs, dtype=torch.bool))
        self._barred: dict[int, Tensor] = {}  # of the current task: what may not answer, by label or for all labels

    @cached_property
    def weights(self) -> dict[str, nn.Parameter]:
        """The parameters of the network by name."""
        return dict(self.network.named_parameters())

    def forward(self, x: Tensor, index: int | None = None) -> Tensor:
        """Logits over every output, for images in [0, 1]. index: of their task, where it is given."""
        return self.network(x)

    @property
    def answer_bytes(self) -> int:
        return bytes_of(self.network.state_dict())

    def begin_step(self, batch: Batch) -> None:
        if self.problem.online:
            self.came[batch.y] = True

    def answered(self, logits: Tensor, y: Tensor) -> None:
        online = self.asked is not None and self.problem.online and self.problem.kind == "class"
        super().answered(masked(logits, self.came) if online else logits, y)

    def active(self, logits: Tensor, y: Tensor) -> Tensor:
        """The logits with the outputs that take no part in training for labels `y` masked.

        The first logits of a step are those of its mini-batch, before those of images that join it: they count as its
        answers, see `answered`.
        """
        self.answered(logits, y)
        rule = self.problem.rules["train"]
        if rule == "all":
            return logits
        if rule == "seen" and self.problem.online:  # no task says which outputs came
            return masked(logits, self.came)
        if rule == "current":  # of an image that is replayed, the classes that were current with it
            rule = "own"
        if self.index not in self._barred:
            barred = ~self.problem.mask(rule, after=self.index).to(logits.device)
            self._barred = {self.index: barred[self.task_of_output] if rule == "own" else barred[0]}
        barred = self._barred[self.index]
        return logits.masked_fill(barred[y] if barred.dim() > 1 else barred, torch.finfo(logits.dtype).min)

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy over the outputs that take part."""
        return self.cross_entropy(self.active(self(batch.x), batch.y), batch.y)

    def train_step(self, batch: Batch, optimizers: torch.optim.Optimizer, **given: Any) -> dict[str, Tensor]:
        """A step down the loss. given: what a phase was handed besides, passed on to `loss`."""
        loss = self.loss(batch, **given)
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

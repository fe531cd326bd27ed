"""The base class of every method: it learns task after task and predicts the classes of all of them."""

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
    """Trains a module on data: one phase, one Lightning Trainer. Returns the record of the phase.

    Args:
        phase: its name in the results.
        step: replaces the module's `train_step` in this phase only.
        epochs, steps: the length, in passes over the data or in mini-batches. steps has priority. By default the
            trainer's setting is used.
        times: factor of `trainer.iterations`, for a phase that learns several tasks at once.
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
    """The logits of a mini-batch before it is learned, for the online accuracy.

    logits: (B, n_outputs). said: the labels in the loss of these logits, (B,). y, task_ids: of the mini-batch, (B,).
    """

    logits: Tensor
    said: Tensor
    y: Tensor
    task_ids: Tensor


class Learner(LightningModule):
    """A module that `fit` can train: it defines one step on one mini-batch.

    `step_index` counts the steps of a phase from 0, of `n_steps`; `epoch` counts its passes from 0, of `n_epochs`. A
    run that continues after a kill continues both counts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.step_index, self.n_steps, self.epoch, self.n_epochs = 0, 1, 0, 1
        self.logs: list[tuple[int, str, Tensor]] = []  # of the last chunk: step, name, value
        self.answers: list[Answers] = []  # of the last chunk, for mini-batches of the first pass
        self.asked: Batch | None = None  # the mini-batch of this step, until `answered` gets its logits

    def train_step(self, batch: Batch, optimizers: Any) -> dict[str, Tensor]:
        """Makes one optimization step on a mini-batch and returns detached scalars to log.

        Args:
            optimizers: the torch optimizer that `configure_optimizers` made, or the list of them.
        """
        raise NotImplementedError(f"{type(self).__name__} must say what a step is")

    def begin_step(self, batch: Batch) -> None:
        """Called before a mini-batch is learned. Does nothing here."""

    def answered(self, logits: Tensor, y: Tensor) -> None:
        """Keeps the first logits of a step, for the online accuracy. A loss without `Classifier.active` calls it."""
        if self.asked is not None:
            n = len(self.asked.y)
            self.answers.append(Answers(logits[:n].detach(), y[:n], self.asked.y, self.asked.task_ids))
            self.asked = None

    def training_step(self, chunk: Chunk, _: int) -> None:
        """Makes a step on each mini-batch of a chunk. Then `logs` has the logged values, and `answers` the logits."""
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

    kinds: the kinds of scenario in which it works. index: the current task, from 0.
    train_mask: the outputs that its paper trains in class-incremental learning; `scenario.train_mask` overrides it.
    n_phases: the largest number of trainings in a task. needs_validation: whether it needs validation images.
    needs_borders: whether it must know where a task ends. If not, it can learn a stream, see `learn_stream`.
    trains: whether it learns by gradients. If not, length, optimizer and the keys of `config.training` have no effect,
    except with `method.first_task`. by_gradients: the same for the current phase.
    refused: keys that it refuses, with the reason. grows: whether another run can continue it (`runs.continued`).
    unread: keys without effect if other keys have these values. A tuple has several values; `...` is any but null.
    answers_by: prefixes of the names in its state that predictions need. family: its color in the report.
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
        """Learns one task. Returns notes about it (plain Python values), which the results keep."""
        self.index = task.index
        if self.problem.online:
            self.learn_stream(task.train, fit)
            return {}
        return self.learn(task, fit) or {}

    def learn(self, task: Task, fit: Fit) -> dict[str, Any] | None:
        """Learns one task from its images and from what the state has of earlier tasks. May return notes."""
        fit(self, task.train, phase="train")

    def learn_stream(self, images: Data, fit: Fit) -> None:
        """Learns the next part of a stream, in which each image comes once. It does not know where a task ends."""
        fit(self, images, phase="stream")

    def cross_entropy(self, logits: Tensor, y: Tensor, reduction: Literal["mean", "sum", "none"] = "mean") -> Tensor:
        """The cross-entropy of logits (B, n_outputs) from `active` and labels y (B,), with `label_smoothing`."""
        return cross_entropy(logits, y, self.problem.label_smoothing, reduction)

    @property
    def measurable(self) -> bool:
        """False if nothing can be measured yet (joint training before its last task)."""
        return True

    @property
    def answer_bytes(self) -> int:
        """Bytes that predictions for the tasks so far need. What only further learning needs is not counted."""
        return bytes_of(self.state_dict())

    def generate(self, n: int) -> tuple[Tensor, Tensor] | None:
        """n images of each class so far, in [0, 1], shape (N, C, H, W), and their outputs (N,). An unconditional
        generator may give fewer images of a class. None if the method does not generate images."""
        return None

    def get_extra_state(self) -> dict[str, Any]:
        return {"index": self.index}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.index = state["index"]


class Classifier(Method):
    """A network with one linear head over all outputs, and a mask that makes it act as one head or several heads.

    Args:
        network: images (B, C, H, W) in [0, 1] -> logits (B, n_outputs).
        optimizer: makes a new torch optimizer for each phase. With `keep_state` its moments continue.
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
        self._barred: dict[int, Tensor] = {}  # outputs masked in the current task, for each label or for all labels

    @cached_property
    def weights(self) -> dict[str, nn.Parameter]:
        """The parameters of the network by name."""
        return dict(self.network.named_parameters())

    def forward(self, x: Tensor, index: int | None = None) -> Tensor:
        """Logits over all outputs, for images in [0, 1]. index: their task, if it is given."""
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
        """The logits (B, n_outputs), with the outputs masked that do not take part in training for labels y (B,).

        The first call in a step must have the logits of the step's mini-batch in its first rows: they give the online
        accuracy, see `answered`.
        """
        self.answered(logits, y)
        rule = self.problem.rules["train"]
        if rule == "all":
            return logits
        if rule == "seen" and self.problem.online:  # no task says which outputs came
            return masked(logits, self.came)
        if rule == "current":  # a replayed image has the classes that were current in its task
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
        """One step of the optimizer on `loss`. given: more arguments for `loss`."""
        loss = self.loss(batch, **given)
        optimizers.zero_grad()
        loss.backward()
        optimizers.step()
        return {"loss": loss.detach()}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = self.optimizer(self.network.parameters())
        return self.optimizer_state.handed_to(optimizer) if self.optimizer_state else optimizer


def frozen(module: M) -> M:
    """A copy in evaluation mode that is not trained."""
    return copy.deepcopy(module).eval().requires_grad_(False)

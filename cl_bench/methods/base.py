"""What every method is: something that learns task after task and answers for all of them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from cl_bench.data.batches import Batch, Chunk, Data
from cl_bench.data.scenarios import Kind, Problem, Task, masked
from cl_bench.networks.optimizers import Optimizer


class Fit(Protocol):
    """Trains a module on data: one phase, one Lightning Trainer.

    epochs, steps: how long, in passes over the data or in mini-batches (steps wins; by default the trainer's
    setting). times: how many tasks' worth of the trainer's iterations, when it counts iterations.
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
    ) -> None: ...


class Learner(LightningModule):
    """A module that `fit` can train: it says what one step on one mini-batch is.

    `at` is the number of the step inside its phase, from 0; it survives a kill.
    """

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.at = 0

    def step(self, batch: Batch, optimizers: Any) -> dict[str, Tensor]:
        """One optimisation step; returns detached scalars to log.

        optimizers: the torch optimiser that `configure_optimizers` made, or the list of them.
        """
        raise NotImplementedError(f"{type(self).__name__} must say what a step is")

    def training_step(self, chunk: Chunk, _: int) -> None:
        """Steps over the mini-batches of a chunk; logs each scalar's mean once."""
        optimizers: Any = self.optimizers(use_pl_optimizer=False)
        logs: dict[str, list[Tensor]] = defaultdict(list)
        for self.at, batch in chunk:
            for name, value in self.step(batch, optimizers).items():
                logs[name].append(value)
        means = {name: torch.stack(values).mean() for name, values in logs.items()}
        # Lightning takes "step" for the x-axis; its own count stays at 0 under manual optimisation
        self.log_dict({**means, "step": float(self.at + 1)}, batch_size=1)


class Method(Learner):
    """A continual learner.

    kinds: the scenarios in which it has a meaning. task: index of the task being learned, set by the runner.
    measurable: False while there is nothing to measure yet (joint training before its last task).
    facts: what `learn` found out, kept with the task's results (plain Python values).

    Everything it remembers between tasks is in its `state_dict`.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("class", "task", "domain")

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem
        self.task = -1
        self.measurable = True
        self.facts: dict[str, Any] = {}

    def learn(self, task: Task, fit: Fit) -> None:
        """Learns one task, from its images alone and from what was kept."""
        fit(self, task.train, phase="train")

    def samples(self) -> Tensor | None:
        """A grid of generated images in [0, 1], shape (rows, columns, C, H, W), for methods that generate."""
        return None


class Classifier(Method):
    """A network with one linear head over every output, and the mask that turns it into many heads or one.

    network: (B, C, H, W) -> (B, n_outputs). optimizer: made anew for each phase.
    """

    task_of_output: Tensor
    mean: Tensor | None
    std: Tensor | None

    def __init__(self, problem: Problem, network: nn.Module, optimizer: Optimizer) -> None:
        super().__init__(problem)
        self.network, self.optimizer = network, optimizer
        self.register_buffer("task_of_output", problem.task_of_output, persistent=False)
        for name in ("mean", "std"):
            value = getattr(problem, name)
            constant = None if value is None else torch.tensor(value).view(1, -1, 1, 1)
            self.register_buffer(name, constant, persistent=False)
        self._allowed: dict[int, Tensor] = {}  # for the current task: what may answer, by label

    @property
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
        if self.task not in self._allowed:
            allowed = self.problem.mask(rule, after=self.task).to(logits.device)
            self._allowed = {self.task: allowed[self.task_of_output]}
        return masked(logits, self._allowed[self.task][y])

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
        return self.optimizer(self.network.parameters())

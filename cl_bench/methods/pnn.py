"""Progressive neural networks (Rusu et al., 2016): a column for every task, with connections from earlier columns."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from cl_bench.config import InputError
from cl_bench.data.batches import Batch
from cl_bench.data.problem import Kind, Problem, Task
from cl_bench.methods.base import Fit, Method
from cl_bench.networks.base import Network, reset_parameters
from cl_bench.networks.columns import Column, Lateral, later_layers
from cl_bench.networks.growing import Growing
from cl_bench.networks.optimizers import Optimizer
from cl_bench.networks.plain import plain_layers


class Adapter(Lateral):
    """U relu(V [a_1 h^1, ..., a_{k-1} h^{k-1}] + c), with a learned scale a_j for each earlier column."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, n_columns: int) -> None:
        super().__init__(layer, n_columns, n_scales=n_columns)

    def side_by_side(self, others: Sequence[Tensor]) -> Tensor:
        h = torch.stack(list(others), 1)
        return (h * self.scale.view(-1, *[1] * (h.dim() - 2))).flatten(1, 2)


class PNN(Growing, Method):
    """Objective at task k: cross-entropy over its own outputs, with its own network, column k. Earlier columns are used
    but do not change. Layer i >= 2 of column k, including its head (equation 2):

    h_i^k = f(W_i^k h_{i-1}^k + b_i^k + U_i^k relu(V_i^k [a_1 h_{i-1}^1, ..., a_{k-1} h_{i-1}^{k-1}] + c_i^k)).

    Column k classifies images of task k. The task of an image must be given.

    Args:
        network: the shape of each column, a plain sequence of layers; its head has the outputs of only its task.
        optimizer: a new one for each column; `keep_state` has no effect.
        init: the layers of a new column are `random`, or a copy of the `previous` column's layers (not its head).
        earlier: columns that a new column uses: those that have `learned` the tasks before; or `random` columns that
            are not trained, the paper's control: an advantage from them is not transfer.
    """

    family = "architecture"
    kinds: ClassVar[tuple[Kind, ...]] = ("task",)
    own: Tensor
    place: Tensor

    unread: ClassVar[dict[str, dict[str, Any]]] = {"optimizer.keep_state": {}}

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        *,
        init: Literal["random", "previous"],
        earlier: Literal["learned", "random"],
    ) -> None:
        super().__init__(problem)
        plain_layers(network, "method=pnn builds its columns")
        if init == "previous" and earlier == "random":
            raise InputError(
                "method.init=previous: copies a learned column, and method.earlier=random uses none; choose random"
            )
        self.optimizer, self.init, self.earlier = optimizer, init, earlier
        self.width = network.head.in_features
        self.columns = nn.ModuleList([self.shaped(0, network.features)])  # one per task so far; one before the first
        self.random = nn.ModuleList()
        self.register_buffer("own", problem.mask("own", after=0), persistent=False)
        # the position of each output in the head of each task, (n_tasks, n_outputs); without meaning for other outputs
        self.register_buffer("place", (self.own.cumsum(1) - 1).clamp(min=0), persistent=False)

    def learn(self, task: Task, fit: Fit) -> dict[str, Any]:
        if task.index:
            column = self.new_column(task.index)
            if self.init == "previous":
                column.features.load_state_dict(self.column(-1).features.state_dict())
            self.columns.append(column)
            if self.earlier == "random":
                self.random.append(self.new_column(task.index - 1))
        fit(self, task.train, phase="train")
        return {"parameters": sum(p.numel() for p in self.parameters())}

    def forward(self, x: Tensor, index: int | None = None) -> Tensor:
        """Logits (B, n_outputs), the lowest number for outputs of other tasks. index: the task; None: the current one.
        A task without a column yet has the same logit for all its outputs."""
        task = max(self.index, 0) if index is None else index
        if task < len(self.columns):
            own = self.column(task)(x, self.below(x, task))
        else:
            own = x.new_zeros(len(x), len(self.problem.outputs[task]))
        return own[:, self.place[task]].masked_fill(~self.own[task], torch.finfo(own.dtype).min)

    @torch.no_grad()
    def below(self, x: Tensor, index: int) -> list[list[Tensor]]:
        """The inputs of the layers of the columns before task `index`, for each column."""
        inputs: list[list[Tensor]] = []
        for column in (self.random if self.earlier == "random" else self.columns)[:index]:
            inputs.append(cast(Column, column).inputs(x, inputs))
        return inputs

    def column(self, index: int) -> Column:
        return cast(Column, self.columns[index])

    def train_step(self, batch: Batch, optimizers: torch.optim.Optimizer) -> dict[str, Tensor]:
        logits = self(batch.x)
        self.answered(logits, batch.y)
        loss = self.cross_entropy(logits, batch.y)
        optimizers.zero_grad()
        loss.backward()
        optimizers.step()
        return {"loss": loss.detach()}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.column(-1).parameters())

    def new_column(self, index: int) -> Column:
        """The column of a task, with random weights."""
        features = copy.deepcopy(self.column(0).features)
        reset_parameters(features)
        return self.shaped(index, features).to(self.device)

    def shaped(self, index: int, features: nn.Sequential) -> Column:
        """These layers as the column of a task, with a head for its outputs and adapters from the earlier columns."""
        head = nn.Linear(self.width, len(self.problem.outputs[index]))
        laterals = (Adapter(layer, index) for layer in later_layers(features, head)) if index else ()
        return Column(features, head, laterals)

    def new_part(self, name: str, index: int, state: Mapping[str, Tensor]) -> nn.Module:
        return self.shaped(index, copy.deepcopy(self.column(0).features))

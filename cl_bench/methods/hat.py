"""Hard attention to the task (Serrà et al., 2018): every task learns which units it uses; these never change again."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from cl_bench.config import InputError, NonNegative, Rate
from cl_bench.data.batches import Batch
from cl_bench.data.problem import Problem, Task
from cl_bench.methods.base import Fit
from cl_bench.methods.parts.isolation import Isolation
from cl_bench.networks.base import Network
from cl_bench.networks.masks import annealed, gate
from cl_bench.networks.optimizers import Optimizer
from cl_bench.networks.plain import gated, hidden_layers, inputs_from, weighted
from cl_bench.record import Capacity

log = logging.getLogger(__name__)

CLAMP = 6.0  # largest |embedding|: beyond it the slope of the sigmoid is nearly 0


class HAT(Isolation):
    """Objective at task t: cross-entropy + sparsity * R, with R = sum a (1 - M) / sum (1 - M) over all hidden units.

    a = sigmoid(s e) in [0, 1] multiplies the output of each unit, or of each channel of a convolution. e is learned
    with the weights. In every pass over the images s grows from 1 / s_max to s_max, so the masks a become binary. M:
    units that earlier tasks use. R is the share of the other units that this task uses (section 2.6). A weight between
    two units of M, and the bias of a unit of M, does not change any more. Each task has its own rows of the head.

    Unlike in the paper's code, masks are rounded to 0 and 1 when their task ends, because a mask near 0 would still let
    old outputs change. Weights are restored after each step, because momentum changes weights even if the gradient is
    0.

    Args:
        s_max: a higher value makes masks more binary, and tasks decide on their units earlier.
        sparsity: lambda; a higher value uses fewer new units.
        embedding_lr: step size of e, by plain SGD, because the paper's scaling of its gradient has no effect on Adam.
    """

    refused: ClassVar[dict[str, str]] = {
        "trainer.patience": "has binary masks only at the end of a whole training",
    }

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        *,
        s_max: Rate = 400.0,
        sparsity: NonNegative = 0.75,
        embedding_lr: Rate = 0.05,
    ) -> None:
        super().__init__(problem, network, optimizer)
        self.s_max, self.sparsity, self.embedding_lr = s_max, sparsity, embedding_lr
        self.layers = hidden_layers(network, "method=hat masks units")
        self.weighted = weighted(self.layers)
        units = [len(layer.weight) for layer in self.weighted]
        self.embeddings = nn.ParameterList(torch.zeros(n) for n in units)  # of the current task
        masks = (torch.ones(problem.n_tasks, n, dtype=torch.bool) for n in units)
        self.masks = nn.ParameterList(nn.Parameter(mask, False) for mask in masks)  # all 1 until the end of a task

    def learn(self, task: Task, fit: Fit) -> dict[str, Any]:
        reserved = [mask[: task.index].any(0) for mask in self.masks]
        if all(units.all() for units in reserved):
            raise InputError(
                f"method.sparsity={self.sparsity}: task {task.index + 1} of {self.problem.n_tasks} has no free "
                "unit; increase it, or make the network wider"
            )
        free = torch.cat([~units for units in reserved])
        self.share = free / free.sum()  # of each unit in R
        biases = {cast(nn.Parameter, layer.bias): own for layer, own in zip(self.weighted, reserved, strict=True)}
        self.freeze_entries(self.between(reserved) | biases)
        for embedding in self.embeddings:
            nn.init.normal_(embedding)
        fit(self, task.train, phase="train")
        for mask, embedding in zip(self.masks, self.embeddings, strict=True):
            mask[task.index] = embedding >= 0
        closed = [number for number, mask in enumerate(self.masks, 1) if not mask[task.index].any()]
        if closed:
            log.warning(
                "task %d: no unit of layer %d is used, so all images get the same prediction; decrease method.sparsity "
                "or method.embedding_lr, or train longer",
                task.index + 1,
                closed[0],
            )
        return {"capacity": self.capacity(reserved)}

    def forward(self, x: Tensor, index: int | None = None) -> Tensor:
        """index: the task whose masks are used, rounded to 0 and 1; None: the current masks, not rounded."""
        if index is None:
            return self.through(x, self.gates())
        current = index == self.index  # its masks are stored only when it ends
        kept = zip(self.embeddings, self.masks, strict=True)
        return self.through(x, [embedding >= 0 if current else mask[index] for embedding, mask in kept])

    def through(self, x: Tensor, masks: Sequence[Tensor]) -> Tensor:
        """Logits (B, n_outputs) of the network with masks of its units, (units,) for each layer."""
        return self.network.head(gated(self.layers, x, masks))

    @property
    def answer_bytes(self) -> int:
        """The network, and a bit for each unit and each task so far."""
        return super().answer_bytes + (self.index + 1) * -(-sum(map(len, self.embeddings)) // 8)

    def loss(self, batch: Batch) -> Tensor:
        gates = self.gates()
        logits = self.active(self.through(batch.x, gates), batch.y)
        opened = torch.dot(torch.cat(gates), self.share)
        return self.cross_entropy(logits, batch.y) + self.sparsity * opened

    def train_step(self, batch: Batch, optimizers: torch.optim.Optimizer) -> dict[str, Tensor]:
        logs = super().train_step(batch, optimizers)
        with torch.no_grad():
            for embedding in self.embeddings:
                assert embedding.grad is not None
                embedding.sub_(self.embedding_lr * embedding.grad).clamp_(-CLAMP, CLAMP)
                embedding.grad = None
        return logs

    def gates(self) -> list[Tensor]:
        """The masks of the current task: sigmoid(s e), with the slope s_max sigmoid'(e) instead of s sigmoid'(s e).

        For large s the true slope is 0 almost everywhere. The slope here is the true slope with the compensation of the
        paper (section 2.5), the factor s_max / s (cosh(s e) + 1) / (cosh(e) + 1).
        """
        return [gate(embedding, self.s, slope=self.s_max) for embedding in self.embeddings]

    @property
    def s(self) -> float:
        """The scale of the masks (section 2.4): 1 / s_max at the first mini-batch of a pass, s_max at the last."""
        # if a training would end within a pass, all its passes are shorter: masks must be binary at the end
        number = self.step_index * self.n_epochs // self.n_steps
        first, end = (-(-(number + n) * self.n_steps // self.n_epochs) for n in (0, 1))
        along = (self.step_index - first) / (end - 1 - first) if end - 1 > first else 1.0
        return annealed(self.s_max, along)

    def between(self, units: list[Tensor]) -> dict[nn.Parameter, Tensor]:
        """The entries of each weight between two of these units, or between the image and one of them, bool.

        units: bool (units,) for each layer.
        """
        parts, below = {}, None
        for layer, own in zip(self.weighted, units, strict=True):
            inputs = layer.weight.shape[1]
            if below is None:
                below = own.new_ones(inputs)
            part = own[:, None] & inputs_from(below, inputs)
            parts[layer.weight] = part.view(*part.shape, *[1] * (layer.weight.dim() - 2)).expand_as(layer.weight)
            below = own
        return parts

    def capacity(self, before: list[Tensor]) -> Capacity:
        """As `capacity_of`, with the numbers of weights between the units.

        before: units that were reserved when the task began, bool (units,) for each layer.
        """
        masks = [mask[self.index] for mask in self.masks]
        reserved = [mask | old for mask, old in zip(masks, before, strict=True)]
        return self.capacity_of(
            masks,
            before,
            weights=[layer.weight.numel() for layer in self.weighted],
            weights_used=[int(part.sum()) for part in self.between(masks).values()],
            weights_free=[int((~part).sum()) for part in self.between(reserved).values()],
        )

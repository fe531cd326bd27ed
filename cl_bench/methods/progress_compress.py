"""Progress & Compress (Schwarz et al., 2018): a column learns a task, then a knowledge base learns from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_bench.config import NonNegative, Positive, Rate, Share
from cl_bench.data.batches import Batch, Data
from cl_bench.data.problem import Problem, Task
from cl_bench.methods.base import Fit, frozen
from cl_bench.methods.ewc import EWC
from cl_bench.networks.base import Network, reset_parameters
from cl_bench.networks.columns import Column, Lateral, later_layers
from cl_bench.networks.optimizers import Optimizer
from cl_bench.networks.plain import plain_layers


class Adaptor(Lateral):
    """alpha * U relu(V h + c), with a learned scale alpha for each unit (or channel) of the layer."""

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__(layer, n_columns=1, n_scales=len(layer.weight))

    def forward(self, others: Sequence[Tensor]) -> Tensor:
        z = super().forward(others)
        return z * self.scale.view(-1, *[1] * (z.dim() - 2))


class ProgressCompress(EWC):
    """Two networks: the knowledge base (`network`) makes the predictions, and the active column learns the tasks.

    Progress, at task k: the cross-entropy of the column. Only the column changes. After the first task it also uses the
    layers of the knowledge base. Layer i >= 2 of the column, including its head (equation 1):
    h_i = f(W_i h_{i-1} + alpha_i * U_i relu(V_i h_{i-1}^KB + c_i) + b_i).

    Compress (equation 3), on the images of task k. Only the knowledge base changes; its weights are theta:
    mean_x KL(pi_k(.|x) || pi^KB(.|x)) + (strength / 2) decay sum_j F*_j (theta_j - theta*_j)^2. pi_k is the prediction
    of the column, with the knowledge base as it was when task k began. Both predictions are softmax(logits /
    temperature) over the outputs that take part in training. Then theta* = theta and F* = decay F* + F_k / |F_k|, where
    F_k is the diagonal Fisher information of the knowledge base on task k, and |F_k| its norm over all weights.

    Args:
        network: a plain sequence of layers.
        strength: lambda; a higher value forgets less and learns less.
        decay: gamma, share of the old F* that is kept at each task; it is also a factor of the penalty.
        temperature: tau; a higher value makes small probabilities count more.
        reinitialize: whether the column has new random weights at each task; better for tasks that differ much.
        fisher_samples: images of a task used for F_k; None: all.
    """

    family = "architecture"
    grows = False
    n_phases = 2
    needs_borders: ClassVar[bool] = True
    unread: ClassVar[dict[str, dict[str, Any]]] = {"optimizer.keep_state": {"reinitialize": True}}
    refused: ClassVar[dict[str, str]] = {
        "trainer.patience": "first trains a network that does not answer yet",
    }

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        *,
        strength: NonNegative,
        decay: Share,
        temperature: Rate,
        reinitialize: bool,
        fisher_samples: Positive | None,
    ) -> None:
        plain_layers(network, "method=progress_compress needs the layers")
        super().__init__(
            problem, network, optimizer, strength=strength, online=True, decay=decay, fisher_samples=fisher_samples
        )
        self.gamma, self.temperature, self.reinitialize = decay, temperature, reinitialize
        if reinitialize:
            self.optimizer_state = None  # its state would belong to the old weights of the column
        fresh = network.fresh()
        self.column = Column(fresh.features, fresh.head, map(Adaptor, later_layers(fresh.features, fresh.head)))

    def learn(self, task: Task, fit: Fit) -> None:
        if task.index and self.reinitialize:
            reset_parameters(self.column)
        network = frozen(self.network)
        known = Column(network.features, network.head) if task.index else None
        for phase, objective in (("progress", self.progress), ("compress", self.compress)):
            step = partial(self.train_step, objective=partial(objective, known=known))
            fit(self, task.train, phase=phase, step=step)
        self.penalty.replace(self.weights, self.fisher(task.train), decay=self.gamma)

    def loss(self, batch: Batch, *, objective: Callable[[Batch], Tensor]) -> Tensor:
        return objective(batch)

    def progress(self, batch: Batch, known: Column | None) -> Tensor:
        """The objective of the column. known: the knowledge base when the task began; None in the first task."""
        return self.cross_entropy(self.active(self.column_logits(batch.x, known), batch.y), batch.y)

    def compress(self, batch: Batch, known: Column | None) -> Tensor:
        """The objective of the knowledge base."""
        with torch.no_grad():
            taught = self.active(self.column_logits(batch.x, known) / self.temperature, batch.y).softmax(1)
        said = self.active(self.network(batch.x) / self.temperature, batch.y).log_softmax(1)
        loss = F.kl_div(said, taught, reduction="batchmean")
        if self.index > 0:
            loss = loss + self.strength / 2 * self.gamma * self.penalty(self.weights)
        return loss

    def column_logits(self, x: Tensor, known: Column | None) -> Tensor:
        return self.column(x, [known.inputs(x)] if known else [])

    def fisher(self, data: Data) -> dict[str, Tensor]:
        """The diagonal Fisher information of the knowledge base, by name, scaled to norm 1 over all weights."""
        fisher = super().fisher(data)
        norm = torch.stack([value.norm() for value in fisher.values()]).norm()
        return {name: value / norm.clamp(min=torch.finfo(norm.dtype).tiny) for name, value in fisher.items()}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = self.optimizer([*self.network.parameters(), *self.column.parameters()])
        return self.optimizer_state.handed_to(optimizer) if self.optimizer_state else optimizer

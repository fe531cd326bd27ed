"""CLNP (Golkar, Kagan and Cho, 2019): units that a task does not use in a sparse network are free for the next task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cl_bench.config import InputError, NonNegative, Share
from cl_bench.data.batches import Batch, Data
from cl_bench.data.problem import Problem, Task, masked
from cl_bench.methods.base import Fit
from cl_bench.methods.parts.isolation import Isolation
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer
from cl_bench.networks.plain import gated, hidden_layers, inputs_from, weighted


class CLNP(Isolation):
    """Objective at task t: cross-entropy + l1 sum_j |w_j|, over the weights into free units and the task's own rows of
    the head. Weights into units that earlier tasks use never change again.

    After the training a unit is active if its mean |activation| over the training images is above a threshold. The
    threshold is the largest one for which the accuracy on validation images falls by at most `margin` when the other
    units are 0 ("graceful forgetting"). Active units belong to the used units from then on. Weights from other units
    into used units or into the task's rows of the head ("interference") are set to 0 for ever. Weights into free units
    are drawn again for the next task. The next task may read used units, but cannot change them.

    Args:
        l1: a higher value gives more inactive units and learns less.
        margin: accuracy on validation images that a task may lose; a higher value frees more units.
    """

    needs_validation = True
    unread: ClassVar[dict[str, dict[str, Any]]] = {"optimizer.keep_state": {}}

    def __init__(
        self, problem: Problem, network: Network, optimizer: Optimizer, *, l1: NonNegative, margin: Share
    ) -> None:
        super().__init__(problem, network, optimizer)
        self.optimizer_state = None  # its state would belong to weights that are drawn again
        self.l1, self.margin = l1, margin
        self.layers = hidden_layers(network, "method=clnp frees units")
        self.weighted = weighted(self.layers)
        self.matrices = [p for p in network.parameters() if p.dim() > 1]
        self.nobody = problem.n_tasks  # the task of free units: an index after the last task
        smallest = torch.uint8 if self.nobody < 256 else torch.int16
        births = (torch.full((len(layer.weight),), self.nobody, dtype=smallest) for layer in self.weighted)
        self.born = nn.ParameterList(nn.Parameter(birth, False) for birth in births)  # the first task that uses a unit

    def learn(self, task: Task, fit: Fit) -> dict[str, Any]:
        used = self.used
        full = [number for number, units in enumerate(used, 1) if units.all()]
        if full:
            raise InputError(
                f"method.l1={self.l1}: task {task.index + 1} of {self.problem.n_tasks} has no free unit in layer "
                f"{full[0]}; increase it or method.margin={self.margin}, or make the network wider"
            )
        if task.index:
            self.renew(used)
        pairs = zip(self.weighted, used, strict=True)
        self.freeze_entries({p: rows(units, p) for layer, units in pairs for p in layer.parameters()})
        fit(self, task.train, phase="train")

        activity = self.activity(task.train)
        threshold, accuracies = self.threshold(activity, used, task.val)
        active = [mean > threshold for mean in activity]
        for birth, units, old in zip(self.born, active, used, strict=True):
            birth[units & ~old] = task.index
        self.cut()
        return {"capacity": self.capacity_of(active, used), "threshold": threshold, "val_accuracy": accuracies}

    def loss(self, batch: Batch) -> Tensor:
        return super().loss(batch) + self.l1 * torch.stack([weight.abs().sum() for weight in self.matrices]).sum()

    @property
    def used(self) -> list[Tensor]:
        """Which units of each layer a task uses, bool (units,)."""
        return [birth < self.nobody for birth in self.born]

    @torch.no_grad()
    def renew(self, used: Sequence[Tensor]) -> None:
        """Draws new weights into free units, and new biases."""
        for layer, units in zip(self.weighted, used, strict=True):
            old = [p.clone() for p in layer.parameters()]
            layer.reset_parameters()
            for p, value in zip(layer.parameters(), old, strict=True):
                p.copy_(torch.where(rows(units, p), value, p))

    @torch.no_grad()
    def activity(self, data: Data) -> list[Tensor]:
        """The mean |activation| of each unit over images (and positions of a channel), (units,) for each layer."""
        totals = [layer.weight.new_zeros(len(layer.weight)) for layer in self.weighted]
        for batch in data.batches():
            x, given = batch.x, []
            for layer in self.layers:
                x = layer(x)
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    given.append(x)
                elif given and not isinstance(layer, nn.Flatten):  # the module after a layer is its activation
                    given[-1] = x
            for total, outputs in zip(totals, given, strict=True):
                total += outputs.abs().flatten(2).mean(2).sum(0) if outputs.dim() > 2 else outputs.abs().sum(0)
        return [total / len(data) for total in totals]

    def threshold(
        self, activity: Sequence[Tensor], used: Sequence[Tensor], data: Data
    ) -> tuple[float, tuple[float, float]]:
        """The largest threshold that keeps the margin, found by bisection, and the accuracies (without, with) it.

        -1 if even threshold 0 does not keep the margin: then all units are active.

        Args:
            activity: mean |activation| of each unit, (units,) for each layer.
            used: units that earlier tasks use, bool (units,) for each layer.
            data: validation images.
        """
        free = torch.cat([mean[~units] for mean, units in zip(activity, used, strict=True)])
        levels = [-1.0, *free.unique().tolist()]

        def accuracy(level: float) -> float:
            return self.accuracy(data, [(mean > level) | units for mean, units in zip(activity, used, strict=True)])

        before = after = accuracy(levels[0])
        low, high = 0, len(levels)  # levels[low] keeps the margin, levels[high] does not
        while high - low > 1:
            middle = (low + high) // 2
            found = accuracy(levels[middle])
            if before - found <= self.margin + 1e-9:  # the difference of two shares has a rounding error
                low, after = middle, found
            else:
                high = middle
        return levels[low], (before, after)

    @torch.no_grad()
    def accuracy(self, data: Data, units: Sequence[Tensor]) -> float:
        """The accuracy on images of the current task, with only these units, bool (units,) for each layer."""
        own = self.task_of_output == self.index
        answers = [
            masked(self.network.head(gated(self.layers, batch.x, units)), own).argmax(1) == batch.y
            for batch in data.batches()
        ]
        return float(torch.cat(answers).double().mean())

    @torch.no_grad()
    def cut(self) -> None:
        """Sets weights from free units into used units, and into the current task's rows of the head, to 0."""
        used = self.used
        heads = self.task_of_output == self.index
        for below, layer, above in zip(used, [*self.weighted[1:], self.network.head], [*used[1:], heads], strict=True):
            free = inputs_from(~below, layer.weight.shape[1])
            layer.weight[above[:, None] & free] = 0.0


def rows(units: Tensor, parameter: Tensor) -> Tensor:
    """The entries of a weight or bias that lead into these units, bool, of a shape that broadcasts to the parameter's.

    >>> rows(torch.tensor([True, False]), torch.zeros(2, 3)).tolist()
    [[True], [False]]
    """
    return units.view(-1, *[1] * (parameter.dim() - 1))

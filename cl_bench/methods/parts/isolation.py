"""Shared by HAT, PackNet and CLNP: each task has its own part of the network, which later tasks do not change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cl_bench.config import InputError
from cl_bench.data.batches import Batch
from cl_bench.data.problem import Problem
from cl_bench.methods.base import Classifier
from cl_bench.networks.base import Network
from cl_bench.networks.masks import Frozen
from cl_bench.networks.optimizers import Optimizer
from cl_bench.record import Capacity


class Isolation(Classifier):
    """A classifier that can freeze entries of its network's parameters.

    The head has a row for each output, so every task has its own rows, and only the rows of the current task change.
    The task of an image must be given.

    Raises InputError for a network with running statistics (batch normalization), which every task would change.
    """

    family = "architecture"
    kinds = ("task",)

    def __init__(self, problem: Problem, network: Network, optimizer: Optimizer) -> None:
        super().__init__(problem, network, optimizer)
        if network.state_dict().keys() - dict(network.named_parameters()).keys():
            raise InputError(
                "network: every task changes its running statistics, so no task could keep what it learned; "
                "choose one without batch normalization, such as network=mlp (or network.norm=none of network=dcgan)"
            )
        self._frozen = Frozen({})  # set again at each task, so it is not in the state

    def freeze_entries(self, parts: Mapping[nn.Parameter, Tensor]) -> None:
        """From now on no step changes these entries, or the rows of the head of other tasks.

        parts: bool for each parameter, of a shape that broadcasts to the parameter's.
        """
        head, others = self.network.head, self.task_of_output != self.index
        self._frozen = Frozen({**parts, head.weight: others[:, None], head.bias: others})

    def capacity_of(self, masks: Sequence[Tensor], before: Sequence[Tensor], **more: Any) -> Capacity:
        """The number of units of each layer by use. The current task uses `new` and `reused`.

        Args:
            masks: units that the task uses, bool (units,) for each layer.
            before: units that were reserved when it began, of the same shapes.
            more: other fields of `Capacity`.
        """
        pairs = list(zip(masks, before, strict=True))
        total = [len(mask) for mask in masks]
        return Capacity(
            layers=[f"layer {i}" for i in range(1, 1 + len(total))],
            of="units",
            total=total,
            new=[int((mask & ~old).sum()) for mask, old in pairs],
            reused=[int((mask & old).sum()) for mask, old in pairs],
            reserved=[int((mask | old).sum()) for mask, old in pairs],
            free=[int((~(mask | old)).sum()) for mask, old in pairs],
            size=sum(total),
            size_worst=sum(total) * (self.index + 1),
            **more,
        )

    def train_step(self, batch: Batch, optimizers: torch.optim.Optimizer) -> dict[str, Tensor]:
        logs = super().train_step(batch, optimizers)
        self._frozen.restore()
        return logs

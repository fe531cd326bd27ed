"""What methods share in which every task has a part of the network for itself: that part is never changed again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from cl_bench.config import InputError
from cl_bench.data.batches import Batch
from cl_bench.data.problem import Problem
from cl_bench.methods.base import Classifier
from cl_bench.networks.optimizers import Optimizer


class Isolation(Classifier):
    """A classifier that holds some entries of its network's parameters where they are.

    The head is a row for each output, so every task has its own rows of it, and only those of the current task move.
    Nothing says to which task an image belongs, so the task must be given.
    """

    kinds = ("task",)

    def __init__(self, problem: Problem, network: nn.Module, optimizer: Optimizer) -> None:
        super().__init__(problem, network, optimizer)
        if next(network.buffers(), None) is not None:
            raise InputError(
                "network: its running statistics are moved by every task, so no task could keep what it learned; "
                "choose one without batch normalisation, such as network=mlp (or network.norm=none of network=dcgan)"
            )
        self._held: list[tuple[nn.Parameter, Tensor, Tensor]] = []  # follows from the state, so no part of it

    def hold(self, parts: Mapping[nn.Parameter, Tensor]) -> None:
        """From now on no step moves these entries, nor the rows of the head of other tasks.

        parts: bool for each parameter, of a shape that broadcasts to the parameter's.
        """
        head, others = cast(nn.Linear, self.network.head), self.task_of_output != self.task
        held = {**parts, head.weight: others[:, None], head.bias: others}
        self._held = [(p, part.to(p.dtype), p.detach().clone()) for p, part in held.items() if part.any()]

    def step(self, batch: Batch, optimizers: torch.optim.Optimizer) -> dict[str, Tensor]:
        logs = super().step(batch, optimizers)
        self.put_back()
        return logs

    @torch.no_grad()
    def put_back(self) -> None:
        """Undoes what the optimiser did to entries that are held.

        A zero gradient is not enough: momentum and weight decay move a weight without one.
        """
        for parameter, part, value in self._held:
            parameter.lerp_(value, part)  # to an end, so exactly; `where` and a mask of bool take 25 times as long

"""Exemplars: real images that stand for their class, chosen by herding (Rebuffi et al., 2017)."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_bench.config import InputError
from cl_bench.data.batches import Data
from cl_bench.data.problem import Problem
from cl_bench.methods.base import Classifier
from cl_bench.methods.parts.importance import eval_mode
from cl_bench.methods.parts.memory import Budget, Memory
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer


class Exemplary(Classifier):
    """A classifier that keeps exemplars of each class, in the order in which herding takes them.

    Args:
        memory: exemplars kept; in total, shared equally by the classes so far; per task, by its classes.

    Raises InputError for a memory that leaves a class with nothing.
    """

    def __init__(self, problem: Problem, network: Network, optimizer: Optimizer, memory: Budget) -> None:
        super().__init__(problem, network, optimizer)
        self.memory = Memory(memory, problem)
        self.n_exemplars = cast(int, self.memory.n_images)
        most = max(map(len, problem.outputs))
        if memory.per == "task" and self.n_exemplars < most:
            raise InputError(f"{memory}: less than one image for each of {most} classes of a task; set more")

    def with_exemplars(self, data: Data) -> Data:
        """The data of a task, and the exemplars of those before it."""
        return data + self.memory.data if len(self.memory) else data

    def keep_exemplars(self, data: Data) -> None:
        """Gives the classes of a task that ends their exemplars; older classes keep the first of theirs."""
        self.memory.add(self.exemplars(data))

    def exemplars(self, data: Data) -> Data:
        """Of each class the images that its share of the budget allows, the most telling first."""
        sharing = {
            "class": 1,
            "task": len(self.problem.outputs[self.index]),
            "total": len(self.problem.seen(self.index)),
        }
        share = self.n_exemplars // sharing[self.memory.per]
        chosen = []
        for label in data.labels.unique():
            rows = (data.labels == label).nonzero().squeeze(1)
            chosen.append(rows[herd(self.features_of(data[rows]), share)])
        return data[torch.cat(chosen)]

    def features(self, x: Tensor) -> Tensor:
        """Unit vectors (B, width) for images in [0, 1]."""
        return F.normalize(self.network.features(x))

    @torch.no_grad()
    def features_of(self, data: Data) -> Tensor:
        """Unit vectors (N, width) for all the images, by the network in evaluation mode."""
        with eval_mode(self.network):
            return torch.cat([self.features(batch.x) for batch in data.batches()])

    def class_means(self, data: Data) -> Tensor:
        """Unit vectors (n_outputs, width) along the mean of each class's images; 0 for classes without any."""
        features = self.features_of(data)
        member = F.one_hot(data.labels, self.problem.n_outputs).to(features.dtype)
        return F.normalize(member.T @ features)


def herd(features: Tensor, n: int) -> Tensor:
    """The rows of n of the features (N, width), or all N, in the order in which herding takes them; int64.

    Row number k minimizes |mean - (f_k + sum of those taken) / k|, where both averages are scaled to length 1, as the
    paper does with whatever it computes from features: the row whose sum with those taken points along the mean most.

    >>> herd(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]), n=2).tolist()
    [1, 2]
    """
    target, squares = F.normalize(features.mean(0), dim=0), features.square().sum(1)
    along, taken, rows = features @ target, torch.zeros_like(target), []
    gone = torch.zeros_like(along)  # -inf where a row is taken: once is enough
    for _ in range(min(n, len(features))):
        lengths = (squares + 2 * (features @ taken) + taken.square().sum()).clamp(min=0).sqrt()
        cosines = (along + taken @ target) / lengths.clamp(min=torch.finfo(lengths.dtype).tiny)
        row = (cosines + gone).argmax(0, keepdim=True)
        rows.append(row)
        gone[row] = -torch.inf
        taken = taken + features[row[0]]
    return torch.cat(rows)

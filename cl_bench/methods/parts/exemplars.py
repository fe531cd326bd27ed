"""Exemplars: images of each class that are kept, chosen by herding (Rebuffi et al., 2017)."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_bench.data.batches import Data
from cl_bench.data.problem import Problem
from cl_bench.methods.base import Classifier
from cl_bench.methods.parts.importance import eval_mode
from cl_bench.methods.parts.memory import Budget, Memory
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer


class Exemplary(Classifier):
    """A classifier that keeps exemplars of each class, in the order in which herding chooses them.

    Args:
        memory: exemplars kept; in total, divided equally among the classes so far; per task, among its classes.

    each: exemplars that each class needs.

    Raises InputError if a class would have fewer exemplars.
    """

    each: ClassVar[int] = 1

    def __init__(self, problem: Problem, network: Network, optimizer: Optimizer, memory: Budget) -> None:
        super().__init__(problem, network, optimizer)
        self.memory = Memory(memory, problem, self.each)
        self.n_exemplars = cast(int, self.memory.n_images)

    def with_exemplars(self, data: Data) -> Data:
        """The data of a task, and the exemplars of earlier tasks."""
        return data + self.memory.data if len(self.memory) else data

    def keep_exemplars(self, data: Data) -> None:
        """Keeps exemplars of the classes of a task that ends. Older classes keep only their first exemplars."""
        self.memory.add(self.exemplars(data))

    def exemplars(self, data: Data) -> Data:
        """The exemplars of each class in the data, as many as its share of the budget, in the order of herding."""
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
        """Unit vectors (N, width) for all images, with the network in evaluation mode."""
        with eval_mode(self.network):
            return torch.cat([self.features(batch.x) for batch in data.batches()])

    def class_means(self, data: Data) -> Tensor:
        """The mean features of each class, scaled to length 1, (n_outputs, width); 0 for classes without images."""
        features = self.features_of(data)
        member = F.one_hot(data.labels, self.problem.n_outputs).to(features.dtype)
        return F.normalize(member.T @ features)


def herd(features: Tensor, n: int) -> Tensor:
    """The numbers of the rows that herding chooses from the features (N, width), in its order; int64 (min(n, N),)
    (Rebuffi et al., 2017, algorithm 4).

    The k-th choice f minimizes |mean - (f + sum of chosen rows) / k|. Both averages are scaled to length 1, as in the
    paper. So it is the row whose sum with the chosen rows has the largest cosine with the mean.

    >>> herd(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]), n=2).tolist()
    [1, 2]
    """
    target, squares = F.normalize(features.mean(0), dim=0), features.square().sum(1)
    along, taken, rows = features @ target, torch.zeros_like(target), []
    gone = torch.zeros_like(along)  # -inf for chosen rows, so that no row is chosen twice
    for _ in range(min(n, len(features))):
        lengths = (squares + 2 * (features @ taken) + taken.square().sum()).clamp(min=0).sqrt()
        cosines = (along + taken @ target) / lengths.clamp(min=torch.finfo(lengths.dtype).tiny)
        row = (cosines + gone).argmax(0, keepdim=True)
        rows.append(row)
        gone[row] = -torch.inf
        taken = taken + features[row[0]]
    return torch.cat(rows)

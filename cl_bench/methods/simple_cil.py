"""SimpleCIL (Zhou et al., 2023): the class means are the weights of a cosine head over frozen features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_bench.data.problem import Problem
from cl_bench.methods.parts.frozen_features import FrozenFeatures
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer


class SimpleCIL(FrozenFeatures):
    """The class whose mean points where the features do: argmax_c cos(phi(x), mu_c).

    Args:
        first_task: see `FrozenFeatures`.
    """

    def __init__(self, problem: Problem, network: Network, optimizer: Optimizer, *, first_task: bool) -> None:
        super().__init__(problem, network, optimizer, first_task=first_task)

    def worked_out(self) -> tuple[Tensor, ...]:
        return F.normalize(self.means, dim=1), torch.zeros_like(self.counts)

    def scores(self, features: Tensor) -> Tensor:
        return super().scores(F.normalize(features, dim=1))

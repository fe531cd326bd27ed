"""Nearest class mean (Mensink et al., 2013) on frozen features."""

from __future__ import annotations

from torch import Tensor

from cl_bench.data.problem import Problem
from cl_bench.methods.parts.frozen_features import FrozenFeatures
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer


class NCM(FrozenFeatures):
    """The class whose mean is nearest: argmin_c ||phi(x) - mu_c||, Euclidean.

    The scores are 2 mu_c^T phi - ||mu_c||^2, which is ||phi||^2 less the squared distance.

    Args:
        first_task: see `FrozenFeatures`.
    """

    def __init__(self, problem: Problem, network: Network, optimizer: Optimizer, *, first_task: bool) -> None:
        super().__init__(problem, network, optimizer, first_task=first_task)

    def worked_out(self) -> tuple[Tensor, ...]:
        return 2 * self.means, -self.means.square().sum(1)

"""SLDA (Hayes and Kanan, 2020): linear discriminant analysis of frozen features, from a stream."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Gt, Le
from torch import Tensor

from cl_bench.data.problem import Problem
from cl_bench.methods.parts.frozen_features import FrozenFeatures, times_inverse
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer


class SLDA(FrozenFeatures):
    """Predicts the class with the highest score. mu_c is the mean of class c, and S the covariance within classes, the
    same for all classes:

        Lambda = ((1 - shrinkage) S + shrinkage I)^-1
        score of c = mu_c^T Lambda phi - mu_c^T Lambda mu_c / 2

    The paper updates S with each sample. Here S is computed from the sum of phi phi^T. Up to rounding both are the
    same, if the update uses the number of samples of the class.

    Args:
        shrinkage: epsilon, share of the identity, in (0, 1]; with 1 predictions are those of `NCM`.
        first_task: see `FrozenFeatures`.
    """

    products: Tensor

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        *,
        shrinkage: Annotated[float, Gt(0), Le(1)],
        first_task: bool,
    ) -> None:
        super().__init__(problem, network, optimizer, first_task=first_task)
        self.shrinkage = shrinkage
        self.register_buffer("products", self.products_of(self.width, self.width))

    def add(self, features: Tensor, y: Tensor) -> None:
        super().add(features, y)
        self.products.addmm_(features.T, features)

    @property
    def covariance(self) -> Tensor:
        """S: the mean over all images of (phi - mu_c)(phi - mu_c)^T, each with the mean of its class."""
        between = (self.means * self.counts[:, None]).T @ self.means
        return (self.products - between) / self.counts.sum().clamp(min=1)

    def worked_out(self) -> tuple[Tensor, ...]:
        shrunk = (1 - self.shrinkage) * self.covariance + self.shrinkage * torch.eye(self.width).to(self.products)
        weight = times_inverse(self.means, shrunk)
        return weight, -(weight * self.means).sum(1) / 2

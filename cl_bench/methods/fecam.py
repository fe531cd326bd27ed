"""FeCAM (Goswami et al., 2023): frozen features, and one covariance per class for the distance to its mean."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_bench.config import InputError, NonNegative, Rate
from cl_bench.data.problem import Problem
from cl_bench.methods.parts.frozen_features import FrozenFeatures
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer


class FeCAM(FrozenFeatures):
    """Features are made more normal by Tukey's power, x^beta. Of each class c, with covariance S, V1 the
    mean of its diagonal and V2 the mean of what is off it:

        S_s = S + alpha_1 V1 I + alpha_2 V2 (1 - I)
        N_ij = S_s,ij / (sqrt(S_s,ii) sqrt(S_s,jj))
        distance to c = (u - m)^T N^-1 (u - m)

    where u are the features of an image and m the mean of the class, each made of length 1. The nearest class answers.

    Args:
        tukey: beta; 1 leaves features as they are, which must be where some are negative.
        alpha_1, alpha_2: see above.
        first_task: see `FrozenFeatures`.

    Raises InputError for covariances that this machine can't hold.
    """

    products: Tensor

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        *,
        tukey: Rate,
        alpha_1: NonNegative,
        alpha_2: NonNegative,
        first_task: bool,
    ) -> None:
        super().__init__(problem, network, optimizer, first_task=first_task)
        self.tukey, self.alpha_1, self.alpha_2 = tukey, alpha_1, alpha_2
        n = problem.n_outputs
        what = f"method=fecam: {n} covariances of {self.width} features and their inverses take"
        products = self.products_of(n, self.width, self.width, copies=2, what=what, way="try method=slda")
        self.register_buffer("products", products)
        self._metrics: dict[int, Metric] = {}  # by class, until more of it is taken in

    def features(self, x: Tensor) -> Tensor:
        """Raises InputError for negative features, which have no power."""
        features = super().features(x)
        if self.tukey != 1 and bool((features < 0).any()):
            raise InputError(f"method.tukey={self.tukey}: some features are negative and cannot have this power; set 1")
        return features**self.tukey

    def add(self, features: Tensor, y: Tensor) -> None:
        super().add(features, y)
        for output in y.unique().tolist():
            own = features[y == output]
            self.products[output].addmm_(own.T, own)
            self._metrics.pop(output, None)

    def covariance(self, output: int) -> Tensor:
        """Of a class, unbiased; 0 of a single image."""
        n, mean = self.counts[output], self.sums[output] / self.counts[output].clamp(min=1)
        return (self.products[output] - torch.outer(n * mean, mean)).div_((n - 1).clamp(min=1))

    def metric(self, output: int) -> Metric:
        """N of a class; where a feature of it never varies, of the others alone. Where none does, as in a single
        image, all count alike: without any the class would be at distance 0 from everything."""
        if output not in self._metrics:
            covariance = self.covariance(output)
            if (covariance.diagonal() <= 1e-12 * self.products[output].diagonal()).all():  # nothing, or rounding
                covariance = torch.eye(self.width).to(covariance)
            self._metrics[output] = Metric.of(correlation(shrunk(covariance, self.alpha_1, self.alpha_2)))
        return self._metrics[output]

    def worked_out(self) -> tuple[Tensor, ...]:
        """The means of length 1, (n_outputs, width), and for each class that came what measures distances from it."""
        came = self.counts.nonzero().squeeze(1).tolist()
        return F.normalize(self.means, dim=1), *(self.metric(output).matrix for output in came)

    def scores(self, features: Tensor) -> Tensor:
        """-distance."""
        means = self.answer[0]
        scores = features.new_zeros(len(features), len(means))
        units = F.normalize(features, dim=1)
        for output in self.counts.nonzero().squeeze(1).tolist():
            scores[:, output] = -self.metric(output).squares(units - means[output])
        return scores

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        self._metrics = {}


class Metric(NamedTuple):
    """Distances v^T N^-1 v. A stream has a new N with each mini-batch, and its root takes a third of the time of N^-1.

    matrix: lower triangular, L L^T = N; or the pseudo-inverse of an N that has no such root.
    """

    matrix: Tensor
    singular: bool

    @classmethod
    def of(cls, normal: Tensor) -> Metric:
        root, failed = torch.linalg.cholesky_ex(normal)
        return cls(torch.linalg.pinv(normal, hermitian=True), True) if failed else cls(root, False)

    def squares(self, away: Tensor) -> Tensor:
        """Of vectors (B, width): (B,).

        >>> Metric.of(torch.tensor([[4.0, 0.0], [0.0, 1.0]])).squares(torch.tensor([[2.0, 3.0]])).tolist()
        [10.0]
        """
        if self.singular:
            return (away @ self.matrix * away).sum(1)
        return torch.linalg.solve_triangular(self.matrix, away.T, upper=False).square().sum(0)


def shrunk(covariance: Tensor, alpha_1: float, alpha_2: float) -> Tensor:
    """S + alpha_1 V1 I + alpha_2 V2 (1 - I), see `FeCAM`.

    >>> shrunk(torch.tensor([[3.0, 1.0], [1.0, 1.0]]), 1.0, 1.0).tolist()
    [[5.0, 2.0], [2.0, 3.0]]
    """
    width = len(covariance)
    diagonal, whole = covariance.trace(), covariance.sum()
    off = (whole - diagonal) / max(1, width * (width - 1))
    added = covariance + alpha_2 * off
    added.diagonal().copy_(covariance.diagonal() + alpha_1 * diagonal / width)
    return added


def correlation(covariance: Tensor) -> Tensor:
    """S_ij / (sqrt(S_ii) sqrt(S_jj)); 0 in the row and column of what doesn't vary.

    >>> correlation(torch.tensor([[4.0, 1.0], [1.0, 1.0]])).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    scale = covariance.diagonal().clamp(min=0).sqrt()
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    return covariance * inverse[:, None] * inverse

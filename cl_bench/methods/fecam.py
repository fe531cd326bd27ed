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
    """Predicts the nearest class. Tukey's transformation x^beta makes features more normal. Each class c has a
    covariance S; V1 is the mean of its diagonal, and V2 the mean of its other entries:

        S_s = S + alpha_1 V1 I + alpha_2 V2 (1 - I)
        N_ij = S_s,ij / (sqrt(S_s,ii) sqrt(S_s,jj))
        distance to c = (u - m)^T N^-1 (u - m)

    u are the features of an image, and m is the mean of the class, both scaled to length 1.

    Args:
        tukey: beta; 1 does not change features, and is necessary if some are negative.
        alpha_1: as above; a higher value treats features as less correlated.
        alpha_2: as above; a higher value makes all correlations more equal.
        first_task: see `FrozenFeatures`.

    Raises InputError if the covariances need more memory than this machine has, and for negative features with another
    `tukey` than 1.
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
        self._metrics: dict[int, Metric] = {}  # by class, without classes of which more images came

    def features(self, x: Tensor) -> Tensor:
        """The transformed features. Raises InputError for negative ones, which have no such power."""
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
        """The unbiased covariance of a class, (width, width); 0 for a single image."""
        n, mean = self.counts[output], self.sums[output] / self.counts[output].clamp(min=1)
        return (self.products[output] - torch.outer(n * mean, mean)).div_((n - 1).clamp(min=1))

    def metric(self, output: int) -> Metric:
        """N of a class, over the features that vary in it. If none varies (a single image), all features count equally:
        otherwise the class would have distance 0 from every image."""
        if output not in self._metrics:
            covariance = self.covariance(output)
            if (covariance.diagonal() <= 1e-12 * self.products[output].diagonal()).all():  # 0 up to rounding
                covariance = torch.eye(self.width).to(covariance)
            self._metrics[output] = Metric.of(correlation(shrunk(covariance, self.alpha_1, self.alpha_2)))
        return self._metrics[output]

    def worked_out(self) -> tuple[Tensor, ...]:
        """The means, scaled to length 1, (n_outputs, width), and the matrix of `Metric` for each class so far."""
        came = self.counts.nonzero().squeeze(1).tolist()
        return F.normalize(self.means, dim=1), *(self.metric(output).matrix for output in came)

    def scores(self, features: Tensor) -> Tensor:
        """The negative distance of features (B, width) to each class, (B, n_outputs)."""
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
    """Distances v^T N^-1 v. In a stream N changes with each mini-batch, and a Cholesky factor of N takes a third of the
    time of N^-1.

    matrix: the lower triangular L with L L^T = N; if there is none, the pseudo-inverse of N. singular: whether it is
    the pseudo-inverse.
    """

    matrix: Tensor
    singular: bool

    @classmethod
    def of(cls, normal: Tensor) -> Metric:
        root, failed = torch.linalg.cholesky_ex(normal)
        return cls(torch.linalg.pinv(normal, hermitian=True), True) if failed else cls(root, False)

    def squares(self, away: Tensor) -> Tensor:
        """The distances v^T N^-1 v, (B,), for vectors (B, width).

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
    """S_ij / (sqrt(S_ii) sqrt(S_jj)), with 0 in the row and column of a feature that does not vary.

    >>> correlation(torch.tensor([[4.0, 1.0], [1.0, 1.0]])).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    scale = covariance.diagonal().clamp(min=0).sqrt()
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    return covariance * inverse[:, None] * inverse

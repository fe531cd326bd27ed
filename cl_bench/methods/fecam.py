"""FeCAM (Goswami et al., 2023): frozen features, and for each class the distance by its own covariance."""

from __future__ import annotations

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
        self._inverses: dict[int, Tensor] = {}  # by class, until more of it is taken in

    def features(self, x: Tensor) -> Tensor:
        """Raises InputError for negative features, which have no power."""
        features = super().features(x)
        if self.tukey != 1 and bool((features < 0).any()):
            raise InputError(f"method.tukey={self.tukey}: some features are negative, and have no such power; set 1")
        return features**self.tukey

    def add(self, features: Tensor, y: Tensor) -> None:
        super().add(features, y)
        for output in y.unique().tolist():
            own = features[y == output]
            self.products[output].addmm_(own.T, own)
            self._inverses.pop(output, None)

    def covariance(self, output: int) -> Tensor:
        """Of a class, unbiased; 0 of a single image."""
        n, mean = self.counts[output], self.means[output]
        return (self.products[output] - n * torch.outer(mean, mean)) / (n - 1).clamp(min=1)

    def inverse(self, output: int) -> Tensor:
        """N^-1 of a class; where a feature of it never varies, of the others alone. Where none does, as in a single
        image, all count alike: without any the class would be at distance 0 from everything."""
        if output not in self._inverses:
            covariance = self.covariance(output)
            if (covariance.diagonal() <= 1e-12 * self.products[output].diagonal()).all():  # nothing, or rounding
                covariance = torch.eye(self.width).to(covariance)
            normal = correlation(shrunk(covariance, self.alpha_1, self.alpha_2))
            root, failed = torch.linalg.cholesky_ex(normal)
            self._inverses[output] = (
                torch.linalg.pinv(normal, hermitian=True) if failed else torch.cholesky_inverse(root)
            )
        return self._inverses[output]

    def worked_out(self) -> tuple[Tensor, ...]:
        """The means of length 1, (n_outputs, width), and for each class that came N^-1."""
        came = self.counts.nonzero().squeeze(1).tolist()
        return F.normalize(self.means, dim=1), *map(self.inverse, came)

    def scores(self, features: Tensor) -> Tensor:
        """-distance."""
        means, *inverses = self.answer
        scores = features.new_zeros(len(features), len(means))
        units = F.normalize(features, dim=1)
        for output, inverse in zip(self.counts.nonzero().squeeze(1).tolist(), inverses, strict=True):
            away = units - means[output]
            scores[:, output] = -(away @ inverse * away).sum(1)
        return scores

    def set_extra_state(self, state: dict[str, int]) -> None:
        super().set_extra_state(state)
        self._inverses = {}


def shrunk(covariance: Tensor, alpha_1: float, alpha_2: float) -> Tensor:
    """S + alpha_1 V1 I + alpha_2 V2 (1 - I), see `FeCAM`.

    >>> shrunk(torch.tensor([[3.0, 1.0], [1.0, 1.0]]), 1.0, 1.0).tolist()
    [[5.0, 2.0], [2.0, 3.0]]
    """
    width = len(covariance)
    diagonal, whole = covariance.trace(), covariance.sum()
    off = (whole - diagonal) / max(1, width * (width - 1))
    added = torch.full_like(covariance, 1.0).mul_(alpha_2 * off)
    added.fill_diagonal_(float(alpha_1 * diagonal / width))
    return covariance + added


def correlation(covariance: Tensor) -> Tensor:
    """S_ij / (sqrt(S_ii) sqrt(S_jj)); 0 in the row and column of what doesn't vary.

    >>> correlation(torch.tensor([[4.0, 1.0], [1.0, 1.0]])).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    scale = covariance.diagonal().clamp(min=0).sqrt()
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    return covariance * inverse[:, None] * inverse

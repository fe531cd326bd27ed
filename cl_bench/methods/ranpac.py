"""RanPAC (McDonnell et al., 2023): frozen features, projected at random, and ridge regression on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cl_bench.config import Positive, Rate
from cl_bench.data.problem import Problem
from cl_bench.methods.parts.frozen_features import FrozenFeatures, times_inverse
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer

RIDGES = torch.logspace(-8, 8, 17, dtype=torch.float64)


class RanPAC(FrozenFeatures):
    """Predicts argmax_c h^T (G + ridge I)^-1 Q, with the random features h = relu(phi W) and the sums

        G = sum h h^T,  Q = sum h y^T

    over all images. W (width, projections) is drawn from N(0, 1) and fixed, and y is the one-hot label.

    If no ridge is given, it is the one of 1e-8, 1e-7, ..., 1e8 with the smallest error of generalized cross-validation
    (Golub et al., 1979). This error follows from G and Q, see `least_error`.

    In a stream each mini-batch H (B, M) is predicted before it is added, by H P Q with P = (G + ridge I)^-1. P is
    computed again, with a new ridge, each time the number of images has doubled. In between it is updated (Woodbury):
    P <- P - P H^T (I + H P H^T)^-1 H P. If the ridge is tiny compared with G, rounding spoils these updates. Then the
    classifier is computed again for each mini-batch.

    Args:
        projections: M; more are better, and the time grows with the third power of M; None: h = phi.
        ridge: lambda; None: chosen each time the classifier is computed.
        first_task: see `FrozenFeatures`.

    Raises InputError if G needs more memory than this machine has.
    """

    projection: Tensor
    products: Tensor
    targets: Tensor
    inverse: Tensor
    inverted_at: Tensor
    inverted_with: Tensor

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        *,
        projections: Positive | None,
        ridge: Rate | None,
        first_task: bool,
    ) -> None:
        super().__init__(problem, network, optimizer, first_task=first_task)
        self.ridge, n, copies = ridge, projections or self.width, 3 + problem.online
        if projections:
            what = f"method.projections={projections}: sums of their products need"
            products = self.products_of(n, n, copies=copies, what=what, way="make it smaller")
            self.register_buffer("projection", torch.randn(self.width, n))
        else:
            products = self.products_of(n, n, copies=copies)
        self.projected = projections is not None
        self.register_buffer("products", products)
        self.register_buffer("targets", torch.zeros(problem.n_outputs, n, dtype=torch.float64))  # Q^T
        if problem.online:
            self.register_buffer("inverse", torch.zeros_like(products))  # P
            self.register_buffer("inverted_at", torch.zeros((), dtype=torch.float64))  # number of images at that time
            self.register_buffer("inverted_with", torch.zeros((), dtype=torch.float64))  # the ridge at that time

    def hidden(self, features: Tensor) -> Tensor:
        """h, float64 (B, M), for features phi (B, width)."""
        return (features.to(self.projection.dtype) @ self.projection).relu().double() if self.projected else features

    def add(self, features: Tensor, y: Tensor) -> None:
        super().add(features, y)
        hidden = self.hidden(features)
        self.products.addmm_(hidden.T, hidden)
        self.targets.index_add_(0, y, hidden)
        if self.problem.online:
            self.follow(hidden)

    def follow(self, hidden: Tensor) -> None:
        """Updates P with a mini-batch h (B, M) that was added to the sums."""
        n = self.counts.sum()
        if n >= 2 * self.inverted_at:
            inverse, ridge = self.solved(torch.eye(len(self.products)).to(self.products))
            self.inverse.copy_(inverse)
            self.inverted_at.copy_(n)
            self.inverted_with.copy_(ridge)
        elif not self.ill_conditioned:
            own = self.inverse @ hidden.T
            within = torch.eye(len(hidden)).to(own) + hidden @ own
            self.inverse.addmm_(own, torch.linalg.solve(within, own.T), alpha=-1)

    def worked_out(self) -> tuple[Tensor, ...]:
        weight, ridge = self.solved(self.targets)
        return weight, torch.zeros_like(self.counts), ridge

    def solved(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The rows, (N, M), times the inverse of G + ridge I, and the ridge."""
        if self.ridge is None:
            values, vectors = torch.linalg.eigh(self.products)
            ridge = least_error(values, self.targets @ vectors, self.counts)
            return ((rows @ vectors) / (values.clamp(min=0) + ridge)) @ vectors.T, ridge
        ridge = self.products.new_tensor(self.ridge)
        return self.solved_with(ridge, rows), ridge

    def solved_with(self, ridge: Tensor, rows: Tensor) -> Tensor:
        return times_inverse(rows, self.products + ridge * torch.eye(len(self.products)).to(ridge))

    @property
    def ill_conditioned(self) -> bool:
        """Whether rounding in updates of P exceeds the ridge: float64 has about 16 digits of the largest value of G."""
        return bool(self.inverted_with < 1e-9 * self.products.trace())

    def scores(self, features: Tensor) -> Tensor:
        return self.hidden(features) @ self.answer[0].T

    def online_scores(self, features: Tensor) -> Tensor:
        hidden = self.hidden(features)
        if self.ill_conditioned:
            return hidden @ self.solved_with(self.inverted_with, self.targets).T
        return hidden @ self.inverse @ self.targets.T

    def diagnostics(self) -> dict[str, Any]:
        return {"ridge": float(self.answer[2])}

    @property
    def answer_bytes(self) -> int:
        """The projection too."""
        return super().answer_bytes + (self.projection.nbytes if self.projected else 0)


def least_error(values: Tensor, turned: Tensor, counts: Tensor) -> Tensor:
    """The ridge of `RIDGES` with the smallest error of generalized cross-validation, computed from sums.

    The error is (||Y - H Y||^2 / n) / (1 - trace(H) / n)^2, with the hat matrix H and n images. Ridges with trace(H)
    near n fit every label, so their error is undefined, and they are not chosen.

    Args:
        values: eigenvalues of G, (M,).
        turned: Q^T times the eigenvectors of G, (n_outputs, M).
        counts: number of images of each class, (n_outputs,).

    >>> counts = torch.tensor([30.0, 30.0])
    >>> noise = torch.tensor([[0.5, -0.5]])
    >>> float(least_error(torch.tensor([60.0]), noise.T, counts))
    100000000.0
    """
    n, values = counts.sum().clamp(min=1), values.clamp(min=0)
    ridges = RIDGES.to(values)[:, None]
    kept = values / (values + ridges)  # (ridges, M): the share of each direction that is fitted
    fitted = turned.square().sum(0)
    residual = n - (fitted * (2 / (values + ridges) - values / (values + ridges).square())).sum(1)
    freedom = 1 - kept.sum(1) / n
    error = residual.clamp(min=0) / n / freedom.square()
    return RIDGES.to(values)[error.masked_fill(freedom < 1e-3, torch.inf).argmin()]

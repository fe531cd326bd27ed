"""Nearest class mean (Mensink et al., 2013) on frozen features."""

from __future__ import annotations

from torch import Tensor

from cl_bench.methods.parts.frozen_features import FrozenFeatures


class NCM(FrozenFeatures):
    """Predicts the class with the nearest mean: argmin_c ||phi(x) - mu_c||, with the Euclidean distance.

    The scores are 2 mu_c^T phi - ||mu_c||^2, which is ||phi||^2 minus the squared distance.

    Args:
        first_task: see `FrozenFeatures`.
    """

    def worked_out(self) -> tuple[Tensor, ...]:
        return 2 * self.means, -self.means.square().sum(1)
